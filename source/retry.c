// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Outstanding pages lie in a table of fixed size, each with its source, how
 * often it was asked and when the answer is due. A thread sleeps until the
 * earliest is, looks through the table, and asks again. The lock is never held
 * across a call to a neighbour, so a page may come between the look and the
 * question: it is then asked for once too often, which is harmless, since
 * memory keeps what it has.
 *
 * A fill takes its pages out of the table before it is passed on: a verify
 * above may find one wrong and ask for it again from inside that call, and then
 * it must be noted anew. If memory has no room for them they are noted anew by
 * us. When all of a fill's pages became PRESENT they are taken out once more:
 * one of them may have been requested just before, and nobody would answer.
 */
#include "source/retry.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/cond.h"
#include "source/page_table.h"

#define DEADLINE_MAX (3600 * NS_PER_SEC)
#define BATCH 64

/* A source after the first: which has layer.sink and layer.below. */
struct other {
	struct page_sink sink;
	struct retry *retry;
	uint8_t index;
	struct page_source *source;
};

struct retry {
	struct layer layer;
	struct retry_config config;
	struct other other[RETRY_SOURCES_MAX];	/* [0] is not used */
	unsigned int sources;
	pthread_t thread;
	pthread_mutex_t lock;			/* guards the rest */
	pthread_cond_t changed;			/* a deadline earlier than wake_ns, or stop */
	int64_t wake_ns;
	uint64_t random;			/* numbers drawn */
	struct page_table table;
	_Atomic size_t outstanding;		/* as table.count, to be read without the lock */
	struct retry_stats stats;
};

/* ---- notes; all with the lock held ---- */

static void counted(struct retry *retry)
{
	/* A page that is requested was noted before the request went out, so its fill sees it. */
	atomic_store(&retry->outstanding, retry->table.count);
}

/* How long to wait for the answer to what is asked now. */
static void note_due(struct retry *retry, struct page_note *note, int64_t now)
{
	unsigned int exponent = note->rounds * retry->config.tries + note->tries - 1u;
	int64_t wait = retry->config.deadline_ns;

	while (exponent-- && wait < retry->config.deadline_max_ns)
		wait *= 2;
	if (wait > retry->config.deadline_max_ns)
		wait = retry->config.deadline_max_ns;
	wait += (int64_t)(random_at(retry->config.seed, retry->random++) %
			  (uint64_t)(wait / 4 + 1)) -
		wait / 8;
	note->due_ns = now + wait;
	if (note->due_ns < retry->wake_ns)
		pthread_cond_signal(&retry->changed);
}

static struct page_note *note_new(struct retry *retry, gfn_t gfn, int64_t now)
{
	struct page_note *note = page_table_add(&retry->table, gfn);

	if (!note) {
		retry->stats.unwatched++;
		return NULL;
	}
	note->since_ns = now;
	note->tries = 1;
	note_due(retry, note, now);
	counted(retry);
	return note;
}

static void note_lost(struct retry *retry, struct page_note *note)
{
	retry->stats.lost++;
	page_table_remove(&retry->table, note);
	counted(retry);
}

/*
 * The next source after the note's that has not refused the page; false: all
 * have, or the last was asked and that is all.
 */
static bool note_next_source(struct retry *retry, struct page_note *note, bool wrap)
{
	unsigned int k, index;

	for (k = 1; k <= retry->sources; k++) {
		index = (note->source + k) % retry->sources;
		if (note->refused & 1u << index)
			continue;
		if (note->source + k >= retry->sources) {
			if (!wrap)
				return false;
			if (note->rounds < UINT8_MAX)
				note->rounds++;
		}
		retry->stats.moved += index != note->source;
		note->source = (uint8_t)index;
		note->tries = 1;
		return true;
	}
	return false;
}

/* A deadline has passed: what next? false: the page is lost, and no longer noted. */
static bool note_overdue(struct retry *retry, struct page_note *note, int64_t now)
{
	if (note->tries < retry->config.tries) {
		note->tries++;
	} else if (!note_next_source(retry, note, retry->config.policy == RETRY_WAIT)) {
		note_lost(retry, note);
		return false;
	}
	retry->stats.again++;
	note_due(retry, note, now);
	return true;
}

/* ---- asking; without the lock ---- */

