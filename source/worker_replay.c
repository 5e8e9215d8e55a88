// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * The replay: what will be wanted soon, in that order, by threads of its own. A
 * read begins with the first span in that order that nobody has taken, and goes
 * on, in both directions, through those that are in the set, too: they will be
 * wanted as well, and come with the same request. So reads are large even where
 * the order is random. The first ones are small, for they are wanted soonest.
 *
 * How many pages are under way at once, a window says (window.h). A span that
 * somebody comes to wait for is taken out of the set, and read by the urgent
 * threads; one that is being read at that moment is read twice, and the faster
 * read counts.
 *
 * Where all of a huge page is in the set it goes up by room and commit, and so
 * becomes one that is whole; else by fill.
 *
 * Of some huge pages the spans are read, and not filled: a page that is here
 * raises no event, so what comes by a replay never tells whether it was touched.
 * Who touches these asks for them, and finds them read (worker_watch.c).
 *
 * A read that fails is not repeated: its pages come by the bulk, or by being
 * asked for. Several in a row end the replay; it is only a hint.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/cond.h"
#include "base/page.h"
#include "base/thread.h"
#include "source/worker_internal.h"

#define READ_PAGES 256u /* at most: 1 MiB, which is what images are read by */
#define FIRST_PAGES 32u /* of the first read; doubles */
#define DOUBLINGS 3u /* then it is READ_PAGES */
#define WINDOW_LEAST 512u
#define WINDOW_MOST 3072u /* 12 MiB: less than an image's cache of frames */
#define FAILURES_MAX 8u /* in a row */

/* What one thread reads: of one huge page. */
struct replay_run {
	uint64_t first, n; /* numbers of pages */
	bool watched;
	bool whole; /* all of the huge page is in the set */
	struct window_mark mark;
	/* what has become of it */
	uint64_t pages, bytes;
	bool failed;
};

static bool replay_bit(const uint64_t *bits, uint64_t i)
{
	return bits[i / 64] >> (i % 64) & 1;
}

/* ---- with the lock held ---- */

static unsigned int replay_span(const struct worker *worker)
{
	unsigned int span = worker_span_pages(worker);

	return span ? span : 1;
}

static bool replay_is_running(const struct worker *worker)
{
	return worker->replay.state == WORKER_REPLAY_RUNNING;
}

static void replay_end(struct worker *worker, enum worker_replay_state as)
{
	if (!replay_is_running(worker))
		return;
	worker->replay.state = as;
	worker->replay.ended_ns = clock_now_ns();
	pthread_cond_broadcast(&worker->replay_changed);
	pthread_cond_broadcast(&worker->bulk_changed);
}

void worker_replay_asked(struct worker *worker, uint64_t index)
{
	struct replay *replay = &worker->replay;
	uint64_t span = index / replay_span(worker);

	if (replay->state == WORKER_REPLAY_NONE)
		return;
	if (!replay_bit(replay->set, span)) {
		replay->missed++;
		return;
	}
	replay->asked++;
	worker_bit_change(replay->pending, span, false);
}

int64_t worker_replay_until(const struct worker *worker)
{
	return replay_is_running(worker) ? worker->replay.config.until_ns : 0;
}

/* Is it one whose spans show whether they are touched? Another one each turn. */
static bool replay_watches(const struct replay *replay, uint64_t huge)
{
	return replay->config.watch_one_in &&
	       (huge + replay->config.turn) % replay->config.watch_one_in == 0;
}

static bool replay_take_span(struct replay *replay, uint64_t span)
{
	return replay_bit(replay->pending, span) && worker_bit_change(replay->pending, span, false);
}

/* From this span on, in both directions. */
static void replay_grow(struct worker *worker, uint64_t span, struct replay_run *run)
{
	struct replay *replay = &worker->replay;
	uint64_t pages = replay_span(worker), most = READ_PAGES;
	uint64_t from = span, end = span + 1, low, high, i;

	if (replay->takes < DOUBLINGS)
		most = FIRST_PAGES << replay->takes;
	low = span * pages / HUGE_PAGES * (HUGE_PAGES / pages);
	high = low + HUGE_PAGES / pages;
	worker_bit_change(replay->pending, span, false);
	while (end < high && (end - from) * pages < most && replay_take_span(replay, end))
		end++;
	while (from > low && (end - from) * pages < most && replay_take_span(replay, from - 1))
		from--;
	run->first = from * pages;
	run->n = (end - from) * pages;
	run->watched = replay_watches(replay, run->first / HUGE_PAGES);
	run->whole = !run->watched;
	for (i = low; i < high && run->whole; i++)
		run->whole = replay_bit(replay->set, i);
	replay->takes++;
}

