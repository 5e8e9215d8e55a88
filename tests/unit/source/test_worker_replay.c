// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * What a worker brings before it is wanted, of a guest whose pages come in spans: in which order, in
 * how large reads, within which bounds, and that whoever waits for a page does not wait for it.
 */
#include "ends.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "memory/gup.h"
#include "source/worker.h"

#define HUGES 4u
#define PAGES (HUGES * HUGE_PAGES)
#define SPAN 16u
#define READS 1024

struct read {
	uint64_t first, n;
	char by[16];
};

struct reader {
	struct memory *mem;
	struct worker *worker;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct read read[READS];
	_Atomic unsigned int reads, asked;
	_Atomic bool fails;
	bool held, cancelled; /* the replay's reads wait; until they are cancelled */
};

/* As many as are of one span, as an image has them. */
static int64_t reader_read(void *arg, gfn_t first, uint64_t n, void *data, bool *zero)
{
	struct reader *reader = arg;
	struct read *read;
	bool cancelled;

	pthread_mutex_lock(&reader->lock);
	assert_true(reader->reads < READS);
	read = &reader->read[reader->reads++];
	*read = (struct read){ .first = first.v, .n = n };
	pthread_getname_np(pthread_self(), read->by, sizeof(read->by));
	while (reader->held && !reader->cancelled && !strcmp(read->by, "source-replay"))
		pthread_cond_wait(&reader->changed, &reader->lock);
	cancelled = reader->cancelled;
	pthread_mutex_unlock(&reader->lock);
	if (cancelled || reader->fails)
		return cancelled ? -ECANCELED : -EIO;
	*zero = false;
	n = n < SPAN - first.v % SPAN ? n : SPAN - first.v % SPAN;
	memset(data, (int)(first.v / SPAN % 255) + 1, n * PAGE_BYTES);
	return (int64_t)n;
}

static void reader_cancel(void *arg)
{
	struct reader *reader = arg;

	pthread_mutex_lock(&reader->lock);
	reader->cancelled = true;
	pthread_cond_broadcast(&reader->changed);
	pthread_mutex_unlock(&reader->lock);
}

static void reader_asked(void *arg, gfn_t gfn)
{
	struct reader *reader = arg;

	(void)gfn;
	reader->asked++;
}

static void hold(struct reader *reader, bool held)
{
	pthread_mutex_lock(&reader->lock);
	reader->held = held;
	pthread_cond_broadcast(&reader->changed);
	pthread_mutex_unlock(&reader->lock);
}

static int setup(void **state)
{
	static const struct memory_range range = { GPA(0), HUGES * HUGE_BYTES };
	const struct memory_events events = { 0 };
	struct reader *reader = calloc(1, sizeof(*reader));
	struct err err;

	assert_non_null(reader);
	pthread_mutex_init(&reader->lock, NULL);
	pthread_cond_init(&reader->changed, NULL);
	assert_int_equal(memory_new(&reader->mem, &range, 1, &err), 0);
	*state = reader;
	if (!memory_watch(reader->mem, &events, &err))
		return 0;
	print_message("skipped: %s\n", err.text);
	memory_free(reader->mem);
	free(reader);
	*state = NULL;
	return 0;
}

static int teardown(void **state)
{
	struct reader *reader = *state;

	if (!reader)
		return 0;
	memory_detach(reader->mem);
	worker_free(reader->worker);
	memory_free(reader->mem);
	free(reader);
	return 0;
}

#define NEEDS(reader)           \
	do {                    \
		if (!(reader))  \
			skip(); \
	} while (0)

static void start(struct reader *reader, unsigned int replay_threads, bool bulk)
{
	const struct worker_config config = {
		.read = reader_read,
		.cancel = reader_cancel,
		.asked = reader_asked,
		.arg = reader,
		.urgent_threads = 2,
		.bulk_threads = bulk,
		.replay_threads = replay_threads,
		.urgent_pages = 1,
		.bulk_pages = 64,
		.span_pages = SPAN,
	};

	assert_int_equal(worker_new(&reader->worker, &config, reader->mem, NULL), 0);
	assert_int_equal(worker_start(reader->worker, NULL), 0);
	memory_attach(reader->mem, worker_source(reader->worker));
}

