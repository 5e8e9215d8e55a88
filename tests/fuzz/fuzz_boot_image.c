// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// Kernel files: bzImage and ELF. What parses keeps the promises of its header.
#include "arch/x86/bzimage.h"
#include "arch/x86/elf_image.h"

static void check_bzimage(const uint8_t *data, size_t size)
{
	uint64_t load, need;
	struct bzimage image;
	struct err err;

	if (bzimage_parse(&image, data, size, &err))
		return;
	if (image.payload > size || image.payload_bytes > size - image.payload ||
	    image.init_bytes < image.payload_bytes)
		__builtin_trap();
	bzimage_place(&image, UINT64_C(1) << 28, &load, &need);
}

static void check_elf(const uint8_t *data, size_t size)
{
	struct elf elf;
	struct err err;
	unsigned int i;

	if (elf_parse(&elf, data, size, &err))
		return;
	for (i = 0; i < elf.segments; i++) {
		const struct elf_segment *s = &elf.segment[i];

		if (s->offset > size || s->file_bytes > size - s->offset || s->mem_bytes < s->file_bytes ||
		    s->gpa + s->mem_bytes < s->gpa)
			__builtin_trap();
	}
	elf_end(&elf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (bzimage_is(data, size))
		check_bzimage(data, size);
	if (elf_is(data, size))
		check_elf(data, size);
	return 0;
}
