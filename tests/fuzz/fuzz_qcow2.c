// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// An image's first bytes: what its header says of other files.
#include <stdint.h>
#include <string.h>

#include "device/disk/qcow2_header.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t wanted = qcow2_header_bytes(data, size);
	struct qcow2_header header;
	struct err err;

	if (wanted > QCOW2_CLUSTER_MAX)
		__builtin_trap();
	if (qcow2_header_parse(&header, data, size, &err))
		return 0;
	/* What was taken is text, and the size a disk's. */
	if (!wanted || !header.bytes || header.bytes > INT64_MAX || !memchr(header.backing, 0,
			sizeof(header.backing)) ||
	    !memchr(header.backing_format, 0, sizeof(header.backing_format)) ||
		    !memchr(header.data_file, 0, sizeof(header.data_file)))
		__builtin_trap();
	return 0;
}