static int replay_more(struct reader *reader, const uint64_t *gfns, size_t n,
		       struct worker_replay more)
{
	more.gfns = gfns;
	more.n = n;
	if (!more.until_ns)
		more.until_ns = clock_now_ns() + 60 * NS_PER_SEC;
	return worker_replay(reader->worker, &more, NULL);
}

static int replay(struct reader *reader, const uint64_t *gfns, size_t n)
{
	return replay_more(reader, gfns, n, (struct worker_replay){ 0 });
}

static struct worker_replay_stats stats_of(struct reader *reader)
{
	struct worker_replay_stats stats;

	worker_replay_stats(reader->worker, &stats);
	return stats;
}

static void wait_ended(struct reader *reader)
{
	wait_until(stats_of(reader).state != WORKER_REPLAY_RUNNING);
}

static bool is_here(struct reader *reader, uint64_t gfn)
{
	return memory_page_state(reader->mem, GFN(gfn)) == PAGE_PRESENT;
}

static void check_read(struct reader *reader, unsigned int i, uint64_t first, uint64_t n)
{
	pthread_mutex_lock(&reader->lock);
	assert_true(i < reader->reads);
	assert_int_equal(reader->read[i].first, first);
	assert_int_equal(reader->read[i].n, n);
	pthread_mutex_unlock(&reader->lock);
}

static void check_page(struct reader *reader, uint64_t gfn)
{
	uint8_t is[PAGE_BYTES], should[PAGE_BYTES];

	memset(should, (int)(gfn / SPAN % 255) + 1, sizeof(should));
	assert_int_equal(gup_read(reader->mem, gfn_to_gpa(GFN(gfn)), is, sizeof(is), 0, NULL), 0);
	assert_memory_equal(is, should, sizeof(is));
}

/* ---- tests ---- */

/* By one thread: spans that lie apart come in that order, each once, and nothing else. */
static void test_pages_come_in_the_order_of_the_set(void **state)
{
	static const uint64_t gfns[] = { 1600, 5, 900, 6, 327 };
	struct reader *reader = *state;
	struct worker_stats worker;
	struct worker_replay_stats stats;

	NEEDS(reader);
	start(reader, 1, false);
	assert_int_equal(replay(reader, gfns, 5), 0);
	wait_ended(reader);
	stats = stats_of(reader);
	assert_int_equal(stats.state, WORKER_REPLAY_ENDED);
	assert_int_equal(stats.set, 4);
	assert_int_equal(stats.present, 4);
	assert_int_equal(stats.pages, 4 * SPAN);
	assert_int_equal(reader->reads, 4);
	check_read(reader, 0, 1600, SPAN);
	check_read(reader, 1, 0, SPAN);
	check_read(reader, 2, 896, SPAN);
	check_read(reader, 3, 320, SPAN);
	assert_true(is_here(reader, 5) && is_here(reader, 335) && !is_here(reader, 336));
	worker_stats(reader->worker, &worker);
	assert_int_equal(worker.requested, 0);
	assert_int_equal(reader->asked, 0);
	assert_int_equal(replay(reader, gfns, 5), -EALREADY);
}

/* A random order: what lies around the next span, and is in the set, comes with it. */
static void test_neighbours_come_with_one_read(void **state)
{
	uint64_t gfns[HUGE_PAGES / SPAN], i;
	struct reader *reader = *state;

	NEEDS(reader);
	for (i = 0; i < HUGE_PAGES / SPAN; i++)
		gfns[i] = (i * 7 + 3) % (HUGE_PAGES / SPAN) * SPAN;
	start(reader, 1, false);
	assert_int_equal(replay(reader, gfns, HUGE_PAGES / SPAN), 0);
	wait_ended(reader);
	assert_int_equal(stats_of(reader).present, HUGE_PAGES / SPAN);
	/* 32, 64, 128 pages, and what is left. */
	assert_in_range(stats_of(reader).reads, 4, 8);
	check_read(reader, 0, 3 * SPAN, 2 * SPAN);
	for (i = 0; i < HUGE_PAGES; i++)
		check_page(reader, i);
}

/* More than a number has bits: each was to be twice as long as the one before. */
static void test_reads_do_not_grow_without_end(void **state)
{
	uint64_t gfns[HUGES * HUGE_PAGES / SPAN / 2], i, n = sizeof(gfns) / sizeof(gfns[0]);
	struct reader *reader = *state;

	NEEDS(reader);
	for (i = 0; i < n; i++)
		gfns[i] = i * 2 * SPAN;
	start(reader, 1, false);
	assert_int_equal(replay(reader, gfns, n), 0);
	wait_ended(reader);
	assert_true(n > 32);
	assert_int_equal(stats_of(reader).reads, n);
	assert_int_equal(stats_of(reader).present, n);
	assert_true(is_here(reader, 0) && !is_here(reader, SPAN));
}

