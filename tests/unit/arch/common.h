/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What the tests of arch/ share: cmocka with what it needs, and small images made on the spot.
 */
#ifndef POSTERN_TESTS_UNIT_ARCH_COMMON_H
#define POSTERN_TESTS_UNIT_ARCH_COMMON_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"

#define assert_err(result, want, e, part) \
	do { \
		assert_int_equal(result, want); \
		assert_int_equal((e).code, want); \
		if (!strstr((e).text, part)) \
			fail_msg("'%s' is not in '%s'", part, (e).text); \
	} while (0)

/* A bzImage whose kernel is 8 KiB of 0x90 at file offset 1024 (one set-up sector). */
#define TEST_BZIMAGE_BYTES (1024 + 8192)
static inline void test_bzimage(uint8_t *to)
{
	memset(to, 0, TEST_BZIMAGE_BYTES);
	to[0x1f1] = 1;
	put32(to + 0x1f4, 8192 / 16);
	put16(to + 0x1fe, 0xaa55);
	to[0x200] = 0xeb;
	to[0x201] = 0x268 - 0x202;
	memcpy(to + 0x202, "HdrS", 4);
	put16(to + 0x206, 0x20f);
	to[0x211] = 1;				/* loadflags */
	put32(to + 0x22c, 0x7fffffff);		/* initrd_addr_max */
	put32(to + 0x230, 0x200000);		/* kernel_alignment */
	to[0x234] = 1;				/* relocatable */
	put16(to + 0x236, 1);			/* xloadflags */
	put32(to + 0x238, 2047);			/* cmdline_size */
	put64(to + 0x258, 0x1000000);		/* pref_address */
	put32(to + 0x260, 0x400000);		/* init_size */
	memset(to + 1024, 0x90, 8192);
}

/*
 * An ELF of two segments and a note: 16 bytes at 1 MiB (the entry) with 0x2000
 * in memory, 8 bytes at 2 MiB; the note of a bare guest with its page table at
 * 1 MiB + 0x1000, when `bare`.
 */
#define TEST_ELF_BYTES 0x200
#define TEST_ELF_PHDR 64
#define TEST_ELF_NOTE 0x100
#define TEST_ELF_DATA 0x180
static inline void test_elf(uint8_t *to, int bare)
{
	uint8_t *p = to + TEST_ELF_PHDR;

	memset(to, 0, TEST_ELF_BYTES);
	memcpy(to, "\177ELF\2\1\1", 7);
	put16(to + 16, 2);			/* ET_EXEC */
	put16(to + 18, 62);			/* EM_X86_64 */
	put64(to + 24, 0x100000);		/* e_entry */
	put64(to + 32, TEST_ELF_PHDR);
	put16(to + 54, 56);
	put16(to + 56, bare ? 3 : 2);
	put32(p, 1);				/* PT_LOAD */
	put64(p + 8, TEST_ELF_DATA);
	put64(p + 24, 0x100000);			/* p_paddr */
	put64(p + 32, 16);
	put64(p + 40, 0x2000);
	p += 56;
	put32(p, 1);
	put64(p + 8, TEST_ELF_DATA + 16);
	put64(p + 24, 0x200000);
	put64(p + 32, 8);
	put64(p + 40, 8);
	p += 56;
	put32(p, 4);				/* PT_NOTE */
	put64(p + 8, TEST_ELF_NOTE);
	put64(p + 32, 12 + 8 + 56);
	memset(to + TEST_ELF_DATA, 0xab, 24);
	p = to + TEST_ELF_NOTE;
	put32(p, 8);
	put32(p + 4, 56);
	put32(p + 8, 1);
	memcpy(p + 12, "postern", 8);
	p += 20;
	put32(p, 1);				/* version */
	put32(p + 4, 4);				/* max_cpus */
	put64(p + 8, 0x101000);			/* cr3 */
	put64(p + 16, 0x100000);			/* entry */
	put64(p + 24, 0x180000);			/* stack_top */
	put64(p + 32, 0x1000);
	put64(p + 40, 0x110000);
	put64(p + 48, 0x120000);
}

#endif
