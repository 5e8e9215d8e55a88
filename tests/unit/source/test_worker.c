// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * The worker between real memory and a reader that computes pages, does not have one, fails when
 * told to, and notes what it was asked to read.
 */
#include "ends.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/page.h"
#include "memory/gup.h"
#include "source/worker.h"

#define LOW_HUGES 3u
#define HIGH_HUGES 2u
#define HIGH_FIRST (UINT64_C(1) << 20)		/* 4 GiB */
#define PAGES ((LOW_HUGES + HIGH_HUGES) * HUGE_PAGES)
#define READS 4096

/* ---- the reader ---- */

struct read {
	uint64_t first, n;
	bool bulk;
};

struct reader {
	struct memory *mem;
	struct worker *worker;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct read read[READS];
	_Atomic unsigned int reads;
	_Atomic unsigned int again;		/* pages that were read although they were here */
	unsigned int failures;			/* so many reads still fail */
	uint64_t bad_first, bad_n;		/* and so do those that begin with these pages */
	int bad_error;				/* with this, or -EIO */
	_Atomic unsigned int bad_reads;
	_Atomic bool stuck, cancelled;		/* reads sleep until they are cancelled */
};

/* Every seventh page is zero, and page 1000 is nowhere. */
static bool is_zero(uint64_t gfn)
{
	return gfn % 7 == 0;
}

static void page_of(uint8_t *page, uint64_t gfn)
{
	uint64_t i, word;

	for (i = 0; i < PAGE_BYTES / 8; i++) {
		word = is_zero(gfn) ? 0 : (gfn + 1) * UINT64_C(0x9e3779b97f4a7c15) + i;
		memcpy(page + i * 8, &word, 8);
	}
}

/* 0, or why the read fails. */
static int note_read(struct reader *reader, uint64_t first, uint64_t n)
{
	char name[16];
	uint64_t i;
	int r = 0;

	assert_int_equal(pthread_getname_np(pthread_self(), name, sizeof(name)), 0);
	pthread_mutex_lock(&reader->lock);
	assert_true(reader->reads < READS);
	reader->read[reader->reads++] = (struct read){ first, n, !strcmp(name, "source-bulk") };
	for (i = 0; i < n; i++)
		reader->again += memory_page_state(reader->mem, GFN(first + i)) == PAGE_PRESENT;
	while (reader->stuck && !reader->cancelled)
		pthread_cond_wait(&reader->changed, &reader->lock);
	if (reader->cancelled) {
		r = -EINTR;
	} else if (reader->failures) {
		reader->failures--;
		r = -EIO;
	} else if (first - reader->bad_first < reader->bad_n) {
		reader->bad_reads++;
		r = reader->bad_error ? reader->bad_error : -EIO;
	}
	pthread_mutex_unlock(&reader->lock);
	return r;
}

static int64_t reader_read(void *arg, gfn_t first, uint64_t n, void *data, bool *zero)
{
	struct reader *reader = arg;
	uint64_t i;
	int r;

	assert_int_equal((uintptr_t)data % PAGE_BYTES, 0);
	assert_int_equal(first.v / HUGE_PAGES, (first.v + n - 1) / HUGE_PAGES);
	r = note_read(reader, first.v, n);
	if (r < 0)
		return r;
	if (first.v == 1000)
		return -ENODATA;
	*zero = is_zero(first.v);
	if (*zero)
		return 1;
	for (i = 0; i < n && !is_zero(first.v + i) && first.v + i != 1000; i++)
		page_of((uint8_t *)data + i * PAGE_BYTES, first.v + i);
	return (int64_t)i;
}

static void reader_cancel(void *arg)
{
	struct reader *reader = arg;

	pthread_mutex_lock(&reader->lock);
	reader->cancelled = true;
	pthread_cond_broadcast(&reader->changed);
	pthread_mutex_unlock(&reader->lock);
}

/* ---- fixture ---- */

