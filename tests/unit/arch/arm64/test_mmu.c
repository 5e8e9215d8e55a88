// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "../walk.h"

#include "arch/arm64/mmu.h"

#define BASE 0x40000000ull
#define RAM (16ull << 20)
#define TABLE(n) (BASE + 0x10000 * (n))

#define VALID 1ull
#define NEXT 3ull	/* a table, or at the last level a page */
/* Attributes that a walk must not take for address bits. */
#define NOISE 0x0060000000000704ull

/* T0SZ and T1SZ 16: 48 bits; granules of 4 KiB in both halves. */
#define TCR_4K (MMU_ON | 16 | 16ull << 16 | 2ull << 30)

static int make(void **state)
{
	(void)state;
	return walk_make(GPA(BASE), RAM);
}

static void entry(uint64_t table, unsigned int index, uint64_t value)
{
	put64(ram + (table - BASE + index * 8), value);
}

static void test_off(void **state)
{
	const struct arch_mmu mmu = { .mode = TCR_4K & ~MMU_ON };

	(void)state;
	check(&mmu, 0x40001234, 0x40001234, 0xdcc);
}

static void test_four_levels_of_4k(void **state)
{
	/* An ASID and the CnP bit stand beside the address. */
	const struct arch_mmu mmu = { .root = TABLE(1) | 1 | 7ull << 48,
				      .other = TABLE(5),
				      .mode = TCR_4K };

	(void)state;
	entry(TABLE(1), 1, TABLE(2) | NEXT);
	entry(TABLE(2), 2, TABLE(3) | NEXT);
	entry(TABLE(3), 3, TABLE(4) | NEXT);
	entry(TABLE(4), 4, 0x41234000 | NEXT | NOISE);
	check(&mmu, 1ull << 39 | 2ull << 30 | 3ull << 21 | 4ull << 12 | 0x567, 0x41234567, 0xa99);
	/* The top byte may be a tag. */
	check(&mmu, 0x5aull << 56 | 1ull << 39 | 2ull << 30 | 3ull << 21 | 4ull << 12, 0x41234000,
	      0x1000);
	check_fault(&mmu, 1ull << 39 | 2ull << 30 | 3ull << 21 | 5ull << 12);
	/* Blocks of 1 GiB and 2 MiB. */
	entry(TABLE(2), 5, 0x80000000 | VALID | NOISE);
	check(&mmu, 1ull << 39 | 5ull << 30 | 0x12345678, 0x92345678, (1ull << 30) - 0x12345678);
	entry(TABLE(3), 6, 0x40200000 | VALID);
	check(&mmu, 1ull << 39 | 2ull << 30 | 6ull << 21 | 0x1fffff, 0x403fffff, 1);
	/* At the last level a block is no page. */
	entry(TABLE(4), 7, 0x41234000 | VALID);
	check_fault(&mmu, 1ull << 39 | 2ull << 30 | 3ull << 21 | 7ull << 12);
	/* A table that lies where no RAM is. */
	entry(TABLE(1), 9, 0x1000 | NEXT);
	check_fault(&mmu, 9ull << 39);
	/* The kernel's half. */
	entry(TABLE(5), 0x1ff, TABLE(2) | NEXT);
	check(&mmu, 0xffffff8140000001, 0x80000001, (1ull << 30) - 1);
	check_fault(&mmu, 0x0001000000000000);
	check_fault(&mmu, 0xfffe000000000000);
}

static void test_fewer_bits_and_no_tables(void **state)
{
	/* 39 bits: three levels. */
	struct arch_mmu mmu = { .root = TABLE(6), .mode = MMU_ON | 25 | 25ull << 16 | 2ull << 30 };

	(void)state;
	entry(TABLE(6), 1, 0x80000000 | VALID);
	check(&mmu, 1ull << 30 | 5, 0x80000005, (1ull << 30) - 5);
	check_fault(&mmu, 1ull << 39);
	mmu.mode |= 1 << 7;
	check_fault(&mmu, 1ull << 30 | 5);
}

static void test_other_granules(void **state)
{
	/* 64 KiB, 48 bits: levels 1 (64 entries), 2, 3. */
	struct arch_mmu mmu = { .root = TABLE(7), .mode = MMU_ON | 16 | 1ull << 14 };

	(void)state;
	entry(TABLE(7), 2, TABLE(8) | NEXT);
	entry(TABLE(8), 3, TABLE(9) | NEXT);
	entry(TABLE(9), 4, 0x40560000 | NEXT);
	check(&mmu, 2ull << 42 | 3ull << 29 | 4ull << 16 | 0x89ab, 0x405689ab, 0x10000 - 0x89ab);
	/* 16 KiB, 47 bits: levels 1, 2, 3. */
	mmu = (struct arch_mmu){ .root = TABLE(10), .mode = MMU_ON | 17 | 2ull << 14 };
	entry(TABLE(10), 2, TABLE(11) | NEXT);
	entry(TABLE(11), 3, 0x42000000 | VALID);
	check(&mmu, 2ull << 36 | 3ull << 25 | 0x1abcdef, 0x43abcdef, (1ull << 25) - 0x1abcdef);
	/* Not a granule. */
	mmu.mode = MMU_ON | 17 | 3ull << 14;
	check_fault(&mmu, 2ull << 36);
	/* Nonsense of a hostile guest. */
	for (mmu.mode = MMU_ON; mmu.mode < (MMU_ON | 0x10000); mmu.mode += 0x41)
		arch_translate(mem, &mmu, GVA(0), GUP_NOWAIT, NULL, &(gpa_t){ 0 }, &(uint64_t){ 0 });
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_off),
		cmocka_unit_test(test_four_levels_of_4k),
		cmocka_unit_test(test_fewer_bits_and_no_tables),
		cmocka_unit_test(test_other_granules),
	};

	return cmocka_run_group_tests(tests, make, drop);
}
