// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Pages whose memory has failed. The kernel's part is played by an ordinary
// page: what counts is that nobody is let in, and that the page does not come
// back.
#include "fixture.h"

#include <errno.h>
#include <string.h>

#include "memory/internal.h"
#include "memory/stage.h"

#define PAGES 512

static uint8_t *host_of(struct memory *mem, gfn_t gfn)
{
	unsigned int n;

	return memory_regions(mem, &n)[0].host + gfn.v * PAGE_BYTES;
}

static void fill_one(struct memory *mem, gfn_t gfn, int64_t wanted)
{
	_Alignas(PAGE_BYTES) uint8_t page[PAGE_BYTES];

	page_pattern(page, gfn);
	assert_int_equal(memory_fill(mem, gfn, 1, page), wanted);
}

static void assert_lost(struct memory *mem, gfn_t gfn, uint64_t lost)
{
	struct memory_stats stats;
	uint64_t word;

	assert_int_equal(memory_page_state(mem, gfn), PAGE_LOST);
	assert_int_equal(gup_read(mem, gfn_to_gpa(gfn), &word, 8, GUP_NOWAIT, NULL), -EIO);
	assert_int_equal(gup_write(mem, gfn_to_gpa(gfn), &word, 8, 0, NULL), -EIO);
	memory_stats(mem, &stats);
	assert_int_equal(stats.lost, lost);
}

static void test_a_poisoned_page_is_lost(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, false, NULL);
	struct memory_stats stats;
	uint64_t word;
	gfn_t gfn;

	(void)unused;
	assert_int_equal(memory_poison(mem, host_of(mem, GFN(7)) + 123, &gfn), 1);
	assert_int_equal(gfn.v, 7);
	assert_lost(mem, GFN(7), 1);
	assert_int_equal(memory_poison(mem, host_of(mem, GFN(7)), &gfn), 0);
	assert_lost(mem, GFN(7), 1);
	assert_int_equal(memory_poison(mem, &word, &gfn), -EFAULT);
	assert_int_equal(gup_read(mem, gfn_to_gpa(GFN(8)), &word, 8, 0, NULL), 0);
	memory_stats(mem, &stats);
	assert_int_equal(stats.missing, 1);
	/* A balloon does not make a page of zeros of it. */
	assert_int_equal(memory_discard(mem, GFN(0), PAGES), PAGES - 1);
	assert_lost(mem, GFN(7), 1);
	memory_free(mem);
}

/* What a source has is older than what the guest has written. */
static void test_a_poisoned_page_is_not_filled_again(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	struct memory_stage *stage;
	struct memory_stats stats;
	struct err err;
	gfn_t gfn;
	uint64_t i;

	(void)unused;
	fill_one(mem, GFN(3), 1);
	assert_int_equal(memory_poison(mem, host_of(mem, GFN(3)), &gfn), 1);
	fill_one(mem, GFN(3), 0);
	assert_lost(mem, GFN(3), 1);
	/* Nor by a huge page that would come in one piece. */
	assert_int_equal(memory_stage_new(&stage, mem, &err), 0);
	for (i = 0; i < PAGES; i++)
		page_pattern(memory_stage_at(stage, GFN(i)), GFN(i));
	assert_int_equal(memory_stage_add(stage, GFN(0), PAGES, false), 0);
	assert_int_equal(memory_stage_place(stage), PAGES - 1);
	memory_stage_free(stage);
	for (i = 0; i < PAGES; i++)
		assert_int_equal(memory_page_state(mem, GFN(i)), i == 3 ? PAGE_LOST : PAGE_PRESENT);
	assert_lost(mem, GFN(3), 1);
	memory_stats(mem, &stats);
	assert_int_equal(stats.missing, 1);
	assert_true(memory_is_late(mem));
	memory_free(mem);
}

/*
 * A page that the source has lost may still come from another; so do all but
 * those that are poisoned.
 */
static void test_what_is_only_lost_may_come(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	gfn_t gfn;

	(void)unused;
	memory_lose(mem, GFN(5));
	fill_one(mem, GFN(6), 1);
	assert_int_equal(memory_poison(mem, host_of(mem, GFN(6)), &gfn), 1);
	assert_lost(mem, GFN(6), 2);
	fill_one(mem, GFN(5), 1);
	assert_lost(mem, GFN(6), 1);
	memory_free(mem);
}

static void test_more_than_can_be_remembered(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	unsigned int i;
	gfn_t gfn;

	(void)unused;
	for (i = 0; i < MEMORY_POISONED_MAX + 10; i++) {
		fill_one(mem, GFN(i), 1);
		assert_int_equal(memory_poison(mem, host_of(mem, GFN(i)), &gfn), 1);
	}
	for (i = 0; i < MEMORY_POISONED_MAX + 10; i++)
		fill_one(mem, GFN(i), 0);
	assert_lost(mem, GFN(0), MEMORY_POISONED_MAX + 10);
	assert_lost(mem, GFN(i - 1), MEMORY_POISONED_MAX + 10);
	memory_free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_poisoned_page_is_lost),
		cmocka_unit_test(test_a_poisoned_page_is_not_filled_again),
		cmocka_unit_test(test_what_is_only_lost_may_come),
		cmocka_unit_test(test_more_than_can_be_remembered),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