static _Atomic unsigned int lost;

static void on_lost(void *arg, gfn_t gfn)
{
	struct reader *reader = arg;

	assert_true(gfn.v == 1000 || gfn.v - reader->bad_first < reader->bad_n);
	lost++;
}

/* Of memory that is shared; -1: it is not. */
static int memfd = -1;

static int setup(void **state)
{
	static const struct memory_range ranges[] = {
		{ GPA(0), LOW_HUGES * HUGE_BYTES },
		{ GPA(HIGH_FIRST * PAGE_BYTES), HIGH_HUGES * HUGE_BYTES },
	};
	struct reader *reader = calloc(1, sizeof(*reader));
	const struct memory_events events = { .lost = on_lost, .arg = reader };
	struct err err;

	assert_non_null(reader);
	pthread_mutex_init(&reader->lock, NULL);
	pthread_cond_init(&reader->changed, NULL);
	assert_int_equal(memory_new(&reader->mem, ranges, 2, &err), 0);
	if (memfd >= 0)
		assert_int_equal(memory_set_backing(reader->mem, memfd, &err), 0);
	lost = 0;
	*state = reader;
	if (!memory_watch(reader->mem, &events, &err))
		return 0;
	print_message("skipped: %s\n", err.text);
	memory_free(reader->mem);
	free(reader);
	*state = NULL;
	return 0;
}

static int setup_shared(void **state)
{
	struct err err;

	memfd = memory_backing_new(PAGES * PAGE_BYTES, &err);
	assert_true(memfd >= 0);
	return setup(state);
}

static int teardown(void **state)
{
	struct reader *reader = *state;

	if (memfd >= 0)
		close(memfd);
	memfd = -1;
	if (!reader)
		return 0;
	memory_detach(reader->mem);
	worker_free(reader->worker);
	memory_free(reader->mem);
	free(reader);
	return 0;
}

#define NEEDS(reader) do { if (!(reader)) skip(); } while (0)

static void start_with(struct reader *reader, const struct worker_config *more)
{
	struct worker_config config = *more;

	config.read = reader_read;
	config.cancel = reader_cancel;
	config.arg = reader;
	assert_int_equal(worker_new(&reader->worker, &config, reader->mem, NULL), 0);
	assert_int_equal(worker_start(reader->worker, NULL), 0);
	memory_attach(reader->mem, worker_source(reader->worker));
}

static void start(struct reader *reader, unsigned int bulk_threads)
{
	const struct worker_config config = {
		.urgent_threads = 2, .bulk_threads = bulk_threads, .urgent_pages = 8,
		.bulk_pages = 64,
	};

	start_with(reader, &config);
}

static uint64_t missing(struct reader *reader)
{
	struct memory_stats stats;

	memory_stats(reader->mem, &stats);
	return stats.missing;
}

static struct worker_stats stats_of(struct reader *reader)
{
	struct worker_stats stats;

	worker_stats(reader->worker, &stats);
	return stats;
}

static void check_page(struct memory *mem, uint64_t gfn, unsigned int flags)
{
	uint8_t is[PAGE_BYTES], should[PAGE_BYTES];

	page_of(should, gfn);
	assert_int_equal(gup_read(mem, gfn_to_gpa(GFN(gfn)), is, sizeof(is), flags, NULL), 0);
	assert_memory_equal(is, should, sizeof(is));
}

static uint64_t gfn_at(uint64_t i)
{
	return i < LOW_HUGES * HUGE_PAGES ? i : i - LOW_HUGES * HUGE_PAGES + HIGH_FIRST;
}

/* All but the page that is nowhere. */
static void check_all(struct reader *reader)
{
	uint64_t i;

	wait_until(missing(reader) == 1);
	for (i = 0; i < PAGES; i++)
		if (gfn_at(i) != 1000)
			check_page(reader->mem, gfn_at(i), GUP_NOWAIT);
}

