// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "source/touches.h"

static void test_touches_have_order_time_and_the_first_of_their_pages(void **state)
{
	struct working_set_touch touch[8];
	struct touches touches;
	int64_t now = 5 * NS_PER_SEC;

	(void)state;
	assert_int_equal(touches_init(&touches, 16, 1000000, 8), 0);
	/* The guest does not run yet. */
	touches_add(&touches, GFN(1), now);
	assert_int_equal(touches_count(&touches), 0);
	assert_false(touches_is_full(&touches, now + 100 * NS_PER_SEC));
	touches_begin(&touches, now);
	touches_begin(&touches, now + NS_PER_SEC); /* the first counts */
	touches_add(&touches, GFN(35), now + NS_PER_MS);
	touches_add(&touches, GFN(36), now + 2 * NS_PER_MS); /* comes with the one before */
	touches_add(&touches, GFN(7), now + 3 * NS_PER_MS);
	assert_int_equal(touches_copy(&touches, touch, 8), 2);
	assert_int_equal(touch[0].gfn, 32);
	assert_int_equal(touch[0].us, 1000);
	assert_int_equal(touch[1].gfn, 0);
	assert_int_equal(touch[1].us, 3000);
	assert_int_equal(touches_copy(&touches, touch, 1), 1);
	touches_fini(&touches);
}

static void test_time_and_number_are_bounded(void **state)
{
	struct touches touches;
	int64_t now = 5 * NS_PER_SEC;
	unsigned int i;

	(void)state;
	assert_int_equal(touches_init(&touches, 16, 1000000, 4), 0);
	touches_begin(&touches, now);
	touches_add(&touches, GFN(0), now + 1000001 * NS_PER_US);
	assert_int_equal(touches_count(&touches), 0);
	assert_true(touches_is_full(&touches, now + 1000001 * NS_PER_US));
	assert_false(touches_is_full(&touches, now + NS_PER_MS));
	for (i = 0; i < 10; i++)
		touches_add(&touches, GFN(i * 16), now + NS_PER_MS);
	assert_int_equal(touches_count(&touches), 4);
	assert_true(touches_is_full(&touches, now + NS_PER_MS));
	touches_fini(&touches);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_touches_have_order_time_and_the_first_of_their_pages),
		cmocka_unit_test(test_time_and_number_are_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
