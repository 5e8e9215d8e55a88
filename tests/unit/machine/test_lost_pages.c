// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "machine/lost_pages.h"

static void test_only_the_first_page_asks_to_be_taken(void **state)
{
	struct lost_gather gather;
	struct lost_pages pages;

	(void)state;
	lost_gather_init(&gather);
	assert_true(lost_gather_add(&gather, GFN(7)));
	assert_false(lost_gather_add(&gather, GFN(8)));
	assert_true(lost_gather_take(&gather, &pages));
	/* Whoever has taken comes again, also for what came meanwhile. */
	assert_false(lost_gather_add(&gather, GFN(9)));
	assert_true(lost_gather_take(&gather, &pages));
	assert_int_equal(pages.pages, 1);
	/* Nothing more: from here on it is to be asked. */
	assert_false(lost_gather_take(&gather, &pages));
	assert_true(lost_gather_add(&gather, GFN(10)));
	lost_gather_fini(&gather);
}

static void test_runs_are_one_range_in_either_direction(void **state)
{
	struct lost_gather gather;
	struct lost_pages pages;
	uint64_t i;

	(void)state;
	lost_gather_init(&gather);
	for (i = 0; i < 131072; i++)
		lost_gather_add(&gather, GFN(1000 + i));
	for (i = 500; i > 400; i--)
		lost_gather_add(&gather, GFN(i));
	assert_true(lost_gather_take(&gather, &pages));
	assert_int_equal(pages.pages, 131172);
	assert_int_equal(pages.lowest.v, 401);
	assert_int_equal(pages.ranges, 2);
	assert_int_equal(pages.range[0].first.v, 1000);
	assert_int_equal(pages.range[0].pages, 131072);
	assert_int_equal(pages.range[1].first.v, 401);
	assert_int_equal(pages.range[1].pages, 100);
	lost_gather_fini(&gather);
}

static void test_scattered_pages_are_counted_where_they_are_not_named(void **state)
{
	struct lost_gather gather;
	struct lost_pages pages;
	uint64_t i, named = 0;

	(void)state;
	lost_gather_init(&gather);
	for (i = 0; i < 100000; i++)
		lost_gather_add(&gather, GFN(500000 - 3 * i));
	assert_true(lost_gather_take(&gather, &pages));
	assert_int_equal(pages.pages, 100000);
	assert_int_equal(pages.lowest.v, 500000 - 3 * 99999);
	assert_int_equal(pages.ranges, LOST_RANGES_MAX);
	for (i = 0; i < pages.ranges; i++)
		named += pages.range[i].pages;
	assert_int_equal(named, LOST_RANGES_MAX);
	lost_gather_fini(&gather);
}

/* The first and the last page that there can be. */
static void test_no_number_of_a_page_wraps(void **state)
{
	struct lost_gather gather;
	struct lost_pages pages;

	(void)state;
	lost_gather_init(&gather);
	lost_gather_add(&gather, GFN(0));
	lost_gather_add(&gather, GFN(UINT64_MAX));
	assert_true(lost_gather_take(&gather, &pages));
	assert_int_equal(pages.ranges, 2);
	assert_int_equal(pages.lowest.v, 0);
	lost_gather_fini(&gather);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_only_the_first_page_asks_to_be_taken),
		cmocka_unit_test(test_runs_are_one_range_in_either_direction),
		cmocka_unit_test(test_scattered_pages_are_counted_where_they_are_not_named),
		cmocka_unit_test(test_no_number_of_a_page_wraps),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
