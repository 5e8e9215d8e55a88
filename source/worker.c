// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Requests, and the threads that serve them; worker_bulk.c has the background
 * fill.
 *
 * A bit a page is the truth about what is wanted, so request() cannot overflow,
 * and asks for no page twice. A ring beside it keeps the order; what does not
 * fit there is found through the bits (base/bit_tree.h), once the ring is
 * empty. What was never asked for costs no memory.
 *
 * A page whose read has failed changes to another bit, and is held until its
 * own time has come, so that no other page waits for it. A small table has the
 * times. Pages that fail while it is full, as when the source is down, are
 * tried again all together. One read that succeeds says that the source is
 * there: none waits for long then.
 *
 * Where pages come in spans, an urgent thread takes all that is wanted of one.
 * It reads from the page that has waited longest to the span's end, fills that
 * page and only then the others, and last what is before it.
 *
 * Pages are numbered through all regions, which begin and end with huge pages.
 * The lock is held neither across a read nor across a call to the sink.
 */
#include "source/worker_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/cond.h"
#include "base/page.h"
#include "base/thread.h"
#include "source/layer.h"

#define BULK_DELAY_NS (10 * NS_PER_MS)
#define SOON_NS (100 * NS_PER_MS)	/* how long a failed page waits at most once another came */

/* ---- numbers of pages, and bits ---- */

/* False: not RAM. */
bool worker_index_of(const struct worker *worker, gfn_t gfn, uint64_t *index)
{
	uint64_t before = 0;
	unsigned int i;

	for (i = 0; i < worker->n_regions; i++) {
		const struct memory_region *region = &worker->regions[i];

		if (gfn.v >= region->first.v && gfn.v - region->first.v < region->pages) {
			*index = before + gfn.v - region->first.v;
			return true;
		}
		before += region->pages;
	}
	return false;
}

gfn_t worker_gfn(const struct worker *worker, uint64_t index)
{
	unsigned int i;

	for (i = 0; index >= worker->regions[i].pages; i++)
		index -= worker->regions[i].pages;
	return GFN(worker->regions[i].first.v + index);
}

bool worker_is_missing(const struct worker *worker, gfn_t gfn)
{
	return memory_page_state(worker->mem, gfn) != PAGE_PRESENT;
}

bool worker_bit_change(uint64_t *bits, uint64_t i, bool on)
{
	bool was = bits[i / 64] >> (i % 64) & 1;

	bits[i / 64] ^= (uint64_t)(was != on) << (i % 64);
	return was != on;
}

/* ---- threads; with the lock held ---- */

static void *urgent_main(void *arg);

int worker_add_thread(struct worker *worker, void *(*main)(void *worker))
{
	int r = thread_start(&worker->thread[worker->threads], main, worker);

	worker->threads += !r;
	return r;
}

static int add_urgent(struct worker *worker)
{
	int r = worker_add_thread(worker, urgent_main);

	worker->urgent += !r;
	worker->starting += !r;
	return r;
}

/*
 * Something is wanted: one that sleeps reads it, or one that is about to begin. Another one is
 * started only where all that there are have something to read, so that one that is warm serves as
 * long as it can. Where none can be started those that there are come to it.
 */
static void call_urgent(struct worker *worker)
{
	if (worker->idle)
		pthread_cond_signal(&worker->changed);
	else if (worker->running && !worker->starting &&
		 worker->urgent < worker->config.urgent_threads)
		add_urgent(worker);
}

/* ---- requests; with the lock held, but for the first ---- */

static void want(struct worker *worker, uint64_t index)
{
	bit_tree_remove(&worker->later, index);
	if (!bit_tree_add(&worker->wanted, index))
		return;
	if (worker->ring_len < WORKER_RING)
		worker->ring[(worker->ring_first + worker->ring_len++) % WORKER_RING] = index;
}

