// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "fixture.h"

#include "memory/state.h"

static void test_ask_only_from_missing(void **unused)
{
	state_byte s = PAGE_MISSING | STATE_WAITED;

	(void)unused;
	assert_true(state_ask(&s));
	assert_int_equal(s, PAGE_REQUESTED | STATE_WAITED);
	assert_false(state_ask(&s));
	assert_true(state_unask(&s));
	assert_int_equal(s, PAGE_MISSING | STATE_WAITED);
	assert_false(state_unask(&s));
	s = PAGE_PRESENT;
	assert_false(state_ask(&s));
	assert_false(state_unask(&s));
	s = PAGE_LOST;
	assert_false(state_ask(&s));
}

static void test_present_clears_waited_unless_ejecting(void **unused)
{
	state_byte s = PAGE_REQUESTED | STATE_WAITED;

	(void)unused;
	assert_int_equal(state_set_present(&s), PAGE_REQUESTED | STATE_WAITED);
	assert_int_equal(s, PAGE_PRESENT);
	s = PAGE_REQUESTED | STATE_WAITED | STATE_EJECTING;
	state_set_present(&s);
	assert_int_equal(s, PAGE_PRESENT | STATE_WAITED | STATE_EJECTING);
	assert_false(state_usable(s));
	state_end_eject(&s);
	assert_int_equal(s, PAGE_PRESENT);
	assert_true(state_usable(s));
}

static void test_waited_stays_while_missing(void **unused)
{
	state_byte s = PAGE_MISSING;

	(void)unused;
	assert_true(state_set_waited(&s));
	assert_true(state_start_eject(&s));
	state_end_eject(&s);
	assert_int_equal(s, PAGE_MISSING | STATE_WAITED);
	s = PAGE_PRESENT;
	assert_false(state_set_waited(&s));
	s = PAGE_PRESENT | STATE_EJECTING;
	assert_true(state_set_waited(&s));
	assert_false(state_set_waited_by_kernel(&s));
}

static void test_eject_never_of_a_present_page(void **unused)
{
	state_byte s = PAGE_PRESENT;

	(void)unused;
	assert_false(state_start_eject(&s));
	s = PAGE_LOST;
	assert_true(state_start_eject(&s));
}

static void test_lost_never_takes_a_present_page_back(void **unused)
{
	state_byte s = PAGE_PRESENT;

	(void)unused;
	state_set_lost(&s);
	assert_int_equal(s, PAGE_PRESENT);
	s = PAGE_REQUESTED | STATE_WAITED;
	state_set_lost(&s);
	assert_int_equal(s, PAGE_LOST | STATE_WAITED);
	state_set_present(&s);
	assert_int_equal(s, PAGE_PRESENT);
}

static void test_pins_count_and_saturate(void **unused)
{
	state_byte s = PAGE_PRESENT;
	unsigned int i;

	(void)unused;
	state_pin(&s);
	assert_int_equal(s, PAGE_PRESENT | 1u << STATE_PIN_SHIFT);
	state_pin(&s);
	assert_int_equal(s, PAGE_PRESENT | 2u << STATE_PIN_SHIFT);
	/* A writer's page is dirty once it is put. */
	state_unpin(&s, true);
	state_unpin(&s, false);
	assert_int_equal(s, PAGE_PRESENT | STATE_DIRTY);
	assert_true(state_take_dirty(&s));
	assert_false(state_take_dirty(&s));
	for (i = 0; i < 20; i++)
		state_pin(&s);
	assert_int_equal(s >> STATE_PIN_SHIFT, STATE_PIN_MAX);
	for (i = 0; i < 20; i++)
		state_unpin(&s, false);
	/* Pinned for good: nobody knows any more how many there were. */
	assert_int_equal(s >> STATE_PIN_SHIFT, STATE_PIN_MAX);
	/* ... but a writer's put still tells. */
	state_unpin(&s, true);
	assert_int_equal(s, PAGE_PRESENT | STATE_DIRTY | STATE_PIN_MAX << STATE_PIN_SHIFT);
	s = PAGE_REQUESTED;
	assert_int_equal(state_pin(&s), PAGE_REQUESTED);
	assert_int_equal(s, PAGE_REQUESTED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ask_only_from_missing),
		cmocka_unit_test(test_present_clears_waited_unless_ejecting),
		cmocka_unit_test(test_waited_stays_while_missing),
		cmocka_unit_test(test_eject_never_of_a_present_page),
		cmocka_unit_test(test_lost_never_takes_a_present_page_back),
		cmocka_unit_test(test_pins_count_and_saturate),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