/* Waits until there is room in the window. False: there is nothing more to be done. */
static bool replay_take(struct worker *worker, struct replay_run *run)
{
	struct replay *replay = &worker->replay;
	int64_t now = clock_now_ns();

	*run = (struct replay_run){ 0 };
	while (worker->running && replay_is_running(worker) && now < replay->config.until_ns) {
		while (replay->next < replay->n &&
		       !replay_bit(replay->pending,
				   replay->order[replay->next] / replay_span(worker)))
			replay->next++;
		if (replay->next == replay->n)
			return false;
		if (replay->in_flight < replay->window.size) {
			replay_grow(worker, replay->order[replay->next] / replay_span(worker), run);
			replay->in_flight += run->n;
			run->mark = window_begin(&replay->window, now);
			return true;
		}
		cond_wait(&worker->replay_changed, &worker->lock, replay->config.until_ns);
		now = clock_now_ns();
	}
	return false;
}

static void replay_finish(struct worker *worker, const struct replay_run *run)
{
	struct replay *replay = &worker->replay;

	replay->in_flight -= run->n;
	replay->reads++;
	replay->pages += run->pages;
	replay->bytes += run->bytes;
	replay->failures = run->failed ? replay->failures + 1 : 0;
	window_end(&replay->window, &run->mark, run->bytes / PAGE_BYTES, clock_now_ns());
	pthread_cond_broadcast(&worker->replay_changed);
	if (replay->failures >= FAILURES_MAX)
		replay_end(worker, WORKER_REPLAY_FAILED);
	else if (replay->config.bytes_max && replay->bytes >= replay->config.bytes_max)
		replay_end(worker, WORKER_REPLAY_ENDED);
}

/* ---- without it ---- */

static int64_t replay_read(struct worker *worker, gfn_t first, uint64_t n, void *data, bool *zero)
{
	const struct worker_config *config = &worker->config;

	return (config->read_soon ? config->read_soon : config->read)(config->arg, first, n, data,
								      zero);
}

/* Pages [at, at + n) are missing: reads what one read has of them, and hands it up. How many. */
static int64_t replay_place(struct worker *worker, struct replay_run *run, uint64_t at, uint64_t n,
			    void *own)
{
	gfn_t first = worker_gfn(worker, at);
	struct page_sink *sink = worker->source.sink;
	int64_t got, room, placed = 0;
	bool zero = false;
	void *data = own;

	if (run->whole) {
		room = sink->ops->room(sink, first, n, &data);
		if (room < 0)
			return room;
		n = (uint64_t)room;
	}
	got = replay_read(worker, first, n, data, &zero);
	if (run->whole)
		placed = sink->ops->commit(sink, first, got > 0 && !zero ? (uint64_t)got : 0, data);
	if (got > 0 && run->whole && zero)
		placed = sink->ops->commit(sink, first, (uint64_t)got, NULL);
	else if (got > 0 && !run->whole &&
		 !(run->watched &&
		   worker_watch_keep(worker, at, (uint64_t)got, zero ? NULL : data)))
		placed = sink->ops->fill(sink, first, (uint64_t)got, zero ? NULL : data);
	run->bytes += got > 0 && !zero ? (uint64_t)got * PAGE_BYTES : 0;
	return got > 0 && placed < 0 ? placed : got;
}

static void replay_bring(struct worker *worker, struct replay_run *run, uint8_t *own)
{
	uint64_t at = run->first, end = run->first + run->n, n;
	int64_t got;

	memory_refresh(worker->mem, worker_gfn(worker, run->first), run->n);
	while (at < end && !run->failed) {
		for (n = 0; at + n < end && worker_is_missing(worker, worker_gfn(worker, at + n));)
			n++;
		if (!n) {
			at++;
			continue;
		}
		got = replay_place(worker, run, at, n, own);
		/* What is not there is lost only to somebody who wants it. */
		run->failed = got < 0 && got != -ENODATA;
		run->pages += got > 0 ? (uint64_t)got : 0;
		at += got > 0 ? (uint64_t)got : 1;
	}
}

static void *worker_replay_main(void *arg)
{
	struct worker *worker = arg;
	struct replay *replay = &worker->replay;
	size_t len = READ_PAGES * PAGE_BYTES;
	uint8_t *data = page_buffer_new(len);
	struct replay_run run;

	pthread_setname_np(pthread_self(), "source-replay");
	thread_is_bulk();
	pthread_mutex_lock(&worker->lock);
	while (data && replay_take(worker, &run)) {
		pthread_mutex_unlock(&worker->lock);
		replay_bring(worker, &run, data);
		thread_give_way();
		pthread_mutex_lock(&worker->lock);
		replay_finish(worker, &run);
	}
	if (!--replay->running && !replay->starting)
		replay_end(worker, WORKER_REPLAY_ENDED);
	pthread_mutex_unlock(&worker->lock);
	page_buffer_free(data, len);
	return NULL;
}