static int worker_request(struct page_source *source, gfn_t first, uint64_t n)
{
	struct worker *worker = (struct worker *)source;	/* the first member */
	uint64_t i, index;
	int r = 0;

	pthread_mutex_lock(&worker->lock);
	if (!worker->running)
		r = -ENOTCONN;
	for (i = 0; i < n && !r; i++)
		if (worker_index_of(worker, GFN(first.v + i), &index)) {
			worker->hint = index;
			if (bit_tree_has(&worker->wanted, index) ||
			    bit_tree_has(&worker->later, index))
				continue;
			worker->stats.requested++;
			worker_replay_asked(worker, index);
			if (worker->config.asked)
				worker->config.asked(worker->config.arg, GFN(first.v + i));
			want(worker, index);
		}
	if (worker->wanted.count)
		call_urgent(worker);
	pthread_mutex_unlock(&worker->lock);
	return r;
}

bool worker_is_busy(const struct worker *worker)
{
	return worker->wanted.count || worker->answering;
}

/* The page that has waited longest, as far as is known. Something is wanted. */
static uint64_t oldest_wanted(struct worker *worker)
{
	uint64_t index;

	while (worker->ring_len) {
		index = worker->ring[worker->ring_first];
		worker->ring_first = (worker->ring_first + 1) % WORKER_RING;
		worker->ring_len--;
		if (bit_tree_has(&worker->wanted, index))
			return index;
	}
	return bit_tree_first(&worker->wanted);
}

/* Pages that one urgent thread has taken: those from `base` on; a bit each. */
struct take {
	uint64_t base;
	unsigned int first;	/* of these: the one that has waited longest */
	unsigned int end;	/* how far a read goes */
	uint64_t wanted;
	uint64_t done;		/* filled, or lost; also of those that nobody wanted */
	int64_t result;		/* of the first read */
};

unsigned int worker_span_pages(const struct worker *worker)
{
	return worker->config.span_pages > 1 ? worker->config.span_pages : 0;
}

/* Takes pages to be read, of one huge page, and of one span where there are such. */
static struct take take_wanted(struct worker *worker)
{
	uint64_t index = oldest_wanted(worker);
	unsigned int span = worker_span_pages(worker), i;
	struct take take = { .base = index };

	if (span) {
		take.base = index / span * span;
		take.first = (unsigned int)(index - take.base);
		take.end = span;
		for (i = 0; i < span; i++)
			take.wanted |= (uint64_t)bit_tree_remove(&worker->wanted, take.base + i)
				       << i;
		return take;
	}
	while (take.end < worker->config.urgent_pages &&
	       (index + take.end) / HUGE_PAGES == index / HUGE_PAGES &&
	       bit_tree_remove(&worker->wanted, index + take.end))
		take.wanted |= UINT64_C(1) << take.end++;
	return take;
}

int64_t worker_time_after(unsigned int failures)
{
	int64_t wait = WORKER_PAUSE_NS << (failures < 10 ? failures - 1 : 9);

	return clock_now_ns() + (wait < WORKER_PAUSE_MAX_NS ? wait : WORKER_PAUSE_MAX_NS);
}

/* ---- pages whose read has failed; with the lock held ---- */

static struct held *find_held(struct worker *worker, uint64_t index)
{
	unsigned int i;

	for (i = 0; i < worker->n_held; i++)
		if (worker->held[i].index == index)
			return &worker->held[i];
	return NULL;
}

/* True: it was damaged so often that it is held no more. */
static bool hold(struct worker *worker, uint64_t index, bool damaged)
{
	struct held *held = find_held(worker, index);

	if (!held && worker->n_held < WORKER_HELD) {
		held = &worker->held[worker->n_held++];
		*held = (struct held){ .index = index };
	}
	if (held) {
		held->damaged = damaged ? held->damaged + 1 : 0;
		if (damaged && held->damaged == worker->config.damaged_tries)
			return true;
		held->until = worker_time_after(++held->failures);
	} else if (worker->others_until == INT64_MAX) {
		worker->others_until = clock_now_ns() + WORKER_PAUSE_MAX_NS;
	}
	bit_tree_remove(&worker->wanted, index);
	bit_tree_add(&worker->later, index);
	/* Who sleeps does not know of this time. */
	pthread_cond_broadcast(&worker->changed);
	return false;
}

/* The page is done with. If it failed before, those that had no place are tried as well. */
static void forget(struct worker *worker, uint64_t index)
{
	struct held *held = find_held(worker, index);

	if (!held)
		return;
	*held = worker->held[--worker->n_held];
	worker->others_until = worker->others_until == INT64_MAX ? INT64_MAX : 0;
}

