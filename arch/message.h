/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * State as protobuf messages, in and out of buffers.
 */
#ifndef POSTERN_ARCH_MESSAGE_H
#define POSTERN_ARCH_MESSAGE_H

#include <protobuf-c/protobuf-c.h>

#include "base/buf.h"
#include "base/err.h"

/* More than any message can need; keeps a hostile one from making the parser allocate. */
#define MESSAGE_BYTES_MAX (1u << 20)

/* Appends the packed message. */
int arch_message_pack(const ProtobufCMessage *message, struct buf *out, struct err *err);

/* Unpacks, or NULL with err set (-EPROTO); to be freed with protobuf_c_message_free_unpacked. */
ProtobufCMessage *arch_message_unpack(const ProtobufCMessageDescriptor *type, const uint8_t *data,
				      size_t len, const char *what, struct err *err);

#endif
