// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "fixture.h"

#include <errno.h>
#include <string.h>

static void test_bad_ranges_are_refused(void **unused)
{
	static const struct {
		struct memory_range range[2];
		unsigned int n;
	} bad[] = {
		{ { { { 0 }, 2 << 20 } }, 0 },
		{ { { { 0 }, 0 } }, 1 },
		{ { { { 0 }, 4096 } }, 1 },
		{ { { { 4096 }, 2 << 20 } }, 1 },
		{ { { { 0 }, 4 << 20 }, { { 2 << 20 }, 2 << 20 } }, 2 },
		{ { { { 4 << 20 }, 2 << 20 }, { { 0 }, 2 << 20 } }, 2 },
		{ { { { UINT64_MAX - (2 << 20) + 1 }, 2 << 20 } }, 1 },
	};
	struct memory *mem;
	struct err err;
	size_t i;

	(void)unused;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		err.text[0] = 0;
		assert_int_equal(memory_new(&mem, bad[i].range, bad[i].n, &err), -EINVAL);
		assert_int_not_equal(err.text[0], 0);
	}
}

static void test_is_ram_knows_the_hole(void **unused)
{
	struct memory *mem = memory_for_test(4, 2, false, NULL);

	(void)unused;
	assert_true(memory_is_ram(mem, GPA(0), 4 << 20));
	assert_false(memory_is_ram(mem, GPA(0), (4 << 20) + 1));
	assert_false(memory_is_ram(mem, GPA(4 << 20), 1));
	assert_true(memory_is_ram(mem, GPA((UINT64_C(4) << 30) + (2 << 20) - 1), 1));
	assert_false(memory_is_ram(mem, GPA((UINT64_C(4) << 30) + (2 << 20) - 1), 2));
	assert_false(memory_is_ram(mem, GPA(UINT64_MAX), 2));
	assert_false(memory_is_ram(mem, GPA(0), 0));
	memory_free(mem);
}

static void test_plain_memory_is_present_and_zero(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, false, NULL);
	struct memory_stats stats;
	uint64_t word = 1;

	(void)unused;
	memory_stats(mem, &stats);
	assert_int_equal(stats.missing, 0);
	assert_false(memory_is_late(mem));
	assert_int_equal(memory_page_state(mem, GFN(511)), PAGE_PRESENT);
	assert_int_equal(gup_read(mem, GPA((2 << 20) - 8), &word, 8, GUP_NOWAIT, NULL), 0);
	assert_int_equal(word, 0);
	memory_free(mem);
}

static void test_missing_bitmap(void **unused)
{
	struct memory *mem = memory_for_test(2, 2, true, NULL);
	uint8_t bits[64];

	(void)unused;
	assert_int_equal(memory_missing_bitmap(mem, GFN(0), 512, bits), 512);
	assert_int_equal(memory_fill(mem, GFN(3), 2, NULL), 2);
	assert_int_equal(memory_missing_bitmap(mem, GFN(1), 10, bits), 8);
	assert_int_equal(bits[0], 0xf3);
	assert_int_equal(bits[1], 0x03);
	assert_int_equal(memory_missing_bitmap(mem, GFN(1), 512, bits), -EFAULT);
	memory_free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bad_ranges_are_refused),
		cmocka_unit_test(test_is_ram_knows_the_hole),
		cmocka_unit_test(test_plain_memory_is_present_and_zero),
		cmocka_unit_test(test_missing_bitmap),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
