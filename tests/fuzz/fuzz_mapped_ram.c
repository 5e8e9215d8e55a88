// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// A file of QEMU's, as far as the list of its RAM blocks. What is accepted can be read without a
// look at the file's length but for pages.
#include <string.h>

#include "snapshot/mapped_ram.h"

struct input {
	const uint8_t *data;
	size_t size;
};

static int input_read(void *arg, uint64_t at, void *data, size_t len, struct err *err)
{
	const struct input *input = arg;

	(void)err;
	if (at > input->size || len > input->size - at)
		__builtin_trap();
	memcpy(data, input->data + at, len);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input bytes = { data, size };
	const struct mapped_ram_input input = { .read = input_read, .arg = &bytes, .bytes = size };
	struct mapped_ram ram;
	struct err err;
	unsigned int i;

	if (mapped_ram_parse(&ram, &input, 0, &err))
		return 0;
	if (!ram.n)
		__builtin_trap();
	for (i = 0; i < ram.n; i++) {
		const struct mapped_ram_block *block = &ram.blocks[i];

		if (!block->bytes || block->bytes % PAGE_BYTES || block->bitmap_offset > size ||
		    mapped_ram_bitmap_bytes(block) > size - block->bitmap_offset ||
		    block->pages_offset + block->bytes < block->bytes)
			__builtin_trap();
	}
	return 0;
}
