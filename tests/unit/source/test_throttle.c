// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "ends.h"


#include "source/throttle.h"

static struct throttle *start(struct ends *f, uint64_t rate, size_t requested_max,
			      struct page_source **top)
{
	struct throttle *throttle;

	assert_int_equal(throttle_new(&throttle, rate, requested_max, NULL), 0);
	*top = ends_put(f, throttle_layer(throttle));
	return throttle;
}

/* Fills `n` pages from `first` on, one at a time, on a thread of its own. */
struct filler {
	pthread_t thread;
	struct far *far;
	uint64_t first, n;
	_Atomic uint64_t done;
};

static void *filler_main(void *arg)
{
	struct filler *filler = arg;

	for (; filler->done < filler->n; filler->done++)
		far_fill(filler->far, filler->first + filler->done, 1);
	return NULL;
}

static void filler_start(struct filler *filler, struct far *far, uint64_t first, uint64_t n)
{
	*filler = (struct filler){ .far = far, .first = first, .n = n };
	assert_int_equal(pthread_create(&filler->thread, NULL, filler_main, filler), 0);
}

/* Until it is held: its burst is used up. */
static void wait_held(struct throttle *throttle, const struct filler *filler)
{
	uint64_t before;

	(void)throttle;
	do {
		before = filler->done;
		for (int i = 0; i < 200; i++)
			wait_a_little();
	} while (!filler->done || filler->done != before);
}

static void test_the_rate_is_kept(void **state)
{
	struct ends *f = *state;
	struct throttle_stats stats;
	struct page_source *top;
	/*
	 * A burst of 64 KiB, then 1 MB/s: 128 pages, 96 of them with data, 80
	 * of those after the burst: some 0.33 s.
	 */
	struct throttle *throttle = start(f, 1000000, 16, &top);
	int64_t begin = clock_now_ns(), took;
	struct filler filler;

	filler_start(&filler, &f->far, 0, 128);
	pthread_join(filler.thread, NULL);
	took = clock_now_ns() - begin;
	/* Never faster. How much slower depends on the host. */
	assert_true(took >= 300 * NS_PER_MS);
	throttle_stats(throttle, &stats);
	assert_int_equal(stats.bytes, 96 * PAGE_BYTES);
	assert_int_equal(stats.bytes_requested, 0);
	assert_true(stats.held > 0);
	assert_int_equal(f->near.wrong, 0);
}

static void test_requested_pages_pass_at_once(void **state)
{
	struct ends *f = *state;
	struct throttle_stats stats;
	struct page_source *top;
	struct throttle *throttle = start(f, 1000, 600, &top);	/* a page takes four seconds */
	int64_t begin;
	struct filler filler;
	uint64_t i;

	filler_start(&filler, &f->far, 0, 512);
	wait_held(throttle, &filler);
	assert_int_equal(ask(top, 513, 100), 0);
	begin = clock_now_ns();
	for (i = 513; i < 613; i++)
		assert_int_equal(far_fill(&f->far, i, 1), 1);
	assert_true(clock_now_ns() - begin < 2 * NS_PER_SEC);
	throttle_stats(throttle, &stats);
	assert_int_equal(stats.bytes_requested, 75 * PAGE_BYTES);
	stack_stop(f->stack);
	pthread_join(filler.thread, NULL);
	assert_true(f->near.fills < 512);
}

static void test_the_others_pay_for_requested_pages(void **state)
{
	struct ends *f = *state;
	struct page_source *top;
	int64_t begin = clock_now_ns();

	start(f, 1000000, 128, &top);
	assert_int_equal(ask(top, 1, 100), 0);
	assert_int_equal(far_fill(&f->far, 1, 100), 100);
	/* 400 KiB less the burst of 64 are to be paid off first. */
	assert_int_equal(far_fill(&f->far, 201, 1), 1);
	assert_true(clock_now_ns() - begin >= 340 * NS_PER_MS);
}

static void test_a_request_frees_the_page_that_is_held(void **state)
{
	struct ends *f = *state;
	struct page_source *top;
	struct throttle *throttle = start(f, 1, 16, &top);
	struct filler filler;
	uint64_t held;

	filler_start(&filler, &f->far, 0, 512);
	wait_held(throttle, &filler);
	held = filler.done;
	assert_int_equal(f->near.filled[held], 0);
	assert_int_equal(ask(top, held, 1), 0);
	wait_until(f->near.filled[held]);
	/* And the limit can be lifted. */
	throttle_limit(throttle, 0);
	pthread_join(filler.thread, NULL);
	assert_int_equal(f->near.fills, 512);
}

static void test_stop_ends_the_wait_and_drops(void **state)
{
	struct ends *f = *state;
	struct page_source *top;
	struct throttle *throttle = start(f, 1, 16, &top);
	struct filler filler;
	int64_t begin;
	uint64_t held;

	filler_start(&filler, &f->far, 0, 512);
	wait_held(throttle, &filler);
	held = filler.done;
	begin = clock_now_ns();
	stack_stop(f->stack);
	pthread_join(filler.thread, NULL);
	assert_true(clock_now_ns() - begin < 2 * NS_PER_SEC);
	assert_int_equal(f->near.filled[held], 0);
	assert_int_equal(ask(top, 1, 1), -ENOTCONN);
}

static void test_more_requests_than_can_be_noted_are_still_asked(void **state)
{
	struct ends *f = *state;
	struct throttle_stats stats;
	struct page_source *top;
	struct throttle *throttle = start(f, 0, 4, &top);

	assert_int_equal(ask(top, 0, 10), 0);
	assert_int_equal(f->far.asked[9], 1);
	throttle_stats(throttle, &stats);
	assert_int_equal(stats.forgotten, 6);
	assert_int_equal(far_fill(&f->far, 0, 10), 10);
	assert_int_equal(far_lose(&f->far, 11), 0);
	assert_int_equal(f->near.lost[11], 1);
	/* They have come: there is room again. */
	assert_int_equal(ask(top, 20, 4), 0);
	throttle_stats(throttle, &stats);
	assert_int_equal(stats.forgotten, 6);
}

static void *committer_main(void *arg)
{
	far_commit(arg, 1, 300);
	return NULL;
}

static void test_commits_are_held_as_fills_are(void **state)
{
	struct ends *f = *state;
	struct throttle_stats stats;
	struct page_source *top;
	struct throttle *throttle = start(f, 1, 16, &top);
	pthread_t thread;

	/* The burst of 64 KiB is for less than one room, so the second is held. */
	assert_int_equal(pthread_create(&thread, NULL, committer_main, &f->far), 0);
	wait_until(f->near.rooms == 1 && f->near.commits == 1);
	assert_int_equal(ask(top, 401, 1), 0);
	assert_int_equal(far_commit(&f->far, 401, 1), 1);
	throttle_stats(throttle, &stats);
	assert_int_equal(stats.bytes_requested, PAGE_BYTES);
	stack_stop(f->stack);
	pthread_join(thread, NULL);
	assert_int_equal(f->near.commits, 2);
	assert_int_equal(f->near.rooms, 0);
	assert_int_equal(f->near.fills, 0);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, ends_setup, ends_teardown)
	const struct CMUnitTest tests[] = {
		T(test_the_rate_is_kept),
		T(test_requested_pages_pass_at_once),
		T(test_the_others_pay_for_requested_pages),
		T(test_a_request_frees_the_page_that_is_held),
		T(test_stop_ends_the_wait_and_drops),
		T(test_more_requests_than_can_be_noted_are_still_asked),
		T(test_commits_are_held_as_fills_are),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