static struct page_source *source_at(struct retry *retry, unsigned int index)
{
	return index ? retry->other[index].source : retry->layer.below;
}

/*
 * Asks the source, and if it is gone, the others in turn. Nobody there: the
 * deadline brings the next attempt.
 */
static bool retry_ask(struct retry *retry, gfn_t first, uint64_t n, unsigned int index,
		      uint8_t refused)
{
	struct page_source *source;
	unsigned int k, at;

	for (k = 0; k < retry->sources && !layer_is_stopped(&retry->layer); k++) {
		at = (index + k) % retry->sources;
		source = source_at(retry, at);
		if (!(refused & 1u << at) && !source->ops->request(source, first, n))
			return true;
		pthread_mutex_lock(&retry->lock);
		retry->stats.refused += !(refused & 1u << at);
		pthread_mutex_unlock(&retry->lock);
	}
	return false;
}

static int retry_request(struct page_source *source, gfn_t first, uint64_t n)
{
	struct retry *retry = (struct retry *)source;	/* the first member */
	struct page_note *note, seen = { .source = 0 };
	int64_t now = clock_now_ns();
	uint64_t i = 0, start;
	bool watched = true;

	if (layer_is_stopped(&retry->layer))
		return -ENOTCONN;
	while (i < n) {
		start = i;
		note = NULL;
		pthread_mutex_lock(&retry->lock);
		for (; i < n; i++) {
			note = page_table_find(&retry->table, GFN(first.v + i));
			if (note)
				break;
			watched &= note_new(retry, GFN(first.v + i), now) != NULL;
		}
		/*
		 * Asked for already, perhaps of a later source; but whoever
		 * asks again has a reason.
		 */
		if (note)
			seen = *note;
		retry->stats.asked += i - start + (note ? 1 : 0);
		pthread_mutex_unlock(&retry->lock);
		if (i > start && !retry_ask(retry, GFN(first.v + start), i - start, 0, 0) &&
		    !watched)
			return -ENOTCONN;
		if (note)
			retry_ask(retry, GFN(first.v + i++), 1, seen.source, seen.refused);
	}
	return 0;
}

/* Pages that are to be asked for again, taken down under the lock. */
struct batch {
	struct page_note page[BATCH];
	bool lost[BATCH];
	unsigned int n;
};

/* Called with the lock held. Returns when the earliest of the remaining deadlines is. */
static int64_t batch_collect(struct retry *retry, struct batch *batch, int64_t now)
{
	int64_t earliest = INT64_MAX;
	size_t i;

	batch->n = 0;
	for (i = 0; i < retry->table.slots && retry->table.count; i++) {
		struct page_note *note = &retry->table.slot[i], was;

		if (!note->used)
			continue;
		if (note->due_ns <= now && batch->n < BATCH) {
			was = *note;
			batch->lost[batch->n] = !note_overdue(retry, note, now);
			batch->page[batch->n] = batch->lost[batch->n] ? was : *note;
			/* Another note may stand here now: look once more. */
			i -= batch->lost[batch->n++];
			continue;
		}
		if (note->due_ns < earliest)
			earliest = note->due_ns;
	}
	for (i = 0; i < batch->n; i++)
		if (!batch->lost[i] && batch->page[i].due_ns < earliest)
			earliest = batch->page[i].due_ns;
	return earliest;
}

static void *retry_main(void *arg)
{
	struct retry *retry = arg;
	struct batch batch;
	unsigned int i;

	pthread_mutex_lock(&retry->lock);
	while (!layer_is_stopped(&retry->layer)) {
		retry->wake_ns = batch_collect(retry, &batch, clock_now_ns());
		if (!batch.n) {
			cond_wait(&retry->changed, &retry->lock, retry->wake_ns);
			continue;
		}
		pthread_mutex_unlock(&retry->lock);
		for (i = 0; i < batch.n; i++)
			if (batch.lost[i])
				layer_lose(&retry->layer, batch.page[i].gfn);
			else
				retry_ask(retry, batch.page[i].gfn, 1, batch.page[i].source,
					  batch.page[i].refused);
		pthread_mutex_lock(&retry->lock);
	}
	pthread_mutex_unlock(&retry->lock);
	return NULL;
}

/* ---- answers ---- */

