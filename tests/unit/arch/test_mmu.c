// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "walk.h"

#include "arch/x86/mmu.h"

#define RAM (16 << 20)

static int make(void **state)
{
	(void)state;
	return walk_make(GPA(0), RAM);
}

static void test_modes(void **state)
{
	const uint64_t pg = 1ull << 31, pae = 1 << 5, la57 = 1 << 12, lma = 1 << 10;

	(void)state;
	assert_int_equal(mmu_mode(1, 0, 0), MMU_FLAT);
	assert_int_equal(mmu_mode(pg, 0, 0), MMU_32);
	assert_int_equal(mmu_mode(pg, 1 << 4, 0), MMU_32 | MMU_PSE);
	assert_int_equal(mmu_mode(pg, pae, 0), MMU_PAE);
	assert_int_equal(mmu_mode(pg, pae, lma), MMU_LONG_4);
	assert_int_equal(mmu_mode(pg, pae | la57, lma), MMU_LONG_5);
}

static void test_flat(void **state)
{
	const struct arch_mmu mmu = { .mode = MMU_FLAT };

	(void)state;
	check(&mmu, 0x12345, 0x12345, 0x1000 - 0x345);
}

/* Four levels at 0x1000, and a fifth on top at 0x5000; bits 63 and 5 of entries must not matter. */
static void test_long(void **state)
{
	struct arch_mmu mmu = { .root = 0x1000 | 0x18, .mode = MMU_LONG_4 };
	const uint64_t nx = 1ull << 63;

	(void)state;
	put64(ram + 0x1000 + 8 * 0x1ff, 0x2000 | 0x27);
	put64(ram + 0x2000 + 8 * 1, 0x3000 | 7);
	put64(ram + 0x2000 + 8 * 2, 0x40000000 | 0x87 | nx);	/* 1 GiB */
	put64(ram + 0x3000 + 8 * 3, 0x4000 | 7);
	put64(ram + 0x3000 + 8 * 4, 0x600000 | 0x87 | 0x1000);	/* 2 MiB, PAT bit */
	put64(ram + 0x4000 + 8 * 5, 0x7000 | 0x63 | nx);
	check(&mmu, 0xffffff8040605123, 0x7123, 0x1000 - 0x123);
	check(&mmu, 0xffffff8040812345, 0x612345, 0x200000 - 0x12345);
	check(&mmu, 0xffffff8080000000, 0x40000000, 1 << 30);
	check_fault(&mmu, 0xffffff8040606000);
	check_fault(&mmu, 0xffffff80c0000000);
	check_fault(&mmu, 0x0000ff8040605123);			/* not canonical */

	put64(ram + 0x5000 + 8 * 0x1ff, 0x1000 | 7);
	mmu = (struct arch_mmu){ .root = 0x5000, .mode = MMU_LONG_5 };
	check(&mmu, 0xffffff8040605123, 0x7123, 0x1000 - 0x123);
	check_fault(&mmu, 0x0100000000000000);
	check_fault(&mmu, 0x0000000000001000);
}

static void test_pae(void **state)
{
	const struct arch_mmu mmu = { .root = 0x8020, .mode = MMU_PAE };

	(void)state;
	put64(ram + 0x8020 + 8 * 3, 0x9000 | 1);
	put64(ram + 0x9000 + 8 * 1, 0x800000 | 0x83);
	put64(ram + 0x9000 + 8 * 2, 0xa000 | 3);
	put64(ram + 0xa000 + 8 * 7, 0xb000 | 3);
	check(&mmu, 0xc0200010, 0x800010, 0x200000 - 0x10);
	check(&mmu, 0xc0407010, 0xb010, 0x1000 - 0x10);
	check_fault(&mmu, 0x80000000);
	check_fault(&mmu, 0x1c0200010);
}

static void test_32(void **state)
{
	struct arch_mmu mmu = { .root = 0xc000, .mode = MMU_32 | MMU_PSE };

	(void)state;
	put32(ram + 0xc000 + 4 * 0x300, 0x00c00083 | 2 << 13);	/* 4 MiB at 8 GiB + 12 MiB */
	put32(ram + 0xc000 + 4 * 0x301, 0xd000 | 3);
	put32(ram + 0xd000 + 4 * 0x3ff, 0xe000 | 3);
	check(&mmu, 0xc0012345, 0x200c12345, 0x400000 - 0x12345);
	check(&mmu, 0xc07ffabc, 0xeabc, 0x1000 - 0xabc);
	check_fault(&mmu, 0xc0400000);
	/* Without PSE the large bit means nothing, and the address is that of a table. */
	mmu.mode = MMU_32;
	put32(ram + 0xc000 + 4 * 0x300, 0xd000 | 0x83);
	check(&mmu, 0xc03ff001, 0xe001, 0xfff);
}

/* Tables that lie outside RAM are a fault, not a crash. */
static void test_outside(void **state)
{
	const struct arch_mmu root = { .root = 0xfffffffff000, .mode = MMU_LONG_4 };
	const struct arch_mmu inner = { .root = 0xf000, .mode = MMU_LONG_4 };
	const struct arch_mmu senseless = { .root = 0x1000, .mode = 9 };

	(void)state;
	check_fault(&root, 0x1000);
	put64(ram + 0xf000, RAM | 7);
	check_fault(&inner, 0x1000);
	check_fault(&senseless, 0x1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_modes),
		cmocka_unit_test(test_flat),
		cmocka_unit_test(test_long),
		cmocka_unit_test(test_pae),
		cmocka_unit_test(test_32),
		cmocka_unit_test(test_outside),
	};

	return cmocka_run_group_tests(tests, make, drop);
}
