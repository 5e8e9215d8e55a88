// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// arm64 kernel files. What parses keeps the promises of its header.
#include "arch/arm64/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct image image;
	struct err err;

	if (!image_parse(&image, data, size, size, &err) &&
	    (image.bytes < size || image.bytes > UINT64_C(1) << 31 || image.offset >= HUGE_BYTES))
		__builtin_trap();
	return 0;
}