/* All these pages became PRESENT. */
static void retry_forget(struct retry *retry, gfn_t first, uint64_t n)
{
	uint64_t i;

	if (!atomic_load(&retry->outstanding))
		return;
	pthread_mutex_lock(&retry->lock);
	for (i = 0; i < n && retry->table.count; i++)
		page_table_take(&retry->table, GFN(first.v + i));
	counted(retry);
	pthread_mutex_unlock(&retry->lock);
}

/* Up to HUGE_PAGES pages. */
static int64_t take_piece(struct retry *retry, bool commit, gfn_t first, uint64_t n,
			  const void *data)
{
	uint64_t was[HUGE_PAGES / 64] = { 0 }, i;
	int64_t now, r;

	pthread_mutex_lock(&retry->lock);
	for (i = 0; i < n && retry->table.count; i++)
		if (page_table_take(&retry->table, GFN(first.v + i)))
			was[i / 64] |= UINT64_C(1) << i % 64;
	counted(retry);
	pthread_mutex_unlock(&retry->lock);
	r = layer_pass(&retry->layer, commit, first, n, data);
	if (r == (int64_t)n)
		retry_forget(retry, first, n);
	if (r != -ENOMEM)
		return r;
	now = clock_now_ns();
	pthread_mutex_lock(&retry->lock);
	for (i = 0; i < n; i++)
		if (was[i / 64] >> i % 64 & 1 && !page_table_find(&retry->table, GFN(first.v + i)))
			note_new(retry, GFN(first.v + i), now);
	pthread_mutex_unlock(&retry->lock);
	return r;
}

/* A room has HUGE_PAGES at most, so it is one piece. */
static int64_t retry_take(struct retry *retry, bool commit, gfn_t first, uint64_t n,
			  const void *data)
{
	uint64_t i, piece;
	int64_t r, done = 0;

	/* Nothing is watched: no lock, no pieces. */
	if (!n || !atomic_load(&retry->outstanding)) {
		r = layer_pass(&retry->layer, commit, first, n, data);
		if (r == (int64_t)n)
			retry_forget(retry, first, n);
		return r;
	}
	for (i = 0; i < n; i += piece) {
		piece = n - i < HUGE_PAGES ? n - i : HUGE_PAGES;
		r = take_piece(retry, commit, GFN(first.v + i), piece, fill_page(data, i));
		if (r < 0)
			return r;
		done += r;
	}
	return done;
}

/* A source does not have the page: another may. Only if none has is it lost. */
static int retry_refused(struct retry *retry, unsigned int index, gfn_t gfn)
{
	struct page_note *note, seen = { .used = false };
	bool move, lost = true;

	pthread_mutex_lock(&retry->lock);
	retry->stats.refused++;
	note = page_table_find(&retry->table, gfn);
	move = !note || note->source == index;
	if (!note && retry->sources > 1) {
		note = note_new(retry, gfn, clock_now_ns());
		if (note)
			note->source = (uint8_t)index;
	}
	if (note) {
		note->refused |= (uint8_t)(1u << index);
		lost = note->refused == (1u << retry->sources) - 1;
		if (!lost && move) {
			note_next_source(retry, note, true);
			note_due(retry, note, clock_now_ns());
		}
		seen = *note;
		if (lost)
			note_lost(retry, note);
	} else {
		retry->stats.lost++;
	}
	pthread_mutex_unlock(&retry->lock);
	if (lost)
		return layer_lose(&retry->layer, gfn);
	if (move)
		retry_ask(retry, gfn, 1, seen.source, seen.refused);
	return 0;
}

static int64_t first_fill(struct page_sink *sink, gfn_t first, uint64_t n, const void *data)
{
	return retry_take((struct retry *)layer_of_sink(sink), false, first, n, data);
}

static int64_t first_commit(struct page_sink *sink, gfn_t first, uint64_t n, const void *data)
{
	return retry_take((struct retry *)layer_of_sink(sink), true, first, n, data);
}

static int first_lose(struct page_sink *sink, gfn_t gfn)
{
	return retry_refused((struct retry *)layer_of_sink(sink), 0, gfn);
}

static int64_t other_fill(struct page_sink *sink, gfn_t first, uint64_t n, const void *data)
{
	/* The first member. */
	return retry_take(((struct other *)sink)->retry, false, first, n, data);
}