/* A read has succeeded: the source is there. */
static void hasten(struct worker *worker)
{
	int64_t soon = clock_now_ns() + SOON_NS;
	unsigned int i;

	for (i = 0; i < worker->n_held; i++)
		if (worker->held[i].until != INT64_MAX && worker->held[i].until > soon)
			worker->held[i].until = soon;
	if (worker->others_until != INT64_MAX && worker->others_until > soon)
		worker->others_until = soon;
}

/* Those whose time has come are wanted. When will the next one's come? INT64_MAX: there is none. */
static int64_t want_held(struct worker *worker)
{
	int64_t now = clock_now_ns(), next = INT64_MAX;
	bool others = worker->others_until <= now;
	unsigned int i;

	for (i = 0; i < worker->n_held; i++) {
		if (worker->held[i].until <= now) {
			worker->held[i].until = INT64_MAX;
			want(worker, worker->held[i].index);
		}
		next = worker->held[i].until < next ? worker->held[i].until : next;
	}
	while (others && worker->later.count)
		want(worker, bit_tree_first(&worker->later));
	if (others)
		worker->others_until = INT64_MAX;
	return worker->others_until < next ? worker->others_until : next;
}

/* ---- the urgent threads ---- */

/*
 * Reads pages [at, end) of what was taken, as far as one read goes, and hands up the first `hurry`
 * of them before the others. What the read has returned, or a negative errno.
 */
static int64_t answer_run(struct worker *worker, struct take *take, unsigned int at,
			  unsigned int end, unsigned int hurry, uint8_t *pages)
{
	gfn_t first = worker_gfn(worker, take->base + at);
	struct page_sink *sink = worker->source.sink;
	bool zero = false;
	int64_t got = worker_watch_read(worker, take->base + at, end - at, pages), r;
	unsigned int n, i = 0;

	if (!got)
		got = worker->config.read(worker->config.arg, first, end - at, pages, &zero);

	while (got > 0 && i < got) {
		n = !i && hurry < got ? hurry : (unsigned int)got - i;
		r = sink->ops->fill(sink, GFN(first.v + i), n,
				    zero ? NULL : pages + i * PAGE_BYTES);
		if (r < 0)
			return r;
		for (; n; n--, i++)
			take->done |= UINT64_C(1) << (at + i);
	}
	return got;
}

/* What is left of the span: nobody may want it, but it has been paid for. */
static void answer_rest(struct worker *worker, struct take *take, uint8_t *pages)
{
	unsigned int at = 0, end;

	while (at < take->end) {
		if (take->done >> at & 1 ||
		    !worker_is_missing(worker, worker_gfn(worker, take->base + at))) {
			at++;
			continue;
		}
		end = at + 1;
		while (end < take->end && !(take->done >> end & 1) &&
		       worker_is_missing(worker, worker_gfn(worker, take->base + end)))
			end++;
		if (answer_run(worker, take, at, end, end - at, pages) <= 0)
			return;
	}
}

/*
 * Has another machine brought the first of them meanwhile? Then it is not read; nor is any other
 * one that is here.
 */
static bool is_answered(struct worker *worker, struct take *take)
{
	unsigned int i;

	if (!memory_is_backed(worker->mem))
		return false;
	memory_refresh(worker->mem, worker_gfn(worker, take->base + take->first),
		       take->end - take->first);
	for (i = take->first; i < take->end; i++)
		if (!worker_is_missing(worker, worker_gfn(worker, take->base + i)))
			take->done |= UINT64_C(1) << i;
	take->result = 1;
	return take->done >> take->first & 1;
}

static void worker_answer(struct worker *worker, struct take *take, uint8_t *pages)
{
	struct page_sink *sink = worker->source.sink;
	unsigned int hurry = 0, end = take->first + 1;

	if (is_answered(worker, take))
		return;

	while (take->first + hurry < take->end && take->wanted >> (take->first + hurry) & 1)
		hurry++;
	/* Not what is here already, or there is no such thing as a span. */
	while (end < take->end && worker_is_missing(worker, worker_gfn(worker, take->base + end)))
		end++;
	take->result = answer_run(worker, take, take->first, end, hurry, pages);
	if (take->result == -ENODATA) {
		sink->ops->lose(sink, worker_gfn(worker, take->base + take->first));
		take->done |= UINT64_C(1) << take->first;
	}
	if (take->result > 0 && worker_span_pages(worker))
		answer_rest(worker, take, pages);
}