static int want(struct reader *reader, uint64_t first, uint64_t n)
{
	return ask(worker_source(reader->worker), first, n);
}

/* The worker's call goes here. */
static _Atomic bool no_memory;

uint8_t *__real_page_buffer_new(size_t bytes);
uint8_t *__wrap_page_buffer_new(size_t bytes);

uint8_t *__wrap_page_buffer_new(size_t bytes)
{
	return no_memory ? NULL : __real_page_buffer_new(bytes);
}

/* ---- tests ---- */

static void test_the_background_brings_everything(void **state)
{
	struct reader *reader = *state;

	NEEDS(reader);
	start(reader, 3);
	check_all(reader);
	assert_int_equal(stats_of(reader).bulk_pages, PAGES - 1);
	assert_int_equal(stats_of(reader).urgent_reads, 0);
	assert_int_equal(stats_of(reader).failed, 0);
	assert_int_equal(reader->again, 0);
	/* What is nowhere is lost once somebody wants it, and not before. */
	assert_int_equal(lost, 0);
	assert_int_equal(want(reader, 1000, 1), 0);
	wait_until(lost == 1);
	assert_int_equal(stats_of(reader).lost, 1);
}

static void test_what_is_wanted_is_read_with_its_neighbours(void **state)
{
	struct reader *reader = *state;
	unsigned int i;

	NEEDS(reader);
	reader->stuck = true;
	start(reader, 0);
	/* Both threads are at work; what is wanted meanwhile is put together. */
	assert_int_equal(want(reader, 1, 1), 0);
	assert_int_equal(want(reader, HIGH_FIRST + 9, 1), 0);
	wait_until(reader->reads == 2);
	for (i = 15; i < 21; i++)
		assert_int_equal(want(reader, i, 1), 0);
	assert_int_equal(want(reader, 15, 1), 0);
	assert_int_equal(stats_of(reader).requested, 8);
	assert_int_equal(stats_of(reader).waiting, 6);
	pthread_mutex_lock(&reader->lock);
	reader->stuck = false;
	pthread_cond_broadcast(&reader->changed);
	pthread_mutex_unlock(&reader->lock);
	wait_until(missing(reader) == PAGES - 8);
	for (i = 15; i < 21; i++)
		check_page(reader->mem, i, GUP_NOWAIT);
	check_page(reader->mem, HIGH_FIRST + 9, GUP_NOWAIT);
	pthread_mutex_lock(&reader->lock);
	assert_int_equal(reader->reads, 3);
	assert_int_equal(reader->read[2].first, 15);
	assert_int_equal(reader->read[2].n, 6);
	pthread_mutex_unlock(&reader->lock);
	assert_int_equal(stats_of(reader).bulk_reads, 0);
}

static unsigned int threads_named(const char *name)
{
	char path[64], comm[32];
	struct dirent *entry;
	unsigned int n = 0;
	DIR *tasks = opendir("/proc/self/task");
	FILE *f;

	assert_non_null(tasks);
	while ((entry = readdir(tasks))) {
		snprintf(path, sizeof(path), "/proc/self/task/%.20s/comm", entry->d_name);
		f = fopen(path, "re");
		if (f && fgets(comm, sizeof(comm), f))
			n += !strncmp(comm, name, strlen(name));
		if (f)
			fclose(f);
	}
	closedir(tasks);
	return n;
}

static void test_threads_are_started_when_there_is_work_for_them(void **state)
{
	struct worker_config config = {
		.urgent_threads = 3,
		.bulk_threads = 2,
		.urgent_pages = 1,
		.bulk_pages = 64,
		.fill = { .off = true },
	};
	struct reader *reader = *state;
	unsigned int i;

	NEEDS(reader);
	reader->stuck = true;
	start_with(reader, &config);
	wait_until(threads_named("source-urgent") == 1);
	for (i = 1; i < 6; i++) {
		assert_int_equal(want(reader, i * 8, 1), 0);
		wait_until(reader->reads == (i < 3 ? i : 3));
		assert_int_equal(threads_named("source-urgent"), i < 3 ? i : 3);
	}
	assert_int_equal(threads_named("source-bulk"), 0);
	worker_set_fill(reader->worker, &(struct worker_fill){ 0 });
	worker_set_fill(reader->worker, &(struct worker_fill){ .rate = 1 });
	wait_until(threads_named("source-bulk") == 2);
	assert_int_equal(threads_named("source-"), 5);
}

