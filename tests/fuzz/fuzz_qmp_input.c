// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// A QMP message with numbers of any size: what jansson takes is taken
// unchanged, and an id's text is that of the member "id".
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "control/json_stream.h"
#include "control/qmp_input.h"

#define FLAGS (JSON_DECODE_ANY | JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL)

/* The id by itself is what the message has, as far as jansson can hold it. */
static void check_id(const struct qmp_input *input)
{
	const json_t *is =
		json_is_object(input->message) ? json_object_get(input->message, "id") : NULL;
	struct qmp_input id;
	struct err err;

	if (!input->message || !is != !input->id)
		__builtin_trap();
	if (!is)
		return;
	if (strpbrk(input->id, "\r\n") ||
	    qmp_input_parse(&id, input->id, strlen(input->id), &err) < 0 ||
	    !json_equal(id.message, is))
		__builtin_trap();
	qmp_input_fini(&id);
}

static void value(const struct buf *buf)
{
	json_t *plain = json_loadb((const char *)buf->data, buf->len, FLAGS, NULL);
	struct qmp_input input;
	struct err err;
	uint64_t number;
	int r = qmp_input_parse(&input, (char *)buf->data, buf->len, &err);

	if (plain && (r < 0 || input.nnumbers || !json_equal(plain, input.message)))
		__builtin_trap();
	if (!r)
		check_id(&input);
	if (!r)
		qmp_input_uint(&input, json_object_get(input.message, "x"), &number);
	qmp_input_fini(&input);
	json_decref(plain);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct json_stream stream = { 0 };
	size_t used;

	while (size) {
		if (json_stream_feed(&stream, data, size, &used) == JSON_STREAM_MESSAGE)
			value(&stream.value);
		data += used;
		size -= used;
	}
	json_stream_fini(&stream);
	return 0;
}
