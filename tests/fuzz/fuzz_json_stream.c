// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// QMP input, in pieces: what is handed out as a value is parsed as the server
// does, and the request's form is checked.
#include <jansson.h>

#include "control/json_stream.h"
#include "control/qmp_args.h"

static void value(const struct buf *buf)
{
	struct qmp_request request;
	struct err err;
	json_t *json = json_loadb((const char *)buf->data, buf->len, JSON_DECODE_ANY, NULL);

	if (!json)
		return;
	qmp_request_check(&request, json, true, &err);
	json_decref(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct json_stream stream = { 0 };
	size_t used, piece, step = size ? data[0] % 16 + 1 : 1;
	int r;

	while (size) {
		piece = size < step ? size : step;
		r = json_stream_feed(&stream, data, piece, &used);
		if (r == JSON_STREAM_MESSAGE)
			value(&stream.value);
		if (r < 0 || used > piece || (!used && r == JSON_STREAM_MORE))
			__builtin_trap();
		data += used;
		size -= used;
	}
	json_stream_fini(&stream);
	return 0;
}
