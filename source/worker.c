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
#include "source/worker.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/cond.h"
#include "base/page.h"
#include "base/thread.h"
#include "source/layer.h"

#define WORKER_RING 256u
#define NOBODY UINT64_MAX
#define HELD 64u
#define WORKER_PAUSE_NS (10 * NS_PER_MS)	/* after the first failure in a row; doubles */
#define WORKER_PAUSE_MAX_NS (5 * NS_PER_SEC)

/* A page whose last read has failed. */
struct held {
	uint64_t index;
	int64_t until;			/* INT64_MAX: it is wanted again, or being read */
	unsigned int failures;
};

struct worker {
	struct page_source source;
	struct memory *mem;
	struct worker_config config;
	const struct memory_region *regions;
	unsigned int n_regions;
	uint64_t pages;
	pthread_t thread[2 * WORKER_THREADS_MAX];
	unsigned int threads;
	uint8_t *buffers;		/* an urgent read's pages, for each urgent thread */

	pthread_mutex_t lock;		/* guards the rest */
	pthread_cond_t changed;		/* something is wanted or held, or stop; for urgent threads */
	pthread_cond_t stopped;		/* for the bulk's, when they pause */
	unsigned int buffers_used;
	bool running;			/* else request() says -ENOTCONN, and the threads end */
	uint64_t *wanted;		/* a bit a page: to be read now */
	uint64_t *later;		/* a bit a page: not before its time; then it is not wanted */
	uint64_t n_wanted, n_later;
	struct held held[HELD];
	unsigned int n_held;
	int64_t others_until;		/* the time of those without a place in held, or INT64_MAX */
	uint64_t ring[WORKER_RING];		/* pages in the order of their requests */
	unsigned int ring_first, ring_len;
	uint64_t *taken;		/* a bit a huge page */
	uint64_t next_huge;		/* all before it are taken */
	uint64_t *left;			/* a bit a huge page: taken, and left over */
	uint16_t *begin;		/* a huge page: the page in it with which a visit begins */
	uint64_t n_left;
	unsigned int rounds;		/* through those left over, since one brought a page */
	uint64_t brought;		/* stats.bulk_pages when this one began */
	int64_t round_until;		/* the next one does not begin before */
	uint64_t hint;			/* the page that was requested last, or NOBODY */
	struct worker_stats stats;
};

/* ---- numbers of pages, and bits ---- */

/* False: not RAM. */
static bool worker_index_of(const struct worker *worker, gfn_t gfn, uint64_t *index)
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

static gfn_t gfn_of(const struct worker *worker, uint64_t index)
{
	unsigned int i;

	for (i = 0; index >= worker->regions[i].pages; i++)
		index -= worker->regions[i].pages;
	return GFN(worker->regions[i].first.v + index);
}

static bool bit_get(const uint64_t *bits, uint64_t i)
{
	return bits[i / 64] >> (i % 64) & 1;
}

/* Was it another before? */
static bool bit_change(uint64_t *bits, uint64_t i, bool on)
{
	bool was = bit_get(bits, i);

	bits[i / 64] ^= (uint64_t)(was != on) << (i % 64);
	return was != on;
}

/* ---- requests; with the lock held, but for the first ---- */

static void want(struct worker *worker, uint64_t index)
{
	worker->n_later -= bit_change(worker->later, index, false);
	if (!bit_change(worker->wanted, index, true))
		return;
	worker->n_wanted++;
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
			if (bit_get(worker->wanted, index) || bit_get(worker->later, index))
				continue;
			worker->stats.requested++;
			want(worker, index);
		}
	pthread_cond_signal(&worker->changed);
	pthread_mutex_unlock(&worker->lock);
	return r;
}

/* The page that has waited longest, as far as is known. Something is wanted. */
static uint64_t oldest_wanted(struct worker *worker)
{
	uint64_t index, word;

	while (worker->ring_len) {
		index = worker->ring[worker->ring_first];
		worker->ring_first = (worker->ring_first + 1) % WORKER_RING;
		worker->ring_len--;
		if (bit_get(worker->wanted, index))
			return index;
	}
	for (word = 0; !worker->wanted[word]; word++)
		;
	return 64 * word + (uint64_t)__builtin_ctzll(worker->wanted[word]);
}

