/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * 64-bit ELF executables: an uncompressed Linux kernel, or the bare guest, known by its note.
 */
#ifndef POSTERN_ARCH_X86_ELF_IMAGE_H
#define POSTERN_ARCH_X86_ELF_IMAGE_H

#include "arch/ram.h"
#include "base/err.h"
#include "base/types.h"

#define ELF_SEGMENTS_MAX 32u

struct elf_segment {
	uint64_t gpa;		/* where it goes */
	uint64_t offset;	/* of its bytes in the file */
	uint64_t file_bytes;
	uint64_t mem_bytes;	/* what lies behind the file's bytes is zero */
};

/* The bare guest's note; see tests/bare/bare.h. */
struct elf_bare {
	uint32_t max_cpus;
	uint64_t cr3, entry, stack_top, stack_stride, config, stats;
};

struct elf {
	unsigned int segments;
	struct elf_segment segment[ELF_SEGMENTS_MAX];	/* ascending, never overlapping, never empty */
	uint64_t entry;
	bool bare;
	struct elf_bare note;
};

bool elf_is(const uint8_t *data, size_t len);

/*
 * Checks and reads. -EINVAL and what is wrong; ram_file_read's errors. After
 * success each segment's bytes lie in the file, its addresses do not wrap, and
 * the entry lies in a segment.
 */
int elf_parse(struct elf *elf, const struct ram_file *file, struct err *err);

/* The address after the last segment. */
uint64_t elf_end(const struct elf *elf);

#endif
