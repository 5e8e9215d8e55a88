// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Much memory of which nearly nothing has come: 1 TiB, and what it may cost.
#include "fixture.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "../resident.h"
#include "../tsan.h"
#include "memory/internal.h"

#define GIB (UINT64_C(1) << 30)
#define HIGH (64 * GIB)
#define PAGES (UINT64_C(1) << 28)
#define COST_MAX (2 << 20)
#define PIECE (UINT64_C(1) << 21)

/* As on x86: around PCI's window. */
static const struct memory_range ranges[] = {
	{ GPA(0), 3 * GIB }, { GPA(4 * GIB), 28 * GIB }, { GPA(HIGH), (1024 - 31) * GIB },
};

/* The first and the last page of each, and some between. */
static const gfn_t some[] = {
	GFN(0), GFN(0xbffff), GFN(1 << 20), GFN((UINT64_C(32) << 18) - 1), GFN(UINT64_C(64) << 18),
	GFN((UINT64_C(500) << 18) + 77), GFN((UINT64_C(1057) << 18) - 1),
};
#define SOME (sizeof(some) / sizeof(some[0]))

struct big {
	struct memory *mem;
	int64_t before;
};

static int setup(void **state)
{
	struct big *big = calloc(1, sizeof(*big));
	struct err err;
	int r;

	assert_non_null(big);
	big->before = resident_bytes();
	assert_int_equal(memory_new_missing(&big->mem, ranges, 3, &err), 0);
	r = memory_watch(big->mem, NULL, &err);
	if (r == -EPERM || r == -ENOSYS) {
		print_message("skipped: %s\n", err.text);
		memory_free(big->mem);
		free(big);
		*state = NULL;
		return 0;
	}
	assert_int_equal(r, 0);
	*state = big;
	return 0;
}

static int teardown(void **state)
{
	struct big *big = *state;

	if (big)
		memory_free(big->mem);
	free(big);
	return 0;
}

static struct big *big_of(void **state)
{
	if (!*state)
		skip();
	return *state;
}

static void bring(struct memory *mem, gfn_t gfn)
{
	uint8_t page[PAGE_BYTES];

	page_pattern(page, gfn);
	assert_int_equal(memory_fill(mem, gfn, 1, page), 1);
}

static void expect(struct memory *mem, gfn_t gfn)
{
	uint8_t page[PAGE_BYTES], is[PAGE_BYTES];

	page_pattern(page, gfn);
	assert_int_equal(gup_read(mem, gfn_to_gpa(gfn), is, PAGE_BYTES, GUP_NOWAIT, NULL), 0);
	assert_memory_equal(is, page, PAGE_BYTES);
}

static void test_pages_anywhere_come_and_cost_what_they_are(void **state)
{
	struct big *big = big_of(state);
	struct memory_stats stats;
	size_t i;

	for (i = 0; i < SOME; i++)
		bring(big->mem, some[i]);
	for (i = 0; i < SOME; i++)
		expect(big->mem, some[i]);
	memory_stats(big->mem, &stats);
	assert_int_equal(stats.pages, PAGES);
	assert_int_equal(stats.missing, PAGES - SOME);
	expect_resident(resident_bytes() - big->before < COST_MAX);
}

/* What is asked of it is answered from what has begun: nobody looks at 256 MiB of bytes. */
static void test_looks_at_all_of_it_cost_little(void **state)
{
	struct big *big = big_of(state);
	struct counting_source first, second;
	struct gup_ticket ticket = { 0 };
	struct gup_opts opts = { .ticket = &ticket };
	struct gup_span span;

	assert_int_equal(gup(big->mem, gfn_to_gpa(some[5]), 1, GUP_NOWAIT, &opts, &span), -EAGAIN);
	counting_source_init(&first);
	memory_attach(big->mem, &first.source);
	assert_int_equal(first.pages, 1);
	assert_int_equal(first.last_gfn, some[5].v);
	memory_detach(big->mem);
	assert_int_equal(memory_page_state(big->mem, some[5]), PAGE_MISSING);
	counting_source_init(&second);
	memory_attach(big->mem, &second.source);
	assert_int_equal(second.pages, 1);
	memory_detach(big->mem);
	assert_int_equal(memory_take_back(big->mem), 0);
	assert_true(gup_ticket_cancel(big->mem, &ticket));
	expect_resident(resident_bytes() - big->before < COST_MAX);
}

