// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "arch/message.h"

#include <errno.h>

int arch_message_pack(const ProtobufCMessage *message, struct buf *out, struct err *err)
{
	size_t len = protobuf_c_message_get_packed_size(message);
	uint8_t *to = buf_reserve(out, len);

	if (!to)
		return err_set(err, -ENOMEM, "no memory for %zu bytes of state", len);
	out->len += protobuf_c_message_pack(message, to);
	return 0;
}

ProtobufCMessage *arch_message_unpack(const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t len,
			       const char *what, struct err *err)
{
	ProtobufCMessage *message;

	if (len > MESSAGE_BYTES_MAX) {
		err_set(err, -EPROTO, "%s: %zu bytes are more than any state needs", what, len);
		return NULL;
	}
	message = protobuf_c_message_unpack(type, NULL, len, data);
	if (!message)
		err_set(err, -EPROTO, "%s: not a valid message", what);
	return message;
}
