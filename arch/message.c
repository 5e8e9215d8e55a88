// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "arch/message.h"

#include <errno.h>

#include "base/proto.h"

/* Of arm64's interrupt controller, mostly: a number a register. */
#define FIELDS_MAX 65536u

int arch_message_pack(const ProtobufCMessage *message, struct buf *out, struct err *err)
{
	size_t len = protobuf_c_message_get_packed_size(message);
	uint8_t *to = buf_reserve(out, len);

	if (!to)
		return err_set(err, -ENOMEM, "no memory for %zu bytes of state", len);
	out->len += protobuf_c_message_pack(message, to);
	return 0;
}

ProtobufCMessage *arch_message_unpack(const ProtobufCMessageDescriptor *type, const uint8_t *data,
				      size_t len, const char *what, struct err *err)
{
	ProtobufCMessage *message;
	struct err why;

	if (len > MESSAGE_BYTES_MAX) {
		err_set(err, -EPROTO, "%s: %zu bytes are more than any state needs", what, len);
		return NULL;
	}
	message = proto_unpack(type, data, len, FIELDS_MAX, &why);
	if (!message)
		err_set(err, -EPROTO, "%s: %s", what, why.text);
	return message;
}