/* More than the ring has places for, and none is forgotten. */
static void test_many_pages_may_be_wanted_at_a_time(void **state)
{
	struct reader *reader = *state;
	uint64_t i;

	NEEDS(reader);
	reader->stuck = true;
	start(reader, 0);
	for (i = 1; i < PAGES; i += 2)
		if (gfn_at(i) != 1000)
			assert_int_equal(want(reader, gfn_at(i), 1), 0);
	pthread_mutex_lock(&reader->lock);
	reader->stuck = false;
	pthread_cond_broadcast(&reader->changed);
	pthread_mutex_unlock(&reader->lock);
	wait_until(missing(reader) == PAGES / 2);
	for (i = 1; i < PAGES; i += 2)
		check_page(reader->mem, gfn_at(i), GUP_NOWAIT);
}

static void test_failed_reads_are_repeated(void **state)
{
	struct reader *reader = *state;

	NEEDS(reader);
	reader->failures = 5;
	start(reader, 1);
	check_page(reader->mem, 77, 0);
	check_all(reader);
	assert_int_equal(stats_of(reader).failed, 5);
	assert_int_equal(lost, 0);
}

static void heal(struct reader *reader)
{
	pthread_mutex_lock(&reader->lock);
	reader->bad_n = 0;
	pthread_mutex_unlock(&reader->lock);
}

/*
 * More pages fail than there are threads, and than there are places for; those that are good come
 * meanwhile, be they asked for with a bad one or later. None is forgotten.
 */
static void test_no_page_waits_for_one_that_fails(void **state)
{
	struct reader *reader = *state;
	uint64_t i;

	NEEDS(reader);
	reader->bad_first = 8;
	reader->bad_n = 100;
	start(reader, 0);
	assert_int_equal(want(reader, 8, 108), 0);
	wait_until(reader->bad_reads >= 400);
	assert_int_equal(want(reader, 600, 1), 0);
	wait_until(missing(reader) == PAGES - 9);
	wait_until(stats_of(reader).waiting == 100);
	/* They are noted, and not wanted once more, but for those that are being read. */
	assert_int_equal(want(reader, 8, 100), 0);
	assert_true(stats_of(reader).requested <= 109 + 2 * 8);
	heal(reader);
	wait_until(stats_of(reader).waiting == 0);
	for (i = 8; i < 116; i++)
		check_page(reader->mem, i, 0);
}

/*
 * Of the first huge page, which one thread begins with: everything else comes,
 * that of its own too.
 */
static void test_the_bulk_goes_on_behind_what_fails(void **state)
{
	struct reader *reader = *state;

	NEEDS(reader);
	reader->bad_first = 0;
	reader->bad_n = 3;
	start(reader, 1);
	wait_until(missing(reader) == 3 + 1);
	assert_int_equal(stats_of(reader).urgent_reads, 0);
	heal(reader);
	check_all(reader);
	assert_int_equal(lost, 0);
}