static int64_t other_room(struct page_sink *sink, gfn_t first, uint64_t n, void **data)
{
	return layer_room(&((struct other *)sink)->retry->layer, first, n, data);
}

static int64_t other_commit(struct page_sink *sink, gfn_t first, uint64_t n, const void *data)
{
	return retry_take(((struct other *)sink)->retry, true, first, n, data);
}

static int other_lose(struct page_sink *sink, gfn_t gfn)
{
	struct other *other = (struct other *)sink;

	return retry_refused(other->retry, other->index, gfn);
}

/* ---- life ---- */

static void retry_stop(struct layer *layer)
{
	struct retry *retry = (struct retry *)layer;

	pthread_mutex_lock(&retry->lock);
	pthread_cond_broadcast(&retry->changed);
	pthread_mutex_unlock(&retry->lock);
	pthread_join(retry->thread, NULL);
}

static void retry_release(struct retry *retry)
{
	page_table_fini(&retry->table);
	pthread_cond_destroy(&retry->changed);
	pthread_mutex_destroy(&retry->lock);
	free(retry);
}

static void retry_layer_free(struct layer *layer)
{
	layer_stop(layer);
	retry_release((struct retry *)layer);
}

static const struct page_source_ops source_ops = { .name = "retry", .request = retry_request };
static const struct page_sink_ops sink_ops = {
	.name = "retry",
	.fill = first_fill,
	.lose = first_lose,
	.room = layer_room_above,
	.commit = first_commit,
};
static const struct page_sink_ops other_ops = {
	.name = "retry",
	.fill = other_fill,
	.lose = other_lose,
	.room = other_room,
	.commit = other_commit,
};
static const struct layer_ops layer_ops = { .stop = retry_stop, .free = retry_layer_free };

static bool retry_is_usable(const struct retry_config *config)
{
	return config->deadline_ns > 0 && config->deadline_max_ns >= config->deadline_ns &&
	       config->deadline_max_ns <= DEADLINE_MAX && config->tries >= 1 &&
	       config->tries <= UINT8_MAX &&
	       (config->policy == RETRY_WAIT || config->policy == RETRY_LOSE);
}

int retry_new(struct retry **out, const struct retry_config *config, struct err *err)
{
	struct retry *retry;
	int r;

	if (!retry_is_usable(config))
		return err_set(err, -EINVAL,
			       "retry: deadlines are above 0 and up to an hour, tries 1 to 255");
	retry = calloc(1, sizeof(*retry));
	if (!retry)
		return err_set(err, -ENOMEM, "no memory to watch requests");
	layer_init(&retry->layer, &source_ops, &sink_ops, &layer_ops);
	retry->config = *config;
	retry->sources = 1;
	retry->wake_ns = INT64_MAX;
	pthread_mutex_init(&retry->lock, NULL);
	cond_init(&retry->changed);
	r = page_table_init(&retry->table, config->pages_max, err);
	if (!r)
		r = layer_thread_start(&retry->thread, "retry", retry_main, retry, err);
	if (r < 0) {
		retry_release(retry);
		return err_prefix(err, r, "retry");
	}
	*out = retry;
	return 0;
}

struct layer *retry_layer(struct retry *retry)
{
	return &retry->layer;
}

int retry_add(struct retry *retry, struct page_source *source)
{
	struct other *other = &retry->other[retry->sources];

	if (retry->sources == RETRY_SOURCES_MAX)
		return -ENOSPC;
	*other = (struct other){ { &other_ops }, retry, (uint8_t)retry->sources, source };
	source->sink = &other->sink;
	retry->sources++;
	return 0;
}

void retry_stats(struct retry *retry, struct retry_stats *stats)
{
	int64_t now = clock_now_ns(), age;
	size_t i;

	pthread_mutex_lock(&retry->lock);
	*stats = retry->stats;
	stats->outstanding = retry->table.count;
	for (i = 0; i < retry->table.slots; i++) {
		const struct page_note *note = &retry->table.slot[i];

		if (!note->used)
			continue;
		/*
		 * Only a deadline, or a refusal, brings a page beyond its first
		 * try of the first source.
		 */
		stats->overdue += note->tries > 1 || note->source || note->rounds;
		age = now - note->since_ns;
		stats->oldest_ns = age > stats->oldest_ns ? age : stats->oldest_ns;
	}
	pthread_mutex_unlock(&retry->lock);
}
