/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Page tables in memory of the test's, and what a walk through them finds.
 */
#ifndef POSTERN_TESTS_UNIT_ARCH_WALK_H
#define POSTERN_TESTS_UNIT_ARCH_WALK_H

#include "arch/arch.h"
#include "common.h"

static struct memory *mem;
static uint8_t *ram;

static inline int walk_make(gpa_t base, uint64_t bytes)
{
	const struct memory_range range = { .base = base, .len_bytes = bytes };
	unsigned int n;

	if (memory_new(&mem, &range, 1, NULL))
		return -1;
	ram = memory_regions(mem, &n)[0].host;
	return 0;
}

static inline int drop(void **state)
{
	(void)state;
	memory_shut(mem);
	memory_free(mem);
	return 0;
}

static inline void check(const struct arch_mmu *mmu, uint64_t gva, uint64_t want,
			 uint64_t want_left)
{
	uint64_t left = 0;
	gpa_t gpa = GPA(0);

	assert_int_equal(arch_translate(mem, mmu, GVA(gva), GUP_NOWAIT, NULL, &gpa, &left), 0);
	assert_int_equal(gpa.v, want);
	assert_int_equal(left, want_left);
}

static inline void check_fault(const struct arch_mmu *mmu, uint64_t gva)
{
	uint64_t left;
	gpa_t gpa;

	assert_int_equal(arch_translate(mem, mmu, GVA(gva), GUP_NOWAIT, NULL, &gpa, &left),
			 -EFAULT);
}

#endif
