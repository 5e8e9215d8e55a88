// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// store/retry.c: what is repeated, how often, and what is not.
#include "layers.h"

#include "base/clock.h"
#include "store/retry.h"

struct bed {
	struct timers *timers;
	struct inject_store *inject;
	struct store *store;
};

static struct bed start_with(struct folder *f, const struct retry_store_config *config,
			     const struct store_inject_rule *rules, unsigned int n)
{
	struct bed bed;

	folder_write(f, "x", "0123456789");
	assert_int_equal(timers_new(&bed.timers, NULL), 0);
	bed.inject = faults_new(f, bed.timers, rules, n);
	assert_int_equal(
		retry_store_new(&bed.store, inject_store(bed.inject), bed.timers, config, NULL), 0);
	return bed;
}

static struct bed start(struct folder *f, const struct store_inject_rule *rules, unsigned int n)
{
	const struct retry_store_config config = { .attempts = 3, .first_ms = 1, .most_ms = 4 };

	return start_with(f, &config, rules, n);
}

static void end(struct bed *bed)
{
	store_free(bed->store);
	timers_put(bed->timers);
}

static void test_what_passes_is_repeated(void **state)
{
	static const int codes[] = { -EAGAIN, -ETIMEDOUT, -EBADMSG, -EIO };
	size_t i;

	for (i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
		const struct store_inject_rule rule = { .fault = STORE_FAULT_FAIL,
							.nth = 1,
							.requests = 2,
							.code = codes[i] };
		struct bed bed = start(*state, &rule, 1);

		expect_get(bed.store, "x", "0123456789");
		assert_int_equal(faults_requests(bed.inject), 3);
		end(&bed);
	}
}

static void test_what_does_not_pass_is_told_after_so_many(void **state)
{
	const struct store_inject_rule rule = { .fault = STORE_FAULT_FAIL, .nth = 1 };
	struct bed bed = start(*state, &rule, 1);
	struct err err;
	char data[10];

	expect_error(store_get(bed.store, NULL, "x", 0, data, 10, 0, &err), &err, -EAGAIN,
		     "after 3 attempts");
	assert_int_equal(faults_requests(bed.inject), 3);
	end(&bed);
}

static void test_what_would_not_help_is_not_repeated(void **state)
{
	static const int codes[] = {
		-ENOENT, -EACCES, -EPERM, -ENOSPC, -ESTALE, -EINVAL, -ECANCELED
	};
	struct err err;
	char data[10];
	size_t i;

	for (i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
		const struct store_inject_rule rule = { .fault = STORE_FAULT_FAIL,
							.nth = 1,
							.code = codes[i] };
		struct bed bed = start(*state, &rule, 1);

		expect_error(store_get(bed.store, NULL, "x", 0, data, 10, 0, &err), &err, codes[i],
			     "injected");
		assert_int_equal(faults_requests(bed.inject), 1);
		end(&bed);
	}
}

static void test_short_reads_are_read_again(void **state)
{
	const struct store_inject_rule rule = { .fault = STORE_FAULT_SHORT,
						.nth = 1,
						.requests = 1 };
	struct bed bed = start(*state, &rule, 1);
	struct err err;
	char data[10];

	assert_int_equal(store_get(bed.store, NULL, "x", 0, data, 10, 0, &err), 10);
	assert_memory_equal(data, "0123456789", 10);
	end(&bed);
}

/* The object is there, but we were told that it failed. */
static void test_our_own_object_is_not_somebody_elses(void **state)
{
	const struct store_inject_rule rule = { .fault = STORE_FAULT_UNSURE,
						.verbs = 1 << STORE_PUT,
						.nth = 1,
						.requests = 1 };
	struct bed bed = start(*state, &rule, 1);
	struct err err;

	assert_int_equal(store_put(bed.store, NULL, "claim", "mine", 4, STORE_NEW, &err), 4);
	expect_get(bed.store, "claim", "mine");
	end(&bed);
}

static void test_somebody_elses_object_is_not_ours(void **state)
{
	static const char *const theirs[] = { "their", "the", "min", "mine and more", "" };
	const struct store_inject_rule rule = { .fault = STORE_FAULT_FAIL,
						.verbs = 1 << STORE_PUT,
						.nth = 1,
						.requests = 1 };
	struct err err;
	struct bed bed;
	size_t i;

	for (i = 0; i < sizeof(theirs) / sizeof(theirs[0]); i++) {
		bed = start(*state, &rule, 1);
		folder_write(*state, "claim", theirs[i]);
		expect_error(store_put(bed.store, NULL, "claim", "mine", 4, STORE_NEW, &err), &err,
			     -EEXIST, "there is one");
		expect_get(bed.store, "claim", theirs[i]);
		/* At the first attempt there is nothing to compare. */
		expect_error(store_put(bed.store, NULL, "claim", theirs[i], strlen(theirs[i]),
				       STORE_NEW, &err),
			     &err, -EEXIST, "there is one");
		end(&bed);
	}
}

