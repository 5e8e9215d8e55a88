/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Protocol buffers from outside: looked through before they are unpacked, since protobuf-c
 * allocates what the bytes ask for, descends as deep as they say, and takes a submessage that
 * comes twice for NULL. Every message of a peer's or of a file's is unpacked here;
 * tools/check_layers sees to that. Pure; any thread.
 */
#ifndef POSTERN_BASE_PROTO_H
#define POSTERN_BASE_PROTO_H

#include <protobuf-c/protobuf-c.h>
#include <stdint.h>

#include "base/err.h"

/* More than a device's state can have. */
#define PROTO_FIELDS_MAX 4096u
/* Messages in messages. */
#define PROTO_DEPTH_MAX 8

/*
 * May these bytes be unpacked as such a message? Every field, known or not, is well-formed and
 * of its declared type, there are at most fields_max of them (of the message and of all in it,
 * each time that they come, and each element of a packed one) and PROTO_DEPTH_MAX deep, and no
 * submessage and no choice of a oneof comes twice. 0, or -EINVAL that names the message and
 * what is wrong with it. Encoding: protobuf.dev/programming-guides/encoding.
 */
int proto_check(const ProtobufCMessageDescriptor *descriptor, const void *data, size_t len,
		unsigned int fields_max, struct err *err);

/*
 * Checks and unpacks. The message, to be cast to the descriptor's type and freed with its
 * ..._free_unpacked(message, NULL); or NULL, and -EINVAL or -ENOMEM in err.
 */
void *proto_unpack(const ProtobufCMessageDescriptor *descriptor, const void *data, size_t len,
		   unsigned int fields_max, struct err *err);

#endif
