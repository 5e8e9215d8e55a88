// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "ends.h"

#include <stdlib.h>

#include "source/delay.h"

static struct delay *start(struct ends *f, const struct delay_config *config,
			   struct page_source **top)
{
	struct delay *delay;

	assert_int_equal(delay_new(&delay, config, NULL), 0);
	*top = ends_put(f, delay_layer(delay));
	return delay;
}

static void test_both_ways_are_late(void **state)
{
	const struct delay_config config = {
		.request_ns = 30 * NS_PER_MS, .fill_ns = 60 * NS_PER_MS, .bytes_max = HUGE_BYTES,
	};
	struct ends *f = *state;
	struct page_source *top;
	struct delay_stats stats;
	struct delay *delay = start(f, &config, &top);
	int64_t begin = clock_now_ns();

	assert_int_equal(ask(top, 7, 2), 0);
	assert_int_equal(far_fill(&f->far, 1, 9), 0);
	assert_int_equal(far_lose(&f->far, 20), 0);
	wait_until(f->far.asked[7]);
	assert_true(clock_now_ns() - begin >= config.request_ns);
	wait_until(f->near.losses);
	assert_true(clock_now_ns() - begin >= config.fill_ns);
	assert_int_equal(f->near.filled[9], 1);
	assert_int_equal(f->near.lost[20], 1);
	assert_int_equal(f->near.wrong, 0);
	wait_until((delay_stats(delay, &stats), stats.fills == 2));
	assert_int_equal(stats.requests, 1);
	assert_int_equal(stats.waiting, 0);
	assert_int_equal(stats.failed, 0);
}

/*
 * How many of the pages, filled one by one in their order, came before one that
 * was filled earlier.
 */
static unsigned int out_of_order(struct ends *f, const struct delay_config *config)
{
	struct page_source *top;
	unsigned int i, n = 0;

	near_init(&f->near);
	start(f, config, &top);
	for (i = 0; i < 300; i++)
		assert_int_equal(far_fill(&f->far, i, 1), 0);
	wait_until(f->near.fills == 300);
	stack_free(f->stack);
	f->stack = NULL;
	for (i = 0; i < 300; i++)
		assert_int_equal(f->near.filled[i], 1);
	assert_int_equal(f->near.wrong, 0);
	for (i = 1; i < 300; i++)
		n += f->near.order[i] < f->near.order[i - 1];
	return n;
}

/* Equal delays keep the order; random ones are delivered by due time, which is another. */
static void test_order_is_by_due_time(void **state)
{
	const struct delay_config equal = { .fill_ns = 5 * NS_PER_MS, .bytes_max = 4 * HUGE_BYTES };
	const struct delay_config varied = {
		.fill_ns = 100 * NS_PER_MS, .fill_spread_ns = 50 * NS_PER_MS, .bytes_max = 4 * HUGE_BYTES, .seed = 3,
	};

	assert_int_equal(out_of_order(*state, &equal), 0);
	assert_true(out_of_order(*state, &varied) > 0);
}

static void *fill_much(void *arg)
{
	struct far *far = arg;

	far_fill(far, 1, 400);
	far_fill(far, 401, 400);
	return NULL;
}

static void test_stop_ends_at_once_and_drops(void **state)
{
	const struct delay_config config = {
		.request_ns = 3600 * NS_PER_SEC, .fill_ns = 3600 * NS_PER_SEC, .bytes_max = HUGE_BYTES,
	};
	struct ends *f = *state;
	struct page_source *top;
	struct delay_stats stats;
	struct delay *delay = start(f, &config, &top);
	pthread_t thread;
	int64_t begin;

	assert_int_equal(ask(top, 1, 1), 0);
	/* The first fits, the second waits for room. */
	assert_int_equal(pthread_create(&thread, NULL, fill_much, &f->far), 0);
	wait_until((delay_stats(delay, &stats), stats.waiting == 2));
	begin = clock_now_ns();
	stack_stop(f->stack);
	pthread_join(thread, NULL);
	assert_true(clock_now_ns() - begin < 2 * NS_PER_SEC);
	assert_int_equal(f->near.fills, 0);
	assert_int_equal(f->far.requests, 0);
	assert_int_equal(ask(top, 1, 1), -ENOTCONN);
}

static void test_a_fill_waits_for_room_and_gets_it(void **state)
{
	const struct delay_config config = { .fill_ns = NS_PER_MS, .bytes_max = HUGE_BYTES };
	struct ends *f = *state;
	struct page_source *top;
	uint64_t i;

	start(f, &config, &top);
	for (i = 0; i < 8; i++)
		assert_int_equal(far_fill(&f->far, i * 100, 100), 0);
	wait_until(f->near.fills == 8);
	assert_int_equal(f->near.wrong, 0);
}

static void test_commits_come_late_into_room_above(void **state)
{
	const struct delay_config config = { .fill_ns = 30 * NS_PER_MS, .bytes_max = HUGE_BYTES };
	struct ends *f = *state;
	struct page_sink *sink;
	struct page_source *top;
	int64_t begin = clock_now_ns();
	void *room;

	start(f, &config, &top);
	sink = f->far.source.sink;
	assert_int_equal(far_commit(&f->far, 1, 200), 0);
	assert_int_equal(far_commit(&f->far, 204, 1), 0);
	assert_int_equal(sink->ops->room(sink, GFN(300), 1000, &room), HUGE_PAGES);
	assert_int_equal(sink->ops->commit(sink, GFN(300), 0, room), 0);
	wait_until(f->near.filled[204]);
	assert_true(clock_now_ns() - begin >= config.fill_ns);
	/* 200 pages in rooms of 64, and one of zeros. */
	assert_int_equal(f->near.commits, 5);
	assert_int_equal(f->near.fills, 0);
	assert_int_equal(f->near.wrong, 0);
	assert_int_equal(f->near.rooms, 0);
	assert_int_equal(far_commit(&f->far, 400, 20), 0);
	stack_stop(f->stack);
	assert_int_equal(far_commit(&f->far, 500, 20), 0);
	assert_int_equal(f->near.commits, 5);
	assert_int_equal(f->near.rooms, 0);
}

static void test_a_late_refusal_is_counted(void **state)
{
	const struct delay_config config = { .request_ns = NS_PER_MS, .bytes_max = HUGE_BYTES };
	struct ends *f = *state;
	struct page_source *top;
	struct delay_stats stats;
	struct delay *delay = start(f, &config, &top);

	f->far.answer = -ENOTCONN;
	assert_int_equal(ask(top, 1, 1), 0);
	wait_until((delay_stats(delay, &stats), stats.failed == 1));
}

static void test_values_are_checked(void **state)
{
	struct delay *delay;
	struct err err;

	(void)state;
	assert_int_equal(delay_new(&delay, &(struct delay_config){ .fill_ns = -1, .bytes_max = HUGE_BYTES }, &err), -EINVAL);
	assert_int_equal(delay_new(&delay, &(struct delay_config){ .bytes_max = 1 }, &err), -EINVAL);
	assert_int_equal(delay_new(&delay,
				   &(struct delay_config){ .request_ns = INT64_MAX,
							   .request_spread_ns = INT64_MAX,
							   .bytes_max = HUGE_BYTES },
				   &err),
			 -EINVAL);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, ends_setup, ends_teardown)
	const struct CMUnitTest tests[] = {
		T(test_both_ways_are_late),
		T(test_order_is_by_due_time),
		T(test_stop_ends_at_once_and_drops),
		T(test_a_fill_waits_for_room_and_gets_it),
		T(test_commits_come_late_into_room_above),
		T(test_a_late_refusal_is_counted),
		T(test_values_are_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
