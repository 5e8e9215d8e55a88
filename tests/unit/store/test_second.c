// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// store/second.c: which of two stores answers, and what becomes of the other request.
#include "layers.h"

#include <stdio.h>
#include <sys/stat.h>

#include "store/second.h"

#define NEVER 100000000

/*
 * Two stores with faults: x is "first" in one and "other" in the other, so that
 * one sees who answered.
 */
struct bed {
	struct timers *timers;
	struct inject_store *first, *other;
	struct second_store *second;
	struct store *store;
};

static struct bed start(struct folder *f, const struct second_store_config *config,
			const struct store_inject_rule *first,
			const struct store_inject_rule *other)
{
	struct folder g = *f;
	struct bed bed;

	snprintf(g.path, sizeof(g.path), "%s/other", f->dir.path);
	assert_true(!mkdir(g.path, 0700) || errno == EEXIST);
	folder_write(f, "x", "first");
	folder_write(&g, "x", "other");
	assert_int_equal(timers_new(&bed.timers, NULL), 0);
	bed.first = faults_new(f, bed.timers, first, !!first);
	bed.other = faults_new(&g, bed.timers, other, !!other);
	assert_int_equal(second_store_new(&bed.second, inject_store(bed.first),
					  inject_store(bed.other), bed.timers, config, NULL),
			 0);
	bed.store = second_store(bed.second);
	return bed;
}

static void end(struct bed *bed)
{
	store_free(bed->store);
	timers_put(bed->timers);
}

static const struct second_store_config soon = { .late_ms = 5 }, never = { .late_ms = NEVER };
static const struct store_inject_rule silence = { .fault = STORE_FAULT_SILENCE, .nth = 1 };
static const struct store_inject_rule failure = { .fault = STORE_FAULT_FAIL,
						  .nth = 1,
						  .code = -EIO };
static const struct store_inject_rule absence = { .fault = STORE_FAULT_FAIL,
						  .nth = 1,
						  .code = -ENOENT };

static void test_a_first_that_is_good_is_asked_alone(void **state)
{
	struct bed bed = start(*state, &soon, NULL, NULL);

	expect_get(bed.store, "x", "first");
	assert_int_equal(faults_requests(bed.other), 0);
	end(&bed);
}

static void test_a_first_that_is_late_is_overtaken(void **state)
{
	struct bed bed = start(*state, &soon, &silence, NULL);
	struct second_store_stats stats;

	expect_get(bed.store, "x", "other");
	second_store_stats(bed.second, &stats);
	assert_int_equal(stats.late, 1);
	assert_int_equal(stats.second_won, 1);
	end(&bed);
}

static void test_a_first_that_fails_is_replaced_at_once(void **state)
{
	struct bed bed = start(*state, &never, &failure, NULL);

	expect_get(bed.store, "x", "other");
	end(&bed);
}

static void test_an_object_that_only_the_second_has_is_found(void **state)
{
	struct bed bed = start(*state, &never, &absence, NULL);

	expect_get(bed.store, "x", "other");
	end(&bed);
}

static void test_a_second_that_hangs_does_not_matter(void **state)
{
	const struct store_inject_rule late = { .fault = STORE_FAULT_DELAY, .nth = 1, .ms = 30 };
	struct bed bed = start(*state, &soon, &late, &silence);

	expect_get(bed.store, "x", "first");
	assert_int_equal(faults_requests(bed.other), 1);
	end(&bed);
}

static void test_what_both_say_is_told(void **state)
{
	struct err err;
	char data[8];
	struct bed bed = start(*state, &never, &failure, &absence);

	expect_error(store_get(bed.store, NULL, "x", 0, data, 5, 0, &err), &err, -EIO, "injected");
	end(&bed);
	/* That it is not there is said only if both say so. */
	bed = start(*state, &never, &absence, &failure);
	expect_error(store_get(bed.store, NULL, "x", 0, data, 5, 0, &err), &err, -EIO, "injected");
	end(&bed);
	bed = start(*state, &never, &absence, &absence);
	expect_error(store_get(bed.store, NULL, "x", 0, data, 5, 0, &err), &err, -ENOENT,
		     "injected");
	end(&bed);
}

static void test_what_is_written_goes_to_the_first_alone(void **state)
{
	const struct store_inject_rule puts = { .fault = STORE_FAULT_FAIL,
						.verbs = 1 << STORE_PUT,
						.nth = 1 };
	struct bed bed = start(*state, &soon, &puts, NULL);
	struct err err;

	expect_error(store_put(bed.store, NULL, "y", "y", 1, 0, &err), &err, -EAGAIN, "injected");
	assert_int_equal(store_delete(bed.store, NULL, "x", &err), 0);
	assert_int_equal(faults_requests(bed.other), 0);
	end(&bed);
}

static void note(void *arg, const char *object, uint64_t bytes)
{
	(void)bytes;
	strcat(arg, object);
}

static void test_a_list_comes_from_one_of_them(void **state)
{
	const struct store_inject_rule after = { .fault = STORE_FAULT_UNSURE, .nth = 1 };
	char names[64] = "";
	struct err err;
	struct bed bed = start(*state, &soon, &failure, NULL);

	assert_int_equal(store_list(bed.store, NULL, "", 0, note, names, &err), 0);
	assert_string_equal(names, "x");
	end(&bed);
	bed = start(*state, &soon, &after, NULL);
	expect_error(store_list(bed.store, NULL, "", 0, note, names, &err), &err, -EAGAIN,
		     "injected");
	assert_string_equal(names, "xx");
	assert_int_equal(faults_requests(bed.other), 0);
	end(&bed);
}

