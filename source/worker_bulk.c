// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * The background fill. A bit a huge page says that one of the bulk's threads
 * has taken it. Within a huge page only what is not PRESENT is read, so a
 * worker that is started on half a guest brings the other half. A huge page
 * with a page that cannot be read is left over; once all are taken those are
 * given free again, after a pause. The next visit begins behind the page that
 * failed, and so brings the rest. A page that the reader does not have is
 * passed over: it is lost only once somebody wants it.
 *
 * It begins some milliseconds after the worker: a guest's first instructions
 * are not to share two CPUs, and KVM's locks, with it.
 *
 * Between two reads a thread waits while the fill is off, while a replay
 * (worker_replay.c) brings what will be wanted before all else, while its rate is
 * used up, and, for a moment, while somebody waits for a page: two reads share
 * a disk or a line, and the one that somebody waits for is to have it. Only for
 * a moment, or a guest that never stops missing pages would never have them
 * all.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/cond.h"
#include "base/log.h"
#include "base/thread.h"
#include "source/worker_internal.h"

#define YIELD_NS (5 * NS_PER_MS) /* at most, before each read */

/* What of a huge page is to be looked at yet: pages [at, end), and then [first, back). */
struct visit {
	uint64_t first, at, end, back;
};

/* ---- which comes next; with the lock held ---- */

/* The next huge page for the caller; false: all are taken. */
static bool take_huge(struct worker *worker, struct visit *visit)
{
	uint64_t huge = worker->hint == WORKER_NOBODY ? 0 : worker->hint / HUGE_PAGES;
	struct bulk *bulk = &worker->bulk;

	if (worker->hint == WORKER_NOBODY || !worker_bit_change(bulk->taken, huge, true)) {
		while (bulk->next < worker->pages / HUGE_PAGES &&
		       !worker_bit_change(bulk->taken, bulk->next, true))
			bulk->next++;
		huge = bulk->next;
	}
	worker->hint = WORKER_NOBODY;
	if (huge >= worker->pages / HUGE_PAGES)
		return false;
	visit->first = huge * HUGE_PAGES;
	visit->end = visit->first + HUGE_PAGES;
	visit->at = visit->back = visit->first + bulk->begin[huge];
	return true;
}

/* Page visit->at cannot be read: ends the visit. */
static void leave_over(struct worker *worker, struct visit *visit)
{
	uint64_t huge = visit->first / HUGE_PAGES;
	struct bulk *bulk = &worker->bulk;

	worker->stats.failed++;
	bulk->begin[huge] = (uint16_t)((visit->at + 1) % HUGE_PAGES);
	bulk->n_left += worker_bit_change(bulk->left, huge, true);
	bulk->round_until = worker_time_after(bulk->rounds);
	visit->at = visit->end = visit->back = visit->first;
}

/*
 * All are taken, some left over: frees these if it is time, else sleeps until
 * then, or until stop.
 */
static void next_round(struct worker *worker)
{
	struct bulk *bulk = &worker->bulk;
	uint64_t i;

	if (clock_now_ns() < bulk->round_until) {
		cond_wait(&worker->bulk_changed, &worker->lock, bulk->round_until);
		return;
	}
	for (i = 0; i < worker->pages / HUGE_PAGES; i++)
		if (worker_bit_change(bulk->left, i, false))
			worker_bit_change(bulk->taken, i, false);
	bulk->n_left = bulk->next = 0;
	bulk->rounds = worker->stats.bulk_pages == bulk->brought ? bulk->rounds + 1 : 1;
	bulk->brought = worker->stats.bulk_pages;
}

/* Until the fill is on, has its rate, and nobody waits (or has waited for long enough), or stop. */
static void wait_turn(struct worker *worker)
{
	int64_t yield_until = clock_now_ns() + YIELD_NS, now, wait, replay;
	struct bulk *bulk = &worker->bulk;

	while (worker->running) {
		now = clock_now_ns();
		if (bulk->fill.off) {
			cond_wait(&worker->bulk_changed, &worker->lock, INT64_MAX);
			continue;
		}
		replay = worker_replay_until(worker);
		if (replay > now) {
			cond_wait(&worker->bulk_changed, &worker->lock, replay);
			continue;
		}
		wait = bucket_take(&bulk->bucket, 0, now);
		if (now < bulk->begins)
			cond_wait(&worker->bulk_changed, &worker->lock, bulk->begins);
		else if (wait)
			cond_wait(&worker->bulk_changed, &worker->lock, now + wait);
		else if (worker_is_busy(worker) && now < yield_until)
			cond_wait(&worker->bulk_changed, &worker->lock, yield_until);
		else
			break;
	}
}

/* Sees to it that there is something to look at. False: there is nothing more to bring, or stop. */
static bool go_on(struct worker *worker, struct visit *visit)
{
	wait_turn(worker);
	if (visit->at == visit->end) {
		visit->at = visit->first;
		visit->end = visit->back;
		visit->back = visit->first;
	}
	while (worker->running && visit->at == visit->end && !take_huge(worker, visit)) {
		if (!worker->bulk.n_left)
			return false;
		next_round(worker);
	}
	return worker->running;
}