/* ---- begin, end ---- */

void worker_replay_forget(struct worker *worker)
{
	struct replay *replay = &worker->replay;

	free(replay->order);
	free(replay->set);
	free(replay->pending);
	*replay = (struct replay){ 0 };
}

void worker_replay_join(struct worker *worker)
{
	struct replay *replay = &worker->replay;
	unsigned int n;

	while (replay->starting)
		pthread_cond_wait(&worker->replay_changed, &worker->lock);
	n = replay->threads;
	pthread_mutex_unlock(&worker->lock);
	while (n)
		pthread_join(replay->thread[--n], NULL);
	pthread_mutex_lock(&worker->lock);
	replay->threads = 0;
}

/* Each span once, at the place of its first page. */
static int replay_order(const struct worker *worker, const struct worker_replay *config,
			struct replay *made, struct err *err)
{
	size_t words = worker->pages / replay_span(worker) / 64 + 1, i;
	uint64_t index;

	made->order = malloc((config->n + 1) * sizeof(*made->order));
	made->set = calloc(words, sizeof(uint64_t));
	made->pending = calloc(words, sizeof(uint64_t));
	if (!made->order || !made->set || !made->pending)
		return err_set(err, -ENOMEM, "no memory to bring pages before they are wanted");
	for (i = 0; i < config->n; i++)
		if (worker_index_of(worker, GFN(config->gfns[i]), &index) &&
		    worker_bit_change(made->set, index / replay_span(worker), true)) {
			worker_bit_change(made->pending, index / replay_span(worker), true);
			made->order[made->n++] = index;
		}
	return 0;
}

/* Without the lock; `starting` is set. */
static int replay_start(struct worker *worker)
{
	struct replay *replay = &worker->replay;
	unsigned int i, started = 0;
	int r = 0;

	for (i = 0; i < worker->config.replay_threads && i < replay->n && r >= 0; i++) {
		pthread_mutex_lock(&worker->lock);
		replay->running++;
		pthread_mutex_unlock(&worker->lock);
		r = thread_start(&replay->thread[started], worker_replay_main, worker);
		started += r >= 0;
		pthread_mutex_lock(&worker->lock);
		replay->running -= r < 0;
		pthread_mutex_unlock(&worker->lock);
	}
	pthread_mutex_lock(&worker->lock);
	replay->threads = started;
	replay->starting = false;
	if (!replay->running)
		replay_end(worker, WORKER_REPLAY_ENDED);
	pthread_cond_broadcast(&worker->replay_changed);
	pthread_mutex_unlock(&worker->lock);
	return started || r >= 0 ? 0 : r;
}

int worker_replay(struct worker *worker, const struct worker_replay *config, struct err *err)
{
	struct replay made = { .state = WORKER_REPLAY_RUNNING, .starting = true };
	int r = worker->config.replay_threads ? 0 : -ENOTSUP;

	if (r)
		return err_set(err, r, "this source brings nothing before it is wanted");
	r = replay_order(worker, config, &made, err);
	made.config = *config;
	made.config.gfns = NULL;
	made.begun_ns = clock_now_ns();
	window_init(&made.window, WINDOW_LEAST, WINDOW_MOST);
	pthread_mutex_lock(&worker->lock);
	if (!r && !worker->running)
		r = err_set(err, -ENOTCONN, "the source of pages is stopped");
	if (!r && worker->replay.state != WORKER_REPLAY_NONE)
		r = err_set(err, -EALREADY, "there was a replay already");
	if (!r)
		worker->replay = made;
	pthread_mutex_unlock(&worker->lock);
	if (!r) {
		r = replay_start(worker);
		return r < 0 ? err_errno(err, r, "starting a page source's threads") : 0;
	}
	free(made.order);
	free(made.set);
	free(made.pending);
	return r;
}

void worker_replay_stats(struct worker *worker, struct worker_replay_stats *stats)
{
	const struct replay *replay = &worker->replay;
	const uint64_t *order;
	uint64_t i;

	pthread_mutex_lock(&worker->lock);
	*stats = (struct worker_replay_stats){
		.state = replay->state,
		.set = replay->n,
		.asked = replay->asked,
		.missed = replay->missed,
		.reads = replay->reads,
		.pages = replay->pages,
		.took_ns = replay->state == WORKER_REPLAY_NONE ? 0 :
			   replay->ended_ns ? replay->ended_ns - replay->begun_ns :
					      clock_now_ns() - replay->begun_ns,
	};
	order = replay->order;
	pthread_mutex_unlock(&worker->lock);
	/* It stays until the worker is started anew, or freed. */
	for (i = 0; i < stats->set; i++)
		stats->present += !worker_is_missing(worker, worker_gfn(worker, order[i]));
}