/* Where somebody missed a page the bulk goes on, and then from the start. */
static void test_the_bulk_follows_the_requests(void **state)
{
	struct reader *reader = *state;
	unsigned int i;
	bool others = false;

	NEEDS(reader);
	reader->stuck = true;
	start(reader, 1);
	wait_until(reader->reads == 1);
	assert_int_equal(want(reader, HIGH_FIRST + HUGE_PAGES + 5, 1), 0);
	wait_until(reader->reads == 2);
	pthread_mutex_lock(&reader->lock);
	reader->stuck = false;
	pthread_cond_broadcast(&reader->changed);
	pthread_mutex_unlock(&reader->lock);
	check_all(reader);
	/*
	 * The first huge page was begun; then came the one of the request, and
	 * only then the others.
	 */
	for (i = 0; i < reader->reads; i++) {
		if (!reader->read[i].bulk)
			continue;
		others |= reader->read[i].first >= HUGE_PAGES &&
			  reader->read[i].first < HIGH_FIRST + HUGE_PAGES;
		assert_false(others && reader->read[i].first >= HIGH_FIRST + HUGE_PAGES);
	}
	assert_true(others);
}

static void test_stop_cancels_and_another_start_brings_the_rest(void **state)
{
	struct reader *reader = *state;
	uint64_t had;

	NEEDS(reader);
	start(reader, 2);
	wait_until(missing(reader) < PAGES - 100);
	reader->stuck = true;
	assert_int_equal(want(reader, 2, 1), 0);
	worker_stop(reader->worker);
	assert_int_equal(want(reader, 3, 1), -ENOTCONN);
	memory_detach(reader->mem);
	had = PAGES - missing(reader);
	reader->stuck = reader->cancelled = false;
	reader->again = 0;
	assert_int_equal(worker_start(reader->worker, NULL), 0);
	memory_attach(reader->mem, worker_source(reader->worker));
	check_all(reader);
	assert_true(had >= 100);
	assert_int_equal(reader->again, 0);
}

/* Or requests would be accepted, and nobody there to answer them. */
static void test_a_start_without_memory_fails(void **state)
{
	const struct worker_config config = {
		.read = reader_read, .arg = *state, .urgent_threads = 2, .urgent_pages = 8,
	};
	struct reader *reader = *state;
	int r;

	NEEDS(reader);
	assert_int_equal(worker_new(&reader->worker, &config, reader->mem, NULL), 0);
	no_memory = true;
	r = worker_start(reader->worker, NULL);
	worker_stop(reader->worker);
	no_memory = false;
	assert_int_equal(r, -ENOMEM);
	assert_int_equal(want(reader, 3, 1), -ENOTCONN);
	assert_int_equal(worker_start(reader->worker, NULL), 0);
	memory_attach(reader->mem, worker_source(reader->worker));
	check_page(reader->mem, 3, 0);
}

/* ---- spans ---- */

static const struct worker_config spans = {
	.urgent_threads = 1, .bulk_threads = 1, .urgent_pages = 1, .bulk_pages = 64,
	.span_pages = 16, .fill.off = true,
};

/* The page that is waited for first, in a read to the span's end; then what is before it. */
static void test_a_page_brings_its_span(void **state)
{
	struct reader *reader = *state;
	uint64_t i;

	NEEDS(reader);
	start_with(reader, &spans);
	check_page(reader->mem, 601, 0);
	wait_until(missing(reader) == PAGES - 16);
	for (i = 592; i < 608; i++)
		check_page(reader->mem, i, GUP_NOWAIT);
	/* 602 is zero, and so a read of its own, as is 595. */
	assert_int_equal(reader->read[0].first, 601);
	assert_int_equal(reader->read[0].n, 7);
	for (i = 0; i < reader->reads; i++)
		assert_true(reader->read[i].first >= 592 &&
			    reader->read[i].first + reader->read[i].n <= 608);
	assert_int_equal(reader->again, 0);
	wait_until(stats_of(reader).urgent_reads == 1);
	assert_int_equal(stats_of(reader).urgent_pages, 1);
	assert_int_equal(stats_of(reader).span_pages, 15);
	assert_int_equal(stats_of(reader).bulk_reads, 0);
}

