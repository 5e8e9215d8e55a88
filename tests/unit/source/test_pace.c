// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "source/pace.h"

static void test_it_is_what_came_lately(void **state)
{
	struct pace pace = { 0 };
	int64_t now = 1000 * NS_PER_SEC + 1, end;

	(void)state;
	assert_int_equal(pace_a_second(&pace, now), 0);
	/* 100 a second, for a minute, then 1000. */
	for (end = now + 60 * NS_PER_SEC; now < end; now += 10 * NS_PER_MS)
		pace_add(&pace, 1, now);
	assert_in_range(pace_a_second(&pace, now), 95, 105);
	for (end = now + 10 * NS_PER_SEC; now < end; now += NS_PER_MS)
		pace_add(&pace, 1, now);
	assert_in_range(pace_a_second(&pace, now), 950, 1050);
	/* And nothing any more: it fades, and is gone. */
	now += 4 * NS_PER_SEC;
	assert_in_range(pace_a_second(&pace, now), 300, 700);
	now += 10 * NS_PER_SEC;
	assert_int_equal(pace_a_second(&pace, now), 0);
}

static void test_a_short_time_counts_as_it_is(void **state)
{
	struct pace pace = { 0 };
	int64_t now = 77 * NS_PER_SEC;

	(void)state;
	pace_add(&pace, 0, now);
	assert_int_equal(pace_a_second(&pace, now), 0);
	pace_add(&pace, 50, now);
	pace_add(&pace, 50, now + NS_PER_SEC / 2);
	assert_in_range(pace_a_second(&pace, now + NS_PER_SEC / 2), 199, 201);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_it_is_what_came_lately),
		cmocka_unit_test(test_a_short_time_counts_as_it_is),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
