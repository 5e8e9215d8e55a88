// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "fixture.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "memory/internal.h"

#define PAGES 512

/* Harvests all of the first region; tells which pages there were. */
static int64_t harvest(struct memory *mem, uint8_t bits[PAGES / 8])
{
	memset(bits, 0, PAGES / 8);
	return memory_harvest_dirty(mem, GFN(0), PAGES, bits);
}

static bool has(const uint8_t *bits, uint64_t page)
{
	return bits[page / 8] >> (page % 8) & 1;
}

static void write_at(struct memory *mem, uint64_t page)
{
	assert_int_equal(gup_write(mem, gfn_to_gpa(GFN(page)), "written", 8, GUP_NOWAIT, NULL), 0);
}

static void test_what_was_written_is_told_once(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, false, NULL);
	uint8_t bits[PAGES / 8], byte;

	(void)unused;
	assert_int_equal(harvest(mem, bits), 0);
	write_at(mem, 3);
	write_at(mem, 3);
	write_at(mem, 64);
	write_at(mem, 511);
	/* Over a page's end: both. */
	assert_int_equal(gup_write(mem, GPA(101 * PAGE_BYTES - 4), "12345678", 8, GUP_NOWAIT, NULL), 0);
	assert_int_equal(gup_read(mem, GPA(200 * PAGE_BYTES), &byte, 1, GUP_NOWAIT, NULL), 0);
	assert_int_equal(harvest(mem, bits), 5);
	assert_true(has(bits, 3) && has(bits, 64) && has(bits, 100) && has(bits, 101) && has(bits, 511));
	assert_int_equal(harvest(mem, bits), 0);
	write_at(mem, 64);
	assert_int_equal(harvest(mem, bits), 1);
	assert_true(has(bits, 64));
	memory_free(mem);
}

static void test_parts_are_harvested_and_other_bits_stay(void **unused)
{
	struct memory *mem = memory_for_test(2, 2, false, NULL);
	const uint64_t high = UINT64_C(1) << 20;
	uint8_t bits[3] = { 0x01, 0x00, 0xf0 };

	(void)unused;
	write_at(mem, 9);
	write_at(mem, 10);
	write_at(mem, 25);
	write_at(mem, high + 7);
	/* Pages 10 to 26, none of their bits at a byte's boundary. */
	assert_int_equal(memory_harvest_dirty(mem, GFN(10), 17, bits), 2);
	assert_int_equal(bits[0], 0x01);
	assert_int_equal(bits[1], 0x80);
	assert_int_equal(bits[2], 0xf0);
	assert_int_equal(memory_harvest_dirty(mem, GFN(9), 1, bits), 1);
	assert_int_equal(memory_harvest_dirty(mem, GFN(high), 8, bits), 1);
	assert_int_equal(bits[0], 0x81);
	assert_int_equal(memory_harvest_dirty(mem, GFN(511), 2, bits), -EFAULT);
	assert_int_equal(memory_harvest_dirty(mem, GFN(0), 0, bits), -EFAULT);
	assert_int_equal(memory_harvest_dirty(mem, GFN(UINT64_MAX), 2, bits), -EFAULT);
	memory_free(mem);
}

static void test_what_a_source_brings_is_not_written(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	uint8_t bits[PAGES / 8], page[PAGE_BYTES];

	(void)unused;
	page_pattern(page, GFN(7));
	assert_int_equal(memory_fill(mem, GFN(7), 1, page), 1);
	assert_int_equal(memory_fill(mem, GFN(8), 8, NULL), 8);
	/* Nor is what could not be written: it is not there. */
	assert_int_equal(gup_write(mem, gfn_to_gpa(GFN(20)), "12345678", 8, GUP_NOWAIT, NULL), -EAGAIN);
	assert_int_equal(harvest(mem, bits), 0);
	write_at(mem, 7);
	assert_int_equal(harvest(mem, bits), 1);
	memory_free(mem);
}

static void test_what_is_given_up_is_told(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, false, NULL);
	uint8_t bits[PAGES / 8];

	(void)unused;
	assert_int_equal(memory_discard(mem, GFN(30), 3), 3);
	assert_int_equal(harvest(mem, bits), 3);
	assert_true(has(bits, 30) && has(bits, 31) && has(bits, 32));
	memory_free(mem);
}

/* Its mark outlasts the moment in which nobody may touch it. */
static void test_an_ejected_page_is_told(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, false, NULL);
	uint8_t bits[PAGES / 8];

	(void)unused;
	write_at(mem, 5);
	write_at(mem, 6);
	mem->state[0][5] |= STATE_EJECTING;
	assert_int_equal(harvest(mem, bits), 2);
	assert_int_equal(mem->state[0][5], PAGE_PRESENT | STATE_EJECTING);
	state_end_eject(&mem->state[0][5]);
	assert_int_equal(harvest(mem, bits), 0);
	memory_free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_was_written_is_told_once),
		cmocka_unit_test(test_parts_are_harvested_and_other_bits_stay),
		cmocka_unit_test(test_what_a_source_brings_is_not_written),
		cmocka_unit_test(test_what_is_given_up_is_told),
		cmocka_unit_test(test_an_ejected_page_is_told),
	};

	return cmocka_run_group_tests_name("dirty", tests, NULL, NULL);
}