static void test_the_bitmap_of_what_is_missing(void **state)
{
	struct big *big = big_of(state);
	uint8_t *bits = malloc(PIECE / 8);
	uint64_t at, missing = 0;
	int64_t got;

	assert_non_null(bits);
	bring(big->mem, some[5]);
	bring(big->mem, some[6]);
	for (at = 0; at < ranges[2].len_bytes / PAGE_BYTES; at += PIECE) {
		uint64_t left = ranges[2].len_bytes / PAGE_BYTES - at,
			 n = left < PIECE ? left : PIECE;

		got = memory_missing_bitmap(big->mem, GFN(HIGH / PAGE_BYTES + at), n, bits);
		assert_true(got >= 0);
		missing += (uint64_t)got;
	}
	/* The last piece ends with the last page. */
	at = (some[6].v - HIGH / PAGE_BYTES) % PIECE;
	assert_int_equal(bits[at / 8], 0x7f);
	assert_int_equal(bits[at / 8 - 1], 0xff);
	assert_int_equal(missing, ranges[2].len_bytes / PAGE_BYTES - 2);
	/* From the middle of a byte, around a page that is here. */
	got = memory_missing_bitmap(big->mem, GFN(some[5].v - 3), 11, bits);
	assert_int_equal(got, 10);
	assert_int_equal(bits[0], 0xf7);
	assert_int_equal(bits[1], 0x07);
	expect_resident(resident_bytes() - big->before < COST_MAX);
	free(bits);
}

/* Marks are found in what was never harvested, and the rest is passed over. */
static void test_a_harvest_finds_the_one_that_was_written(void **state)
{
	struct big *big = big_of(state);
	uint64_t first = HIGH / PAGE_BYTES, n = ranges[2].len_bytes / PAGE_BYTES, at;
	uint8_t *bits = calloc(n / 8, 1);
	struct gup_span span;

	assert_non_null(bits);
	bring(big->mem, some[5]);
	assert_int_equal(gup(big->mem, gfn_to_gpa(some[5]), 1, GUP_WRITE | GUP_NOWAIT, NULL, &span),
			 0);
	*(uint8_t *)span.hva = 1;
	gup_put(big->mem, &span);
	assert_int_equal(memory_harvest_dirty(big->mem, GFN(first), n, bits), 1);
	at = some[5].v - first;
	assert_int_equal(bits[at / 8], 1u << (at % 8));
	assert_int_equal(memory_harvest_dirty(big->mem, GFN(first), n, bits), 0);
	free(bits);
}

/* What was begun is no less than before once it is taken back. */
static void test_pages_that_are_taken_back_come_again(void **state)
{
	struct big *big = big_of(state);
	struct memory_stats stats;
	size_t i;

	for (i = 0; i < SOME; i++)
		bring(big->mem, some[i]);
	assert_int_equal(memory_take_back(big->mem), 0);
	memory_stats(big->mem, &stats);
	assert_int_equal(stats.missing, PAGES);
	for (i = 0; i < SOME; i++)
		assert_int_equal(memory_page_state(big->mem, some[i]), PAGE_MISSING);
	for (i = 0; i < SOME; i++)
		bring(big->mem, some[i]);
	for (i = 0; i < SOME; i++)
		expect(big->mem, some[i]);
}

static void test_next_begun(void **state)
{
	struct big *big = big_of(state);
	uint64_t pages = ranges[2].len_bytes / PAGE_BYTES;

	assert_int_equal(memory_next_begun(big->mem, 2, 0), pages);
	bring(big->mem, some[4]);
	bring(big->mem, some[6]);
	assert_int_equal(memory_next_begun(big->mem, 2, 0), 0);
	assert_int_equal(memory_next_begun(big->mem, 2, HUGE_PAGES - 1), HUGE_PAGES - 1);
	assert_int_equal(memory_next_begun(big->mem, 2, HUGE_PAGES), pages - HUGE_PAGES);
	assert_int_equal(memory_next_begun(big->mem, 2, pages - 1), pages - 1);
	assert_int_equal(memory_next_begun(big->mem, 2, pages), pages);
}

/* Memory that is all there has begun from the start. */
static void test_memory_that_is_not_late_is_begun(void **state)
{
	const struct memory_range small = { GPA(0), 6 << 20 };
	struct memory *mem;
	struct err err;
	uint8_t bits[192];

	(void)state;
	assert_int_equal(memory_new(&mem, &small, 1, &err), 0);
	assert_int_equal(memory_missing_bitmap(mem, GFN(0), 1536, bits), 0);
	assert_int_equal(memory_page_state(mem, GFN(1535)), PAGE_PRESENT);
	assert_int_equal(memory_next_begun(mem, 0, 0), 0);
	memory_free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_pages_anywhere_come_and_cost_what_they_are,
						setup, teardown),
		cmocka_unit_test_setup_teardown(test_looks_at_all_of_it_cost_little, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_the_bitmap_of_what_is_missing, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_a_harvest_finds_the_one_that_was_written,
						setup, teardown),
		cmocka_unit_test_setup_teardown(test_pages_that_are_taken_back_come_again, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_next_begun, setup, teardown),
		cmocka_unit_test(test_memory_that_is_not_late_is_begun),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
