// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// store/deadline.c and timer.c: what takes too long ends.
#include "layers.h"

#include "base/clock.h"
#include "store/deadline.h"

struct bed {
	struct timers *timers;
	struct store *store;
};

static struct bed start(struct folder *f, unsigned int ms, const struct store_inject_rule *rules,
			unsigned int n)
{
	struct bed bed;
	struct inject_store *inject;

	folder_write(f, "x", "0123456789");
	assert_int_equal(timers_new(&bed.timers, NULL), 0);
	inject = faults_new(f, bed.timers, rules, n);
	assert_int_equal(deadline_store_new(&bed.store, inject_store(inject), bed.timers, ms, NULL),
			 0);
	return bed;
}

static void end(struct bed *bed)
{
	store_free(bed->store);
	timers_put(bed->timers);
}

static void test_what_is_never_answered_ends_in_time(void **state)
{
	const struct store_inject_rule rule = { .fault = STORE_FAULT_SILENCE,
						.nth = 2,
						.requests = 1 };
	struct bed bed = start(*state, 40, &rule, 1);
	int64_t from_ns = clock_now_ns();
	struct err err;
	char data[10];

	expect_get(bed.store, "x", "0123456789");
	expect_error(store_get(bed.store, NULL, "x", 0, data, 10, 0, &err), &err, -ETIMEDOUT,
		     "within 40 ms");
	assert_true(clock_now_ns() - from_ns >= 40 * NS_PER_MS);
	expect_get(bed.store, "x", "0123456789");
	end(&bed);
}

static void test_what_is_large_has_longer(void **state)
{
	const struct store_inject_rule rule = { .fault = STORE_FAULT_SILENCE, .nth = 1 };
	struct bed bed = start(*state, 10, &rule, 1);
	int64_t from_ns = clock_now_ns();
	size_t len = 104800;
	char *data = malloc(len);
	struct err err;

	expect_error(store_get(bed.store, NULL, "x", 0, data, len, 0, &err), &err, -ETIMEDOUT,
		     "within 110 ms");
	assert_true(clock_now_ns() - from_ns >= 110 * NS_PER_MS);
	free(data);
	end(&bed);
}

static void test_what_comes_late_but_in_time_is_good(void **state)
{
	const struct store_inject_rule rule = { .fault = STORE_FAULT_DELAY, .nth = 1, .ms = 10 };
	struct bed bed = start(*state, 100000, &rule, 1);
	unsigned int i;

	for (i = 0; i < 5; i++)
		expect_get(bed.store, "x", "0123456789");
	end(&bed);
}

static void test_a_cancel_ends_it_before_its_time(void **state)
{
	const struct store_inject_rule rule = { .fault = STORE_FAULT_SILENCE, .nth = 1 };
	struct bed bed = start(*state, 100000, &rule, 1);
	struct flight flight;

	flight_begin(&flight, bed.store, "x");
	assert_false(flight_is_over(&flight));
	store_cancel(bed.store, &flight.request);
	assert_int_equal(flight_wait(&flight), -ECANCELED);
	end(&bed);
}

/* Timers in any order of time, set and stopped by several. */
#define TIMERS 200

struct shot {
	struct timer timer;
	unsigned int *order, *fired;
	unsigned int was;
};

static void shoot(struct timer *timer)
{
	struct shot *shot = (struct shot *)timer;

	shot->was = ++*shot->order;
	__atomic_add_fetch(shot->fired, 1, __ATOMIC_RELEASE);
}

static void test_timers_fire_in_order_of_time(void **state)
{
	static struct shot shots[TIMERS];
	struct timers *timers;
	unsigned int i, order = 0, fired = 0, stopped = 0;
	int64_t from_ns;

	(void)state;
	assert_int_equal(timers_new(&timers, NULL), 0);
	from_ns = clock_now_ns() + 20 * NS_PER_MS;
	for (i = 0; i < TIMERS; i++) {
		shots[i] = (struct shot){ .timer.fire = shoot, .order = &order, .fired = &fired };
		/* 7 and TIMERS have no divisor in common. */
		assert_int_equal(
			timers_set(timers, &shots[i].timer, from_ns + i * 7 % TIMERS * 1000), 0);
	}
	for (i = 0; i < TIMERS; i += 10)
		stopped += timers_stop(timers, &shots[i].timer);
	while (__atomic_load_n(&fired, __ATOMIC_ACQUIRE) + stopped < TIMERS)
		usleep(1000);
	for (i = 0; i < TIMERS; i++)
		assert_false(timers_stop(timers, &shots[i].timer));
	/* Time i is that of timer i * 143, since 7 * 143 is 1 more than 5 * TIMERS. */
	for (i = order = 0; i < TIMERS; i++) {
		if (!shots[i * 143 % TIMERS].was)
			continue;
		assert_true(shots[i * 143 % TIMERS].was > order);
		order = shots[i * 143 % TIMERS].was;
	}
	timers_put(timers);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, folder_setup, folder_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_what_is_never_answered_ends_in_time),
		TEST(test_what_is_large_has_longer),
		TEST(test_what_comes_late_but_in_time_is_good),
		TEST(test_a_cancel_ends_it_before_its_time),
		cmocka_unit_test(test_timers_fire_in_order_of_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
