// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * snapshot_pause.c - how long a snapshot stops a guest, by the size of memory.
 *
 *	snapshot_pause GiB small|huge [rounds]
 *
 * One thread writes memory at random as a vCPU does, through memory/'s own
 * doors, and keeps the longest gap between two of its writes. Each round:
 * prepare, park, begin, go, and all spans taken and thrown away. Prints what
 * prepare took, the pause (from the request to park until the writer may go
 * on), begin's part of it, and the writer's longest gap around the pause and
 * while spans were taken.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "memory/eject.h"
#include "memory/snapshot.h"

#define ROUNDS_MAX 1000

struct writer {
	struct memory *mem;
	struct memory_thread *waits;
	uint8_t *host;
	uint64_t pages;
	pthread_t thread;
	_Atomic bool park, parked, end, signalled;
	_Atomic int64_t longest_ns;
};

static void on_signal(void *arg)
{
	struct writer *w = arg;

	atomic_store(&w->signalled, true);
}

static void write_on(struct writer *w, uint64_t *seed, int64_t *last)
{
	int64_t now;

	memory_thread_enter(w->waits);
	while (!atomic_load(&w->signalled) && !atomic_load(&w->park)) {
		*seed = *seed * 6364136223846793005u + 1442695040888963407u;
		*(volatile uint64_t *)(void *)(w->host + (*seed >> 20) % w->pages * PAGE_BYTES) = *seed;
		now = clock_now_ns();
		if (now - *last > atomic_load(&w->longest_ns))
			atomic_store(&w->longest_ns, now - *last);
		*last = now;
	}
	memory_thread_left(w->waits, -4);
	atomic_store(&w->signalled, false);
	memory_thread_clear(w->waits);
}

static void *writer_main(void *arg)
{
	struct writer *w = arg;
	uint64_t seed = 1;
	int64_t last = clock_now_ns();

	memory_thread_bind(w->waits);
	while (!atomic_load(&w->end)) {
		if (atomic_load(&w->park)) {
			atomic_store(&w->parked, true);
			while (atomic_load(&w->park) && !atomic_load(&w->end))
				;
			atomic_store(&w->parked, false);
		}
		memory_thread_throttle(w->waits);
		write_on(w, &seed, &last);
	}
	memory_thread_unbind(w->waits);
	return NULL;
}

static void writer_park(struct writer *w)
{
	atomic_store(&w->park, true);
	while (!atomic_load(&w->parked))
		memory_thread_kick(w->waits);
}

static void writer_go(struct writer *w)
{
	atomic_store(&w->park, false);
	while (atomic_load(&w->parked) && !atomic_load(&w->end))
		;
}

static int by_value(const void *a, const void *b)
{
	const int64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static void print_row(const char *what, int64_t *ns, unsigned int n)
{
	unsigned int half = n / 2, most = n * 9 / 10, last = n * 99 / 100;

	qsort(ns, n, sizeof(*ns), by_value);
	printf("%-34s n %u: p50 %8.3f, p90 %8.3f, p99 %8.3f, max %8.3f ms\n", what, n,
	       (double)ns[half] / 1e6, (double)ns[most] / 1e6, (double)ns[last] / 1e6,
	       (double)ns[n - 1] / 1e6);
}

struct rows {
	int64_t prepare[ROUNDS_MAX], pause[ROUNDS_MAX], begin[ROUNDS_MAX], at_pause[ROUNDS_MAX],
		later[ROUNDS_MAX];
	uint64_t again, copied, throttled;
};

static void die(const struct err *err)
{
	fprintf(stderr, "snapshot_pause: %s\n", err->text);
	exit(1);
}

static void take_round(struct writer *w, struct rows *rows, unsigned int i, uint8_t *data)
{
	struct memory_snapshot_stats stats;
	struct memory_snapshot *snapshot;
	struct memory_span span;
	struct err err;
	int64_t start;

	if (memory_snapshot_new(&snapshot, w->mem, NULL, &err) < 0 ||
	    memory_snapshot_prepare(snapshot, &err) < 0)
		die(&err);
	atomic_store(&w->longest_ns, 0);
	start = clock_now_ns();
	writer_park(w);
	if (memory_snapshot_begin(snapshot, &err) < 0)
		die(&err);
	writer_go(w);
	rows->pause[i] = clock_now_ns() - start;
	start = clock_now_ns() + 5 * NS_PER_MS;
	while (clock_now_ns() < start)
		;
	rows->at_pause[i] = atomic_exchange(&w->longest_ns, 0);
	while (memory_snapshot_next(snapshot, &span, data) > 0)
		;
	rows->later[i] = atomic_load(&w->longest_ns);
	memory_snapshot_stats(snapshot, &stats);
	rows->prepare[i] = stats.prepare_ns;
	rows->begin[i] = stats.begin_ns;
	rows->again += stats.armed_again;
	rows->copied += stats.copied;
	rows->throttled += stats.throttled;
	memory_snapshot_end(snapshot, true);
}

int main(int argc, char **argv)
{
	struct memory_range range = { GPA(0), 0 };
	unsigned int rounds = argc > 3 ? (unsigned int)atoi(argv[3]) : 15, i, n;
	uint8_t *data = malloc(MEMORY_SPAN_BYTES);
	static struct rows rows;
	struct writer w = { 0 };
	struct err err;
	uint64_t page;

	if (argc < 3 || atoi(argv[1]) < 1 || rounds < 1 || rounds > ROUNDS_MAX)
		return fprintf(stderr, "snapshot_pause GiB small|huge [rounds]\n"), 2;
	range.len_bytes = (uint64_t)atoi(argv[1]) << 30;
	if (memory_new(&w.mem, &range, 1, &err) < 0)
		die(&err);
	w.host = memory_regions(w.mem, &n)->host;
	w.pages = range.len_bytes / PAGE_BYTES;
	if (!strcmp(argv[2], "small"))
		madvise(w.host, range.len_bytes, MADV_NOHUGEPAGE);
	for (page = 0; page < w.pages; page++)
		w.host[page * PAGE_BYTES] = 1;
	w.waits = memory_thread_new(w.mem, "writer", 0);
	memory_thread_set_signal(w.waits, on_signal, &w);
	pthread_create(&w.thread, NULL, writer_main, &w);
	for (i = 0; i < rounds; i++)
		take_round(&w, &rows, i, data);
	printf("%s GiB, %s pages\n", argv[1], argv[2]);
	print_row("prepare", rows.prepare, rounds);
	print_row("pause, asked for to over", rows.pause, rounds);
	print_row("begin's part", rows.begin, rounds);
	print_row("writer's longest gap, at the pause", rows.at_pause, rounds);
	print_row("the same, while spans are taken", rows.later, rounds);
	printf("a round: %" PRIu64 " huge pages armed in the pause, %" PRIu64
	       " spans copied before a write, %" PRIu64 " times throttled\n",
	       rows.again / rounds, rows.copied / rounds, rows.throttled / rounds);
	writer_park(&w);
	atomic_store(&w.end, true);
	pthread_join(w.thread, NULL);
	memory_thread_free(w.waits);
	memory_free(w.mem);
	free(data);
	return 0;
}