/* A first that is dead costs the delay a few times, and not for ever. */
static void test_a_first_that_is_always_late_is_not_waited_for(void **state)
{
	const struct second_store_config config = { .late_ms = 10 };
	struct bed bed = start(*state, &config, &silence, NULL);
	struct second_store_stats stats;
	unsigned int i;

	for (i = 0; i < 40; i++)
		expect_get(bed.store, "x", "other");
	second_store_stats(bed.second, &stats);
	assert_in_range(stats.late, 1, 8);
	assert_int_equal(stats.second_won, 40);
	/* It is asked still, and when it is the first again it is asked alone. */
	assert_int_equal(faults_requests(bed.first), 40);
	inject_store_enable(bed.first, false);
	for (i = 0; i < 40; i++)
		store_get(bed.store, NULL, "x", 0, (char[5]){ 0 }, 5, 0, NULL);
	assert_true(faults_requests(bed.other) < 80);
	end(&bed);
}

static void test_what_is_asked_twice_is_bounded(void **state)
{
	const struct second_store_config config = { .late_ms = 1, .twice_bytes = 600 };
	struct bed bed = start(*state, &config, &silence, &silence);
	struct flight flight[4];
	struct second_store_stats stats;
	unsigned int i;

	for (i = 0; i < 4; i++)
		flight_begin(&flight[i], bed.store, "x");
	do {
		usleep(1000);
		second_store_stats(bed.second, &stats);
	} while (stats.late + stats.not_asked < 4);
	assert_int_equal(stats.late, 2);
	assert_int_equal(stats.not_asked, 2);
	for (i = 0; i < 4; i++) {
		store_cancel(bed.store, &flight[i].request);
		assert_int_equal(flight_wait(&flight[i]), -ECANCELED);
	}
	/* Given back. */
	inject_store_enable(bed.other, false);
	expect_get(bed.store, "x", "other");
	end(&bed);
}

static void test_a_cancel_ends_both(void **state)
{
	struct bed bed = start(*state, &soon, &silence, &silence);
	struct flight flight;

	flight_begin(&flight, bed.store, "x");
	faults_wait(bed.other, 1);
	store_cancel(bed.store, &flight.request);
	assert_int_equal(flight_wait(&flight), -ECANCELED);
	end(&bed);
}

struct canceller {
	struct store *store;
	struct flight *flight;
};

static void *cancel_it(void *arg)
{
	struct canceller *what = arg;

	store_cancel(what->store, &what->flight->request);
	return NULL;
}

/*
 * Both answer about when the second is asked, and the cancel comes: each
 * request ends once, with right bytes.
 */
static void test_races_end_once(void **state)
{
	const struct second_store_config config = { .late_ms = 1 };
	const struct store_inject_rule slow = { .fault = STORE_FAULT_DELAY,
						.chance = 0.7,
						.ms = 1 };
	struct bed bed = start(*state, &config, &slow, &slow);
	struct canceller what = { .store = bed.store };
	struct flight flight;
	pthread_t thread;
	unsigned int i;
	int64_t r;

	what.flight = &flight;
	for (i = 0; i < 400; i++) {
		flight_begin(&flight, bed.store, "x");
		if (i % 2)
			assert_int_equal(pthread_create(&thread, NULL, cancel_it, &what), 0);
		r = flight_wait(&flight);
		assert_true(r == 5 || (i % 2 && r == -ECANCELED));
		if (r == 5)
			assert_true(!memcmp(flight.data, "first", 5) ||
				    !memcmp(flight.data, "other", 5));
		if (i % 2)
			pthread_join(thread, NULL);
	}
	end(&bed);
}

static void test_an_url_with_a_second(void **state)
{
	struct folder *f = *state;
	char path[64];
	struct store_options options = { .second = path, .attempts = 1 };
	struct store *store;
	struct err err;

	snprintf(path, sizeof(path), "%s/other", f->dir.path);
	expect_error(store_open(&store, f->path, &options, &err), &err, -ENOENT,
		     "the second store");
	assert_int_equal(mkdir(path, 0700), 0);
	folder_write(f, "../other/x", "other");
	assert_int_equal(store_open(&store, f->path, &options, &err), 0);
	expect_get(store, "x", "other");
	store_free(store);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, folder_setup, folder_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_a_first_that_is_good_is_asked_alone),
		TEST(test_a_first_that_is_late_is_overtaken),
		TEST(test_a_first_that_fails_is_replaced_at_once),
		TEST(test_an_object_that_only_the_second_has_is_found),
		TEST(test_a_second_that_hangs_does_not_matter),
		TEST(test_what_both_say_is_told),
		TEST(test_what_is_written_goes_to_the_first_alone),
		TEST(test_a_list_comes_from_one_of_them),
		TEST(test_a_first_that_is_always_late_is_not_waited_for),
		TEST(test_what_is_asked_twice_is_bounded),
		TEST(test_a_cancel_ends_both),
		TEST(test_races_end_once),
		TEST(test_an_url_with_a_second),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