/*
 * With the lock held. What was wanted and is not done with: the first is what
 * could not be read; the others are tried without it. True: the first is given
 * up, since it is damaged.
 */
static bool finish_read(struct worker *worker, const struct take *take)
{
	uint64_t first = UINT64_C(1) << take->first;
	unsigned int i;

	for (i = 0; i < take->end; i++)
		if (take->done >> i & 1)
			forget(worker, take->base + i);
		else if (take->wanted >> i & 1 && i != take->first)
			want(worker, take->base + i);
	worker->stats.urgent_reads++;
	worker->stats.lost += take->result == -ENODATA;
	if (take->result > 0) {
		worker->stats.urgent_pages +=
			(uint64_t)__builtin_popcountll(take->done & take->wanted);
		worker->stats.span_pages +=
			(uint64_t)__builtin_popcountll(take->done & ~take->wanted);
	}
	if (take->done & first) {
		hasten(worker);
		return false;
	}
	worker->stats.failed++;
	return hold(worker, take->base + take->first, take->result == -EBADMSG);
}

/* With the lock held, given up meanwhile. */
static void serve(struct worker *worker, uint8_t *pages)
{
	struct page_sink *sink = worker->source.sink;
	struct take take = take_wanted(worker);
	uint64_t first = take.base + take.first;

	worker->answering++;
	if (worker->wanted.count)
		call_urgent(worker);
	pthread_mutex_unlock(&worker->lock);
	worker_answer(worker, &take, pages);
	pthread_mutex_lock(&worker->lock);
	if (finish_read(worker, &take)) {
		forget(worker, first);
		worker->stats.lost++;
		pthread_mutex_unlock(&worker->lock);
		sink->ops->lose(sink, worker_gfn(worker, first));
		pthread_mutex_lock(&worker->lock);
	}
	worker->answering--;
	if (!worker_is_busy(worker))
		pthread_cond_broadcast(&worker->bulk_changed);
}

static size_t read_pages(const struct worker *worker)
{
	unsigned int span = worker->config.span_pages, urgent = worker->config.urgent_pages;

	return span > urgent ? span : urgent;
}

static void *urgent_main(void *arg)
{
	struct worker *worker = arg;
	uint8_t *pages;
	int64_t until;

	pthread_setname_np(pthread_self(), "source-urgent");
	thread_is_urgent();
	pthread_mutex_lock(&worker->lock);
	worker->starting--;
	pages = worker->buffers + worker->buffers_used++ * read_pages(worker) * PAGE_BYTES;
	if (worker->running)
		worker_bulk_need(worker);
	while (worker->running) {
		until = want_held(worker);
		if (worker->wanted.count) {
			serve(worker, pages);
			continue;
		}
		worker->idle++;
		cond_wait(&worker->changed, &worker->lock, until);
		worker->idle--;
	}
	pthread_mutex_unlock(&worker->lock);
	return NULL;
}

/* ---- life ---- */

static const struct page_source_ops worker_ops = { .name = "worker", .request = worker_request };

static bool is_usable(const struct worker_config *config)
{
	return config->read && config->urgent_threads >= 1 &&
	       config->urgent_threads <= WORKER_THREADS_MAX &&
	       config->bulk_threads <= WORKER_THREADS_MAX &&
	       config->replay_threads <= WORKER_THREADS_MAX && config->urgent_pages >= 1 &&
	       config->urgent_pages <= WORKER_URGENT_MAX &&
	       config->span_pages <= WORKER_URGENT_MAX &&
	       !(config->span_pages & (config->span_pages - 1)) &&
	       (!config->bulk_threads ||
		(config->bulk_pages >= 1 && config->bulk_pages <= HUGE_PAGES));
}

int worker_new(struct worker **out, const struct worker_config *config, struct memory *mem,
	       struct err *err)
{
	struct worker *worker;