/* ---- without it ---- */

/* A run that is missing. How many pages are done with; 0: none can be read now. */
static uint64_t bring(struct worker *worker, gfn_t first, uint64_t n)
{
	struct page_sink *sink = worker->source.sink;
	int64_t got, room, placed;
	bool zero = false;
	void *data;

	room = sink->ops->room(sink, first, n, &data);
	if (room < 0)
		return 0;
	got = worker->config.read(worker->config.arg, first, (uint64_t)room, data, &zero);
	placed = sink->ops->commit(sink, first, got > 0 && !zero ? (uint64_t)got : 0, data);
	if (got > 0 && zero)
		placed = sink->ops->commit(sink, first, (uint64_t)got, NULL);
	pthread_mutex_lock(&worker->lock);
	worker->stats.bulk_reads++;
	worker->stats.bulk_pages += got > 0 && placed >= 0 ? (uint64_t)got : 0;
	pace_add(&worker->bulk.pace, got > 0 && placed >= 0 ? (uint64_t)got : 0, clock_now_ns());
	if (got > 0 && !zero)
		bucket_charge(&worker->bulk.bucket, (uint64_t)got * PAGE_BYTES, clock_now_ns());
	pthread_mutex_unlock(&worker->lock);
	return got == -ENODATA ? 1 : got < 0 || placed < 0 ? 0 : (uint64_t)got;
}

/* Pages [*at, end) of a huge page, as far as one read goes. False: it failed. */
static bool bring_run(struct worker *worker, uint64_t *at, uint64_t end)
{
	gfn_t first = worker_gfn(worker, *at);
	uint64_t n = 0, done;

	memory_refresh(worker->mem, first, end - *at);
	while (*at < end && !worker_is_missing(worker, first)) {
		++*at;
		first.v++;
	}
	while (*at + n < end && n < worker->config.bulk_pages &&
	       worker_is_missing(worker, GFN(first.v + n)))
		n++;
	done = n ? bring(worker, first, n) : 0;
	*at += done;
	return done || !n;
}

static void *worker_bulk_main(void *arg)
{
	struct worker *worker = arg;
	struct visit visit = { 0 };
	bool ok;

	pthread_setname_np(pthread_self(), "source-bulk");
	thread_is_bulk();
	pthread_mutex_lock(&worker->lock);
	while (go_on(worker, &visit)) {
		pthread_mutex_unlock(&worker->lock);
		ok = bring_run(worker, &visit.at, visit.end);
		thread_give_way();
		pthread_mutex_lock(&worker->lock);
		if (!ok)
			leave_over(worker, &visit);
	}
	pthread_mutex_unlock(&worker->lock);
	return NULL;
}

/* ---- settings, life ---- */

void worker_bulk_need(struct worker *worker)
{
	unsigned int i;
	int r = 0;

	if (worker->has_bulk || worker->bulk.fill.off)
		return;
	for (i = 0; i < worker->config.bulk_threads && !r; i++) {
		r = worker_add_thread(worker, worker_bulk_main);
		worker->has_bulk |= !r;
	}
	if (r < 0)
		log_warn("a page source's background fill has fewer threads than it should: %s",
			 strerror(-r));
}

void worker_set_fill(struct worker *worker, const struct worker_fill *fill)
{
	pthread_mutex_lock(&worker->lock);
	worker->bulk.fill = *fill;
	bucket_set_rate(&worker->bulk.bucket, fill->rate, clock_now_ns());
	if (worker->running)
		worker_bulk_need(worker);
	pthread_cond_broadcast(&worker->bulk_changed);
	pthread_mutex_unlock(&worker->lock);
}

void worker_get_fill(struct worker *worker, struct worker_fill *fill)
{
	pthread_mutex_lock(&worker->lock);
	*fill = worker->bulk.fill;
	pthread_mutex_unlock(&worker->lock);
}

bool worker_bulk_init(struct bulk *bulk, uint64_t pages)
{
	size_t words = pages / HUGE_PAGES / 64 + 1;

	bulk->taken = calloc(words, sizeof(uint64_t));
	bulk->left = calloc(words, sizeof(uint64_t));
	bulk->begin = calloc(pages / HUGE_PAGES, sizeof(uint16_t));
	bulk->next = bulk->n_left = bulk->brought = 0;
	bulk->rounds = 1;
	bucket_init(&bulk->bucket, bulk->fill.rate, clock_now_ns());
	return bulk->taken && bulk->left && bulk->begin;
}

void worker_bulk_fini(struct bulk *bulk)
{
	free(bulk->taken);
	free(bulk->left);
	free(bulk->begin);
	bulk->taken = bulk->left = NULL;
	bulk->begin = NULL;
}
