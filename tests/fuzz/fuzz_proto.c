// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// A message of every kind of field: what is looked through and found good is
// unpacked by protobuf-c, and can be packed and unpacked again.
#include <stdlib.h>

#include "base/proto.h"
#include "proto.pb-c.h"

#define FIELDS_MAX 256

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const ProtobufCMessageDescriptor *descriptor = &test__tree__descriptor;
	Test__Tree *tree, *again;
	uint8_t *bytes;
	struct err err;
	size_t len;

	if (proto_check(descriptor, data, size, FIELDS_MAX, &err))
		return 0;
	tree = proto_unpack(descriptor, data, size, FIELDS_MAX, &err);
	if (!tree)
		__builtin_trap();
	len = test__tree__get_packed_size(tree);
	bytes = malloc(len + 1);
	if (test__tree__pack(tree, bytes) != len)
		__builtin_trap();
	again = proto_unpack(descriptor, bytes, len, FIELDS_MAX, &err);
	if (!again)
		__builtin_trap();
	test__tree__free_unpacked(again, NULL);
	test__tree__free_unpacked(tree, NULL);
	free(bytes);
	return 0;
}