/* Takes pages to be read, of one huge page. */
static uint64_t take_wanted(struct worker *worker, uint64_t *first)
{
	uint64_t n = 0;

	*first = oldest_wanted(worker);
	while (n < worker->config.urgent_pages && (*first + n) / HUGE_PAGES == *first / HUGE_PAGES &&
	       bit_change(worker->wanted, *first + n, false))
		n++;
	worker->n_wanted -= n;
	return n;
}

/* When to try again after the `failures`th failure in a row. */
static int64_t worker_time_after(unsigned int failures)
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

static void hold(struct worker *worker, uint64_t index)
{
	struct held *held = find_held(worker, index);

	if (!held && worker->n_held < HELD) {
		held = &worker->held[worker->n_held++];
		*held = (struct held){ .index = index };
	}
	if (held)
		held->until = worker_time_after(++held->failures);
	else if (worker->others_until == INT64_MAX)
		worker->others_until = clock_now_ns() + WORKER_PAUSE_MAX_NS;
	worker->n_wanted -= bit_change(worker->wanted, index, false);
	worker->n_later += bit_change(worker->later, index, true);
	/* Who sleeps does not know of this time. */
	pthread_cond_broadcast(&worker->changed);
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

/* Those whose time has come are wanted. When will the next one's come? INT64_MAX: there is none. */
static int64_t want_held(struct worker *worker)
{
	int64_t now = clock_now_ns(), next = INT64_MAX;
	bool others = worker->others_until <= now;
	uint64_t word;
	unsigned int i;

	for (i = 0; i < worker->n_held; i++) {
		if (worker->held[i].until <= now) {
			worker->held[i].until = INT64_MAX;
			want(worker, worker->held[i].index);
		}
		next = worker->held[i].until < next ? worker->held[i].until : next;
	}
	for (word = 0; others && word < worker->pages / 64; word++)
		while (worker->later[word])
			want(worker, 64 * word + (uint64_t)__builtin_ctzll(worker->later[word]));
	if (others)
		worker->others_until = INT64_MAX;
	return worker->others_until < next ? worker->others_until : next;
}

/* ---- the urgent threads ---- */

/* n pages that somebody waits for. How many are done with; 0: none can be read now. */
static uint64_t answer(struct worker *worker, gfn_t first, uint64_t n, uint8_t *pages)
{
	struct page_sink *sink = worker->source.sink;
	bool zero = false;
	int64_t got = worker->config.read(worker->config.arg, first, n, pages, &zero);

	if (got > 0 && sink->ops->fill(sink, first, (uint64_t)got, zero ? NULL : pages) < 0)
		return 0;
	if (got == -ENODATA)
		sink->ops->lose(sink, first);
	pthread_mutex_lock(&worker->lock);
	worker->stats.urgent_reads++;
	worker->stats.urgent_pages += got > 0 ? (uint64_t)got : 0;
	worker->stats.lost += got == -ENODATA;
	pthread_mutex_unlock(&worker->lock);
	return got == -ENODATA ? 1 : got < 0 ? 0 : (uint64_t)got;
}

/*
 * Of n pages that were read `done` are done with. If none is, the first is what could not be read;
 * the others are tried without it.
 */
static void settle(struct worker *worker, uint64_t first, uint64_t n, uint64_t done)
{
	uint64_t i;

	for (i = 0; i < done; i++)
		forget(worker, first + i);
	for (i = done ? done : 1; i < n; i++)
		want(worker, first + i);
	if (done)
		return;
	worker->stats.failed++;
	hold(worker, first);
}

static void *urgent_main(void *arg)
{
	struct worker *worker = arg;
	uint64_t first, n, done;
	uint8_t *pages;
	int64_t until;

	pthread_setname_np(pthread_self(), "source-urgent");
	thread_is_urgent();
	pthread_mutex_lock(&worker->lock);
	pages = worker->buffers + worker->buffers_used++ * worker->config.urgent_pages * PAGE_BYTES;
	while (worker->running) {
		until = want_held(worker);
		if (!worker->n_wanted) {
			cond_wait(&worker->changed, &worker->lock, until);
			continue;
		}
		n = take_wanted(worker, &first);
		if (worker->n_wanted)
			pthread_cond_signal(&worker->changed);
		pthread_mutex_unlock(&worker->lock);
		done = answer(worker, gfn_of(worker, first), n, pages);
		pthread_mutex_lock(&worker->lock);
		settle(worker, first, n, done);
	}
	pthread_mutex_unlock(&worker->lock);
	return NULL;
}

/* ---- the bulk's threads ---- */

/* What of a huge page is to be looked at yet: pages [at, end), and then [first, back). */
struct visit {
	uint64_t first, at, end, back;
};

/* The next huge page for the caller, who holds the lock; false: all are taken. */
static bool take_huge(struct worker *worker, struct visit *visit)
{
	uint64_t huge = worker->hint == NOBODY ? 0 : worker->hint / HUGE_PAGES;

	if (worker->hint == NOBODY || !bit_change(worker->taken, huge, true)) {
		while (worker->next_huge < worker->pages / HUGE_PAGES &&
		       !bit_change(worker->taken, worker->next_huge, true))
			worker->next_huge++;
		huge = worker->next_huge;
	}
	worker->hint = NOBODY;
	if (huge >= worker->pages / HUGE_PAGES)
		return false;
	visit->first = huge * HUGE_PAGES;
	visit->end = visit->first + HUGE_PAGES;
	visit->at = visit->back = visit->first + worker->begin[huge];
	return true;
}

/* Page visit->at cannot be read: ends the visit. */
static void leave_over(struct worker *worker, struct visit *visit)
{
	uint64_t huge = visit->first / HUGE_PAGES;

	worker->stats.failed++;
	worker->begin[huge] = (uint16_t)((visit->at + 1) % HUGE_PAGES);
	worker->n_left += bit_change(worker->left, huge, true);
	worker->round_until = worker_time_after(worker->rounds);
	visit->at = visit->end = visit->back = visit->first;
}

/* All are taken, some left over: frees these if it is time, else sleeps until then, or until stop. */
static void next_round(struct worker *worker)
{
	uint64_t i;

	if (clock_now_ns() < worker->round_until) {
		cond_wait(&worker->stopped, &worker->lock, worker->round_until);
		return;
	}
	for (i = 0; i < worker->pages / HUGE_PAGES; i++)
		if (bit_change(worker->left, i, false))
			bit_change(worker->taken, i, false);
	worker->n_left = worker->next_huge = 0;
	worker->rounds = worker->stats.bulk_pages == worker->brought ? worker->rounds + 1 : 1;
	worker->brought = worker->stats.bulk_pages;
}

/* Sees to it that there is something to look at. False: there is nothing more to bring, or stop. */
static bool go_on(struct worker *worker, struct visit *visit)
{
	if (visit->at == visit->end) {
		visit->at = visit->first;
		visit->end = visit->back;
		visit->back = visit->first;
	}
	while (worker->running && visit->at == visit->end && !take_huge(worker, visit)) {
		if (!worker->n_left)
			return false;
		next_round(worker);
	}
	return worker->running;
}

static bool is_missing(const struct worker *worker, gfn_t gfn)
{
	return memory_page_state(worker->mem, gfn) != PAGE_PRESENT;
}

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
	pthread_mutex_unlock(&worker->lock);
	return got == -ENODATA ? 1 : got < 0 || placed < 0 ? 0 : (uint64_t)got;
}