	if (!is_usable(config))
		return err_set(err, -EINVAL,
			       "worker: a reader, 1 to %d threads, and 1 to %d pages a read that "
			       "somebody waits for, 1 to 512 of others",
			       WORKER_THREADS_MAX, WORKER_URGENT_MAX);
	worker = calloc(1, sizeof(*worker));
	if (!worker)
		return err_set(err, -ENOMEM, "no memory for a page source");
	worker->source = (struct page_source){ &worker_ops, memory_sink(mem) };
	worker->mem = mem;
	worker->config = *config;
	worker->bulk.fill = config->fill;
	worker->regions = memory_regions(mem, &worker->n_regions);
	worker->pages = memory_pages(mem);
	pthread_mutex_init(&worker->lock, NULL);
	cond_init(&worker->changed);
	cond_init(&worker->bulk_changed);
	cond_init(&worker->replay_changed);
	*out = worker;
	return 0;
}

struct page_source *worker_source(struct worker *worker)
{
	return &worker->source;
}

static size_t buffers_bytes(const struct worker *worker)
{
	return (size_t)worker->config.urgent_threads * read_pages(worker) * PAGE_BYTES;
}

/* What is there for each page is fresh memory, which costs nothing until it is used. */
static bool start_anew(struct worker *worker)
{
	bool ok = !bit_tree_init(&worker->wanted, worker->pages);

	ok &= !bit_tree_init(&worker->later, worker->pages);
	ok &= worker_bulk_init(&worker->bulk, worker->pages);
	worker->buffers = page_buffer_new(buffers_bytes(worker));
	worker->n_held = worker->ring_len = worker->buffers_used = 0;
	worker->urgent = worker->starting = worker->idle = 0;
	worker->has_bulk = false;
	worker->others_until = INT64_MAX;
	worker->hint = WORKER_NOBODY;
	worker_replay_forget(worker);
	worker->watch.over = false;
	return ok && worker->buffers;
}

static void start_undo(struct worker *worker)
{
	bit_tree_fini(&worker->wanted);
	bit_tree_fini(&worker->later);
	worker_bulk_fini(&worker->bulk);
	page_buffer_free(worker->buffers, buffers_bytes(worker));
	worker->buffers = NULL;
}

int worker_start(struct worker *worker, struct err *err)
{
	int r;

	/* Here, where it can be told: a thread without a buffer would answer nobody. */
	if (!start_anew(worker)) {
		start_undo(worker);
		return err_set(err, -ENOMEM, "no memory for a page source's reads");
	}
	pthread_mutex_lock(&worker->lock);
	worker->bulk.begins = clock_now_ns() + BULK_DELAY_NS;
	worker->running = true;
	/* One, at least, is there whatever comes. It starts the bulk's: who waits here need not. */
	r = add_urgent(worker);
	pthread_mutex_unlock(&worker->lock);
	if (r < 0)
		worker_stop(worker);
	return r < 0 ? err_errno(err, r, "starting a page source's threads") : 0;
}

void worker_stop(struct worker *worker)
{
	pthread_mutex_lock(&worker->lock);
	worker->running = false;
	pthread_cond_broadcast(&worker->changed);
	pthread_cond_broadcast(&worker->bulk_changed);
	pthread_cond_broadcast(&worker->replay_changed);
	pthread_mutex_unlock(&worker->lock);
	if (worker->threads && worker->config.cancel)
		worker->config.cancel(worker->config.arg);
	while (worker->threads)
		pthread_join(worker->thread[--worker->threads], NULL);
	/* Who asks for a page sees that it is stopped, and looks at none of these. */
	pthread_mutex_lock(&worker->lock);
	worker_replay_join(worker);
	start_undo(worker);
	pthread_mutex_unlock(&worker->lock);
	worker_watch_end(worker);
}

void worker_free(struct worker *worker)
{
	if (!worker)
		return;
	worker_stop(worker);
	worker_replay_forget(worker);
	pthread_cond_destroy(&worker->replay_changed);
	pthread_cond_destroy(&worker->bulk_changed);
	pthread_cond_destroy(&worker->changed);
	pthread_mutex_destroy(&worker->lock);
	free(worker);
}

void worker_stats(struct worker *worker, struct worker_stats *stats)
{
	pthread_mutex_lock(&worker->lock);
	*stats = worker->stats;
	stats->bulk_rate = pace_a_second(&worker->bulk.pace, clock_now_ns());
	stats->waiting = worker->wanted.count + worker->later.count;
	stats->failing = (unsigned int)worker->later.count;
	pthread_mutex_unlock(&worker->lock);
}