/* While the replay's reads hang, who waits for a page gets it, and it is not read again. */
static void test_who_waits_goes_first(void **state)
{
	uint64_t gfns[HUGES * 2], i;
	struct reader *reader = *state;

	NEEDS(reader);
	for (i = 0; i < HUGES * 2; i++)
		gfns[i] = i * HUGE_PAGES / 2;
	hold(reader, true);
	start(reader, 1, true);
	assert_int_equal(replay(reader, gfns, HUGES * 2), 0);
	wait_until(reader->reads == 1);
	/* Of the set, not begun; being read; not of the set. */
	assert_int_equal(ask(worker_source(reader->worker), gfns[7] + 3, 1), 0);
	wait_until(is_here(reader, gfns[7] + 3));
	assert_int_equal(ask(worker_source(reader->worker), gfns[0], 1), 0);
	wait_until(is_here(reader, gfns[0]));
	assert_int_equal(ask(worker_source(reader->worker), gfns[0] + 100, 1), 0);
	wait_until(is_here(reader, gfns[0] + 100));
	assert_int_equal(stats_of(reader).asked, 2);
	assert_int_equal(stats_of(reader).missed, 1);
	assert_int_equal(reader->asked, 3);
	/* The bulk waits for the end of the replay, and then brings the rest. */
	for (i = 0; i < reader->reads; i++)
		assert_string_not_equal(reader->read[i].by, "source-bulk");
	hold(reader, false);
	wait_ended(reader);
	for (i = 0; i < reader->reads; i++)
		assert_false(reader->read[i].first == gfns[7] &&
			     !strcmp(reader->read[i].by, "source-replay"));
	assert_int_equal(stats_of(reader).present, HUGES * 2);
	wait_until(is_here(reader, PAGES - 1) && is_here(reader, 1));
}

/* A hint that is wrong: no RAM, one page many times, numbers that cannot be. */
static void test_a_hostile_set_does_no_harm(void **state)
{
	static const uint64_t gfns[] = { UINT64_MAX, PAGES, UINT64_MAX - 1,    3,	 3,
					 4,	     3,	    UINT64_C(1) << 52, PAGES - 1 };
	struct reader *reader = *state;

	NEEDS(reader);
	start(reader, 2, false);
	assert_int_equal(replay(reader, gfns, sizeof(gfns) / sizeof(gfns[0])), 0);
	wait_ended(reader);
	assert_int_equal(stats_of(reader).set, 2);
	assert_int_equal(stats_of(reader).present, 2);
	assert_true(is_here(reader, 3) && is_here(reader, PAGES - 1));
}

static void test_an_empty_set_ends_at_once(void **state)
{
	struct reader *reader = *state;

	NEEDS(reader);
	start(reader, 2, true);
	assert_int_equal(replay(reader, NULL, 0), 0);
	assert_int_equal(stats_of(reader).state, WORKER_REPLAY_ENDED);
	wait_until(is_here(reader, PAGES - 1));
}

static void test_bytes_and_time_are_bounded(void **state)
{
	uint64_t gfns[PAGES / SPAN / 2], i;
	struct reader *reader = *state;

	NEEDS(reader);
	for (i = 0; i < PAGES / SPAN / 2; i++)
		gfns[i] = i * 2 * SPAN;
	start(reader, 1, false);
	assert_int_equal(replay_more(reader, gfns, PAGES / SPAN / 2,
				     (struct worker_replay){ .bytes_max = 5 * SPAN * PAGE_BYTES }),
			 0);
	wait_ended(reader);
	assert_int_equal(stats_of(reader).state, WORKER_REPLAY_ENDED);
	assert_int_equal(stats_of(reader).pages, 5 * SPAN);
	worker_stop(reader->worker);
	reader->cancelled = false;
	assert_int_equal(worker_start(reader->worker, NULL), 0);
	assert_int_equal(stats_of(reader).state, WORKER_REPLAY_NONE);
	/* Its time is over before it begins. */
	assert_int_equal(replay_more(reader, gfns, PAGES / SPAN / 2,
				     (struct worker_replay){ .until_ns = clock_now_ns() - 1 }),
			 0);
	wait_ended(reader);
	assert_int_equal(stats_of(reader).pages, 0);
}