/* Pages [*at, end) of a huge page, as far as one read goes. False: it failed. */
static bool bring_run(struct worker *worker, uint64_t *at, uint64_t end)
{
	gfn_t first = gfn_of(worker, *at);
	uint64_t n = 0, done;

	while (*at < end && !is_missing(worker, first)) {
		++*at;
		first.v++;
	}
	while (*at + n < end && n < worker->config.bulk_pages &&
	       is_missing(worker, GFN(first.v + n)))
		n++;
	done = n ? bring(worker, first, n) : 0;
	*at += done;
	return done || !n;
}

static void *bulk_main(void *arg)
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

/* ---- life ---- */

static const struct page_source_ops worker_ops = { .name = "worker", .request = worker_request };

static bool is_usable(const struct worker_config *config)
{
	return config->read && config->urgent_threads >= 1 &&
	       config->urgent_threads <= WORKER_THREADS_MAX &&
	       config->bulk_threads <= WORKER_THREADS_MAX &&
	       config->urgent_pages >= 1 && config->urgent_pages <= HUGE_PAGES &&
	       (!config->bulk_threads ||
		(config->bulk_pages >= 1 && config->bulk_pages <= HUGE_PAGES));
}

static size_t huge_map_words(const struct worker *worker)
{
	return worker->pages / HUGE_PAGES / 64 + 1;
}

static bool make_maps(struct worker *worker)
{
	worker->wanted = calloc(worker->pages / 64, sizeof(uint64_t));
	worker->later = calloc(worker->pages / 64, sizeof(uint64_t));
	worker->taken = calloc(huge_map_words(worker), sizeof(uint64_t));
	worker->left = calloc(huge_map_words(worker), sizeof(uint64_t));
	worker->begin = calloc(worker->pages / HUGE_PAGES, sizeof(uint16_t));
	return worker->wanted && worker->later && worker->taken && worker->left && worker->begin;
}

