// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// store/inject.c: each fault is what it is called, and hits what it is to hit.
#include "layers.h"

#include "base/clock.h"

struct bed {
	struct timers *timers;
	struct inject_store *inject;
	struct store *store;
};

static struct bed start(struct folder *f, const struct store_inject_rule *rules, unsigned int n)
{
	struct bed bed;

	folder_write(f, "x", "0123456789");
	assert_int_equal(timers_new(&bed.timers, NULL), 0);
	bed.inject = faults_new(f, bed.timers, rules, n);
	bed.store = inject_store(bed.inject);
	return bed;
}

static void end(struct bed *bed)
{
	store_free(bed->store);
	timers_put(bed->timers);
}

static void test_the_nth_fails(void **state)
{
	const struct store_inject_rule rule = { .fault = STORE_FAULT_FAIL,
						.nth = 2,
						.requests = 2,
						.code = -EACCES };
	struct bed bed = start(*state, &rule, 1);
	struct store_inject_stats stats;
	struct err err;
	char data[10];
	unsigned int i;

	for (i = 1; i <= 5; i++) {
		if (i == 2 || i == 3)
			expect_error(store_get(bed.store, NULL, "x", 0, data, 10, 0, &err), &err,
				     -EACCES, "injected");
		else
			assert_int_equal(store_get(bed.store, NULL, "x", 0, data, 10, 0, &err), 10);
	}
	inject_store_enable(bed.inject, false);
	assert_int_equal(store_get(bed.store, NULL, "x", 0, data, 10, 0, &err), 10);
	inject_store_stats(bed.inject, &stats);
	assert_int_equal(stats.requests, 6);
	assert_int_equal(stats.hit[STORE_FAULT_FAIL], 2);
	end(&bed);
}

static void test_short_corrupt_and_unsure(void **state)
{
	const struct store_inject_rule rules[] = {
		{ .fault = STORE_FAULT_SHORT, .verbs = 1 << STORE_GET, .nth = 1, .requests = 2 },
		{ .fault = STORE_FAULT_CORRUPT, .verbs = 1 << STORE_GET, .nth = 3, .requests = 1 },
		{ .fault = STORE_FAULT_UNSURE, .verbs = 1 << STORE_PUT, .nth = 1, .requests = 1 },
	};
	struct bed bed = start(*state, rules, 3);
	struct err err;
	char data[10];
	unsigned int i, bits = 0;

	expect_error(store_get(bed.store, NULL, "x", 0, data, 10, 0, &err), &err, -EBADMSG,
		     "too short");
	assert_int_equal(store_get(bed.store, NULL, "x", 0, data, 10, STORE_UP_TO, &err), 5);
	assert_int_equal(store_get(bed.store, NULL, "x", 0, data, 10, 0, &err), 10);
	for (i = 0; i < 10; i++)
		bits += (unsigned int)__builtin_popcount((uint8_t)(data[i] ^ "0123456789"[i]));
	assert_int_equal(bits, 1);
	expect_get(bed.store, "x", "0123456789");
	expect_error(store_put(bed.store, NULL, "y", "y", 1, 0, &err), &err, -EAGAIN, "injected");
	expect_get(bed.store, "y", "y");
	end(&bed);
}

static void test_a_delay_delays_and_silence_ends_by_cancel(void **state)
{
	const struct store_inject_rule rules[] = {
		{ .fault = STORE_FAULT_DELAY, .nth = 1, .requests = 1, .ms = 30 },
		{ .fault = STORE_FAULT_DELAY, .nth = 2, .requests = 1, .ms = 1000000 },
		{ .fault = STORE_FAULT_SILENCE, .nth = 3, .requests = 1 },
	};
	struct bed bed = start(*state, rules, 3);
	int64_t from_ns = clock_now_ns();
	struct flight late, silent;

	expect_get(bed.store, "x", "0123456789");
	assert_true(clock_now_ns() - from_ns >= 30 * NS_PER_MS);
	flight_begin(&late, bed.store, "x");
	flight_begin(&silent, bed.store, "x");
	expect_get(bed.store, "x", "0123456789");
	assert_false(flight_is_over(&late) || flight_is_over(&silent));
	store_cancel(bed.store, &silent.request);
	store_cancel(bed.store, &silent.request);
	store_cancel(bed.store, &late.request);
	assert_int_equal(flight_wait(&silent), -ECANCELED);
	assert_int_equal(flight_wait(&late), -ECANCELED);
	end(&bed);
}

static void test_chance_follows_the_seed(void **state)
{
	const struct store_inject_rule rule = { .fault = STORE_FAULT_FAIL, .chance = 0.5 };
	uint64_t seen[2] = { 0, 0 };
	unsigned int round, i;
	struct bed bed;
	char data[10];

	for (round = 0; round < 2; round++) {
		bed = start(*state, &rule, 1);
		for (i = 0; i < 64; i++)
			if (store_get(bed.store, NULL, "x", 0, data, 10, 0, NULL) < 0)
				seen[round] |= UINT64_C(1) << i;
		end(&bed);
	}
	assert_true(seen[0] == seen[1]);
	assert_in_range(__builtin_popcountll(seen[0]), 16, 48);
}

static void test_rules_that_cannot_be(void **state)
{
	struct store_inject_rule rules[STORE_INJECT_RULES_MAX + 1] = {
		{ .fault = STORE_FAULT_FAIL }
	};
	struct folder *f = *state;
	struct inject_store *inject;
	struct store *store;
	struct err err;

	rules[0].chance = 1.5;
	assert_int_equal(store_open(&store, f->path, NULL, NULL), 0);
	expect_error(inject_store_new(&inject, store, NULL, rules, 1, 1, &err), &err, -EINVAL,
		     "chance");
	rules[0] = (struct store_inject_rule){ .fault = STORE_FAULT_FAIL, .code = 1 };
	assert_int_equal(store_open(&store, f->path, NULL, NULL), 0);
	expect_error(inject_store_new(&inject, store, NULL, rules, 1, 1, &err), &err, -EINVAL,
		     "code");
	rules[0].code = 0;
	assert_int_equal(store_open(&store, f->path, NULL, NULL), 0);
	expect_error(
		inject_store_new(&inject, store, NULL, rules, STORE_INJECT_RULES_MAX + 1, 1, &err),
		&err, -EINVAL, "rules");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, folder_setup, folder_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_the_nth_fails),
		TEST(test_short_corrupt_and_unsure),
		TEST(test_a_delay_delays_and_silence_ends_by_cancel),
		TEST(test_chance_follows_the_seed),
		TEST(test_rules_that_cannot_be),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