static void count_name(void *arg, const char *object, uint64_t bytes)
{
	(void)object;
	(void)bytes;
	++*(unsigned int *)arg;
}

static void test_no_name_is_told_twice(void **state)
{
	const struct store_inject_rule before = { .fault = STORE_FAULT_FAIL,
						  .nth = 1,
						  .requests = 1 };
	const struct store_inject_rule after = { .fault = STORE_FAULT_UNSURE,
						 .nth = 1,
						 .requests = 1 };
	struct bed bed = start(*state, &before, 1);
	unsigned int names = 0;
	struct err err;

	assert_int_equal(store_list(bed.store, NULL, "", 0, count_name, &names, &err), 0);
	assert_int_equal(names, 1);
	end(&bed);
	bed = start(*state, &after, 1);
	expect_error(store_list(bed.store, NULL, "", 0, count_name, &names, &err), &err, -EAGAIN,
		     "injected");
	assert_int_equal(names, 2);
	end(&bed);
}

static void test_a_cancel_ends_a_pause(void **state)
{
	const struct retry_store_config config = { .attempts = 3,
						   .first_ms = 1000000,
						   .most_ms = 1000000 };
	const struct store_inject_rule rule = { .fault = STORE_FAULT_FAIL, .nth = 1 };
	struct bed bed = start_with(*state, &config, &rule, 1);
	struct flight flight;

	flight_begin(&flight, bed.store, "x");
	assert_int_equal(faults_requests(bed.inject), 1);
	assert_false(flight_is_over(&flight));
	store_cancel(bed.store, &flight.request);
	assert_int_equal(flight_wait(&flight), -ECANCELED);
	assert_int_equal(faults_requests(bed.inject), 1);
	end(&bed);
}

static void test_a_cancel_ends_an_attempt(void **state)
{
	const struct store_inject_rule rules[] = {
		{ .fault = STORE_FAULT_FAIL, .nth = 1, .requests = 1 },
		{ .fault = STORE_FAULT_SILENCE, .nth = 2 },
	};
	struct bed bed = start(*state, rules, 2);
	struct flight flight;

	flight_begin(&flight, bed.store, "x");
	faults_wait(bed.inject, 2);
	store_cancel(bed.store, &flight.request);
	assert_int_equal(flight_wait(&flight), -ECANCELED);
	end(&bed);
}

static void *cancel_it(void *arg)
{
	struct {
		struct store *store;
		struct flight *flight;
	} *what = arg;

	store_cancel(what->store, &what->flight->request);
	return NULL;
}

/* At whatever moment it comes, the request ends, once. */
static void test_a_cancel_comes_at_any_moment(void **state)
{
	const struct store_inject_rule rule = { .fault = STORE_FAULT_FAIL, .chance = 0.7 };
	const struct retry_store_config config = { .attempts = 1000, .first_ms = 1, .most_ms = 1 };
	struct bed bed = start_with(*state, &config, &rule, 1);
	struct {
		struct store *store;
		struct flight *flight;
	} what = { bed.store, NULL };
	struct flight flight;
	pthread_t thread;
	unsigned int i;
	int64_t r;

	what.flight = &flight;
	for (i = 0; i < 300; i++) {
		flight_begin(&flight, bed.store, "x");
		assert_int_equal(pthread_create(&thread, NULL, cancel_it, &what), 0);
		r = flight_wait(&flight);
		assert_true(r == 10 || r == -ECANCELED);
		pthread_join(thread, NULL);
	}
	end(&bed);
}

static void test_configurations_that_cannot_be(void **state)
{
	const struct retry_store_config bad[] = { { 0, 1, 1 }, { 1, 0, 1 }, { 1, 2, 1 } };
	struct folder *f = *state;
	struct store *store;
	struct err err;
	size_t i;

	for (i = 0; i < 3; i++) {
		assert_int_equal(store_open(&store, f->path, NULL, NULL), 0);
		expect_error(retry_store_new(&store, store, NULL, &bad[i], &err), &err, -EINVAL,
			     "attempts");
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, folder_setup, folder_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_what_passes_is_repeated),
		TEST(test_what_does_not_pass_is_told_after_so_many),
		TEST(test_what_would_not_help_is_not_repeated),
		TEST(test_short_reads_are_read_again),
		TEST(test_our_own_object_is_not_somebody_elses),
		TEST(test_somebody_elses_object_is_not_ours),
		TEST(test_no_name_is_told_twice),
		TEST(test_a_cancel_ends_a_pause),
		TEST(test_a_cancel_ends_an_attempt),
		TEST(test_a_cancel_comes_at_any_moment),
		TEST(test_configurations_that_cannot_be),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