/* All that is wanted of a span is one thread's, and none of it is read twice. */
static void test_what_is_wanted_of_a_span_is_taken_together(void **state)
{
	struct reader *reader = *state;

	NEEDS(reader);
	reader->stuck = true;
	start_with(reader, &spans);
	assert_int_equal(want(reader, 1, 1), 0);
	wait_until(reader->reads == 1);
	assert_int_equal(want(reader, 605, 1), 0);
	assert_int_equal(want(reader, 593, 1), 0);
	assert_int_equal(want(reader, 600, 3), 0);
	assert_int_equal(stats_of(reader).waiting, 5);
	pthread_mutex_lock(&reader->lock);
	reader->stuck = false;
	pthread_cond_broadcast(&reader->changed);
	pthread_mutex_unlock(&reader->lock);
	wait_until(missing(reader) == PAGES - 32);
	wait_until(stats_of(reader).urgent_reads == 2);
	assert_int_equal(stats_of(reader).urgent_pages, 6);
	assert_int_equal(stats_of(reader).waiting, 0);
	assert_int_equal(reader->again, 0);
}

/* It is repeated, and what else was wanted of its span comes all the same. */
static void test_a_page_of_a_span_that_fails_holds_up_no_other(void **state)
{
	struct reader *reader = *state;

	NEEDS(reader);
	reader->bad_first = 592;
	reader->bad_n = 1;
	start_with(reader, &spans);
	assert_int_equal(want(reader, 592, 4), 0);
	wait_until(memory_page_state(reader->mem, GFN(593)) == PAGE_PRESENT &&
		   memory_page_state(reader->mem, GFN(595)) == PAGE_PRESENT);
	wait_until(reader->bad_reads >= 3);
	wait_until(stats_of(reader).waiting == 1);
	heal(reader);
	wait_until(stats_of(reader).waiting == 0);
	check_page(reader->mem, 592, 0);
	assert_int_equal(lost, 0);
}

/* Not at once: what was damaged on its way is whole when it comes again. */
static void test_a_page_that_stays_damaged_is_lost(void **state)
{
	struct worker_config config = spans;
	struct reader *reader = *state;

	NEEDS(reader);
	reader->bad_first = 600;
	reader->bad_n = 1;
	reader->bad_error = -EBADMSG;
	config.damaged_tries = 3;
	start_with(reader, &config);
	assert_int_equal(want(reader, 600, 1), 0);
	wait_until(lost == 1);
	assert_int_equal(reader->bad_reads, 3);
	assert_int_equal(memory_page_state(reader->mem, GFN(600)), PAGE_LOST);
	wait_until(stats_of(reader).waiting == 0);
	assert_int_equal(stats_of(reader).lost, 1);
	/* Whole again: whoever fills brings it. */
	heal(reader);
	worker_set_fill(reader->worker, &(struct worker_fill){ 0 });
	wait_until(memory_page_state(reader->mem, GFN(600)) == PAGE_PRESENT);
	check_page(reader->mem, 600, GUP_NOWAIT);
}

/* ---- the background fill ---- */

static void test_the_fill_is_switched_on_and_off(void **state)
{
	struct worker_fill fill = { .off = true };
	struct reader *reader = *state;
	uint64_t left;

	NEEDS(reader);
	start_with(reader, &spans);
	check_page(reader->mem, 3, 0);
	wait_until(missing(reader) == PAGES - 16);
	assert_int_equal(stats_of(reader).bulk_reads, 0);
	fill = (struct worker_fill){ .rate = 1 << 20 };
	worker_set_fill(reader->worker, &fill);
	wait_until(stats_of(reader).bulk_reads >= 2);
	fill.off = true;
	worker_set_fill(reader->worker, &fill);
	/* What was under way ends; a page that is asked for comes all the same. */
	check_page(reader->mem, HIGH_FIRST + 700, 0);
	left = missing(reader);
	assert_true(left > 0);
	worker_get_fill(reader->worker, &fill);
	assert_true(fill.off);
	worker_set_fill(reader->worker, &(struct worker_fill){ 0 });
	check_all(reader);
}