int worker_new(struct worker **out, const struct worker_config *config, struct memory *mem,
	       struct err *err)
{
	struct worker *worker;

	if (!is_usable(config))
		return err_set(err, -EINVAL, "worker: a reader, 1 to %d threads and 1 to 512 pages a read",
			       WORKER_THREADS_MAX);
	worker = calloc(1, sizeof(*worker));
	if (!worker)
		return err_set(err, -ENOMEM, "no memory for a page source");
	worker->source = (struct page_source){ &worker_ops, memory_sink(mem) };
	worker->mem = mem;
	worker->config = *config;
	worker->regions = memory_regions(mem, &worker->n_regions);
	worker->pages = memory_pages(mem);
	pthread_mutex_init(&worker->lock, NULL);
	cond_init(&worker->changed);
	cond_init(&worker->stopped);
	if (!make_maps(worker)) {
		worker_free(worker);
		return err_set(err, -ENOMEM, "no memory for a page source");
	}
	*out = worker;
	return 0;
}

struct page_source *worker_source(struct worker *worker)
{
	return &worker->source;
}

static size_t buffers_bytes(const struct worker *worker)
{
	return (size_t)worker->config.urgent_threads * worker->config.urgent_pages * PAGE_BYTES;
}

static void start_anew(struct worker *worker)
{
	pthread_mutex_lock(&worker->lock);
	memset(worker->wanted, 0, worker->pages / 8);
	memset(worker->later, 0, worker->pages / 8);
	worker->n_wanted = worker->n_later = worker->n_held = worker->ring_len = 0;
	worker->others_until = INT64_MAX;
	memset(worker->taken, 0, huge_map_words(worker) * sizeof(uint64_t));
	memset(worker->left, 0, huge_map_words(worker) * sizeof(uint64_t));
	memset(worker->begin, 0, worker->pages / HUGE_PAGES * sizeof(uint16_t));
	worker->next_huge = worker->n_left = 0;
	worker->rounds = 1;
	worker->brought = worker->stats.bulk_pages;
	worker->hint = NOBODY;
	worker->buffers_used = 0;
	worker->running = true;
	pthread_mutex_unlock(&worker->lock);
}

int worker_start(struct worker *worker, struct err *err)
{
	unsigned int i, all = worker->config.urgent_threads + worker->config.bulk_threads;
	int r = 0;

	/* Here, where it can be told: a thread without a buffer would answer nobody. */
	worker->buffers = page_buffer_new(buffers_bytes(worker));
	if (!worker->buffers)
		return err_set(err, -ENOMEM, "no memory for a page source's reads");
	start_anew(worker);
	for (i = 0; i < all && !r; i++) {
		r = thread_start(&worker->thread[i],
				 i < worker->config.urgent_threads ? urgent_main : bulk_main, worker);
		worker->threads += !r;
	}
	if (r < 0)
		worker_stop(worker);
	return r < 0 ? err_errno(err, r, "starting a page source's threads") : 0;
}

void worker_stop(struct worker *worker)
{
	pthread_mutex_lock(&worker->lock);
	worker->running = false;
	pthread_cond_broadcast(&worker->changed);
	pthread_cond_broadcast(&worker->stopped);
	pthread_mutex_unlock(&worker->lock);
	if (worker->threads && worker->config.cancel)
		worker->config.cancel(worker->config.arg);
	while (worker->threads)
		pthread_join(worker->thread[--worker->threads], NULL);
	page_buffer_free(worker->buffers, buffers_bytes(worker));
	worker->buffers = NULL;
}

void worker_free(struct worker *worker)
{
	if (!worker)
		return;
	worker_stop(worker);
	pthread_cond_destroy(&worker->stopped);
	pthread_cond_destroy(&worker->changed);
	pthread_mutex_destroy(&worker->lock);
	free(worker->wanted);
	free(worker->later);
	free(worker->taken);
	free(worker->left);
	free(worker->begin);
	free(worker);
}

void worker_stats(struct worker *worker, struct worker_stats *stats)
{
	pthread_mutex_lock(&worker->lock);
	*stats = worker->stats;
	stats->waiting = worker->n_wanted + worker->n_later;
	pthread_mutex_unlock(&worker->lock);
}