/* It is given up, and nobody who waits is lost by that. */
static void test_reads_that_fail_end_it(void **state)
{
	uint64_t gfns[PAGES / SPAN / 2], i;
	struct reader *reader = *state;

	NEEDS(reader);
	for (i = 0; i < PAGES / SPAN / 2; i++)
		gfns[i] = i * 2 * SPAN;
	reader->fails = true;
	start(reader, 1, true);
	assert_int_equal(replay(reader, gfns, PAGES / SPAN / 2), 0);
	wait_ended(reader);
	assert_int_equal(stats_of(reader).state, WORKER_REPLAY_FAILED);
	assert_int_equal(stats_of(reader).reads, 8);
	reader->fails = false;
	wait_until(is_here(reader, 0) && is_here(reader, PAGES - 1));
}

/* They are read, and not here: so it shows whether they are touched. */
static void test_some_are_watched(void **state)
{
	uint64_t gfns[PAGES / SPAN], i, here = 0;
	struct reader *reader = *state;
	struct worker_replay_stats stats;
	unsigned int reads;

	NEEDS(reader);
	for (i = 0; i < PAGES / SPAN; i++)
		gfns[i] = i * SPAN;
	start(reader, 2, false);
	assert_int_equal(replay_more(reader, gfns, PAGES / SPAN,
				     (struct worker_replay){ .watch_one_in = HUGES, .turn = 3 }),
			 0);
	wait_ended(reader);
	stats = stats_of(reader);
	for (i = 0; i < PAGES / SPAN; i++)
		here += is_here(reader, i * SPAN);
	assert_int_equal(stats.present, here);
	assert_int_equal(here, (HUGES - 1) * HUGE_PAGES / SPAN);
	assert_int_equal(stats.pages, PAGES);
	/* Who asks for one finds it read, all of its span. */
	reads = reader->reads;
	for (i = 0; is_here(reader, i); i += SPAN)
		;
	assert_int_equal(ask(worker_source(reader->worker), i + 3, 1), 0);
	wait_until(is_here(reader, i + 3) && is_here(reader, i) && is_here(reader, i + SPAN - 1));
	check_page(reader, i + 3);
	assert_int_equal(reader->reads, reads);
	/* Until nobody watches any more. */
	worker_watch_end(reader->worker);
	assert_int_equal(ask(worker_source(reader->worker), i + SPAN, 1), 0);
	wait_until(is_here(reader, i + SPAN));
	assert_int_equal(reader->reads, reads + 1);
}

/* A stop while its reads hang, and while it waits for room in the window. */
static void test_it_is_stopped_at_any_time(void **state)
{
	uint64_t gfns[PAGES / SPAN], i;
	struct reader *reader = *state;
	unsigned int threads;

	NEEDS(reader);
	for (i = 0; i < PAGES / SPAN; i++)
		gfns[i] = i * SPAN;
	for (threads = 1; threads <= 16; threads += 5) {
		reader->cancelled = false;
		hold(reader, true);
		start(reader, threads, true);
		assert_int_equal(replay(reader, gfns, PAGES / SPAN), 0);
		wait_until(reader->reads);
		memory_detach(reader->mem);
		worker_stop(reader->worker);
		assert_int_equal(replay(reader, gfns, PAGES / SPAN), -ENOTCONN);
		worker_free(reader->worker);
		reader->worker = NULL;
	}
}

static void test_without_threads_there_is_none(void **state)
{
	struct reader *reader = *state;

	NEEDS(reader);
	start(reader, 0, false);
	assert_int_equal(replay(reader, (uint64_t[]){ 1 }, 1), -ENOTSUP);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_pages_come_in_the_order_of_the_set),
		T(test_neighbours_come_with_one_read),
		T(test_reads_do_not_grow_without_end),
		T(test_who_waits_goes_first),
		T(test_a_hostile_set_does_no_harm),
		T(test_an_empty_set_ends_at_once),
		T(test_bytes_and_time_are_bounded),
		T(test_reads_that_fail_end_it),
		T(test_some_are_watched),
		T(test_it_is_stopped_at_any_time),
		T(test_without_threads_there_is_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
