// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// Kernel files: bzImage and ELF, as they are and with what makes such a file
// recognised put over them, so that any input gets past that. What parses keeps
// the promises of its header.
#include <elf.h>
#include <string.h>

#include "arch/x86/bzimage.h"
#include "arch/x86/elf_image.h"

static void check_bzimage(const uint8_t *data, size_t size)
{
	uint64_t load, need;
	struct bzimage image;
	struct err err;

	if (bzimage_parse(&image, data, size, size, &err))
		return;
	if (image.payload > size || image.payload_bytes > size - image.payload ||
	    image.init_bytes < image.payload_bytes)
		__builtin_trap();
	if (bzimage_place(&image, UINT64_C(1) << 28, &load, &need)) {
		if (need <= UINT64_C(1) << 28)
			__builtin_trap();
	} else if (load < 0x100000 || need != load + image.init_bytes || need > UINT64_C(1) << 28 ||
		   (load != image.preferred && load % image.alignment)) {
		__builtin_trap();
	}
}

static void check_elf(const uint8_t *data, size_t size)
{
	struct ram_file file;
	struct elf elf;
	struct err err;
	unsigned int i;

	ram_file_of_bytes(&file, "fuzz", data, size);
	if (elf_parse(&elf, &file, &err))
		return;
	for (i = 0; i < elf.segments; i++) {
		const struct elf_segment *s = &elf.segment[i];

		if (s->offset > size || s->file_bytes > size - s->offset ||
		    s->mem_bytes < s->file_bytes || s->gpa + s->mem_bytes < s->gpa)
			__builtin_trap();
		if (elf_end(&elf) < s->gpa + s->mem_bytes)
			__builtin_trap();
	}
}

#define BYTES_MAX 8192

static void check_stamped(const uint8_t *data, size_t size)
{
	static const Elf64_Ehdr elf = {
		.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
		.e_type = ET_EXEC, .e_machine = EM_X86_64, .e_phentsize = sizeof(Elf64_Phdr),
	};
	uint8_t copy[BYTES_MAX];

	if (size > sizeof(copy) || size < 0x270)
		return;
	memcpy(copy, data, size);
	memcpy(copy, elf.e_ident, sizeof(elf.e_ident));
	memcpy(copy + offsetof(Elf64_Ehdr, e_type), &elf.e_type, 4);	/* and the machine */
	memcpy(copy + offsetof(Elf64_Ehdr, e_phentsize), &elf.e_phentsize, 2);
	check_elf(copy, size);
	memcpy(copy, data, size);
	memcpy(copy + 0x1fe, "\x55\xaa", 2);
	memcpy(copy + 0x202, "HdrS\x0f\x02", 6);
	copy[0x211] |= 1;
	copy[0x236] |= 1;
	check_bzimage(copy, size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (bzimage_is(data, size))
		check_bzimage(data, size);
	if (elf_is(data, size))
		check_elf(data, size);
	check_stamped(data, size);
	return 0;
}