/* 10 MiB of which six of seven pages are not zero: at 20 MiB a second, less a burst of 50 ms. */
static void test_the_fill_keeps_its_rate(void **state)
{
	struct worker_config config = spans;
	struct reader *reader = *state;
	int64_t start = clock_now_ns();

	NEEDS(reader);
	config.fill = (struct worker_fill){ .rate = 20 << 20 };
	start_with(reader, &config);
	check_all(reader);
	assert_true(clock_now_ns() - start >= 300 * NS_PER_MS);
}

/*
 * Another machine has brought the first half. Neither is it fetched in the
 * background, nor for whoever waits.
 */
static void test_what_others_have_brought_is_not_read(void **state)
{
	const struct memory_range range = { GPA(0), PAGES * PAGE_BYTES };
	struct reader *reader = *state;
	uint8_t page[PAGE_BYTES];
	struct memory *other;
	unsigned int k;
	struct err err;
	uint64_t i;

	NEEDS(reader);
	assert_int_equal(memory_new(&other, &range, 1, &err), 0);
	assert_int_equal(memory_set_backing(other, memfd, &err), 0);
	assert_int_equal(memory_watch(other, NULL, &err), 0);
	for (i = 0; i < 2 * HUGE_PAGES; i++)
		if (!is_zero(i) && i != 1000) {
			page_of(page, i);
			assert_int_equal(memory_fill(other, GFN(i), 1, page), 1);
		}
	start(reader, 1);
	assert_int_equal(ask(worker_source(reader->worker), 8, 4), 0);
	check_all(reader);
	for (k = 0; k < reader->reads; k++)
		assert_true(reader->read[k].first >= 2 * HUGE_PAGES ||
			    is_zero(reader->read[k].first) || reader->read[k].first == 1000);
	assert_int_equal(reader->again, 0);
	memory_free(other);
}

static void test_values_are_checked(void **state)
{
	struct worker_config config = {
		.read = reader_read, .urgent_threads = 1, .urgent_pages = 1, .bulk_threads = 1,
		.bulk_pages = 513,
	};
	struct reader *reader = *state;
	struct worker *worker;
	struct err err;

	NEEDS(reader);
	assert_int_equal(worker_new(&worker, &config, reader->mem, &err), -EINVAL);
	config.bulk_threads = 0;
	config.urgent_threads = 0;
	assert_int_equal(worker_new(&worker, &config, reader->mem, &err), -EINVAL);
	config.urgent_threads = 1;
	assert_int_equal(worker_new(&worker, &config, reader->mem, &err), 0);
	assert_int_equal(ask(worker_source(worker), 1, 1), -ENOTCONN);
	worker_free(worker);
	config.span_pages = 24;
	assert_int_equal(worker_new(&worker, &config, reader->mem, &err), -EINVAL);
	config.span_pages = 128;
	assert_int_equal(worker_new(&worker, &config, reader->mem, &err), -EINVAL);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_the_background_brings_everything),
		T(test_what_is_wanted_is_read_with_its_neighbours),
		T(test_threads_are_started_when_there_is_work_for_them),
		T(test_many_pages_may_be_wanted_at_a_time),
		T(test_failed_reads_are_repeated),
		T(test_no_page_waits_for_one_that_fails),
		T(test_the_bulk_goes_on_behind_what_fails),
		T(test_the_bulk_follows_the_requests),
		T(test_stop_cancels_and_another_start_brings_the_rest),
		T(test_a_start_without_memory_fails),
		T(test_a_page_brings_its_span),
		T(test_what_is_wanted_of_a_span_is_taken_together),
		T(test_a_page_of_a_span_that_fails_holds_up_no_other),
		T(test_a_page_that_stays_damaged_is_lost),
		T(test_the_fill_is_switched_on_and_off),
		T(test_the_fill_keeps_its_rate),
		cmocka_unit_test_setup_teardown(test_what_others_have_brought_is_not_read,
						setup_shared, teardown),
		T(test_values_are_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
