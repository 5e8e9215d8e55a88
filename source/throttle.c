// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "source/throttle.h"

#include <stdlib.h>

#include "base/bucket.h"
#include "base/clock.h"
#include "base/cond.h"
#include "source/page_table.h"

struct throttle {
	struct layer layer;
	pthread_mutex_t lock;		/* guards the rest */
	pthread_cond_t changed;		/* a request, a new limit, stop */
	struct bucket bucket;
	struct page_table requested;
	struct throttle_stats stats;
};

/* Is one of these pages requested? Called with the lock held. */
static bool is_requested(const struct throttle *throttle, gfn_t first, uint64_t n)
{
	uint64_t i;

	if (!throttle->requested.count)
		return false;
	for (i = 0; i < n; i++)
		if (page_table_find(&throttle->requested, GFN(first.v + i)))
			return true;
	return false;
}

/* Called with the lock held. */
static void throttle_forget(struct throttle *throttle, gfn_t first, uint64_t n)
{
	uint64_t i;

	for (i = 0; i < n && throttle->requested.count; i++)
		page_table_take(&throttle->requested, GFN(first.v + i));
}

/* Until the fill may pass, or the throttle is stopped. Called with the lock held. */
static void throttle_hold(struct throttle *throttle, gfn_t first, uint64_t n, uint64_t bytes)
{
	int64_t start = clock_now_ns(), now = start, wait;

	while (!layer_is_stopped(&throttle->layer)) {
		if (is_requested(throttle, first, n)) {
			bucket_charge(&throttle->bucket, bytes, now);
			throttle->stats.bytes_requested += bytes;
			break;
		}
		wait = bucket_take(&throttle->bucket, bytes, now);
		if (!wait)
			break;
		cond_wait(&throttle->changed, &throttle->lock, now + wait);
		now = clock_now_ns();
	}
	throttle->stats.held += now != start;
	throttle->stats.held_ns += (uint64_t)(now - start);
}

static int64_t throttle_pass(struct throttle *throttle, bool commit, gfn_t first, uint64_t n,
			     const void *data)
{
	uint64_t bytes = data ? n * PAGE_BYTES : 0;
	int64_t r;

	pthread_mutex_lock(&throttle->lock);
	if (bytes)
		throttle_hold(throttle, first, n, bytes);
	throttle->stats.bytes += bytes;
	throttle_forget(throttle, first, n);
	pthread_mutex_unlock(&throttle->lock);
	r = layer_pass(&throttle->layer, commit, first, n, data);
	if (n && r == (int64_t)n) {
		/*
		 * Requested meanwhile, and here all the same: nobody would
		 * answer, and the note would stay.
		 */
		pthread_mutex_lock(&throttle->lock);
		throttle_forget(throttle, first, n);
		pthread_mutex_unlock(&throttle->lock);
	}
	return r;
}

static int64_t throttle_fill(struct page_sink *sink, gfn_t first, uint64_t n, const void *data)
{
	/* The first member. */
	return throttle_pass((struct throttle *)layer_of_sink(sink), false, first, n, data);
}

static int64_t throttle_commit(struct page_sink *sink, gfn_t first, uint64_t n, const void *data)
{
	return throttle_pass((struct throttle *)layer_of_sink(sink), true, first, n, data);
}

static int throttle_lose(struct page_sink *sink, gfn_t gfn)
{
	struct throttle *throttle = (struct throttle *)layer_of_sink(sink);

	pthread_mutex_lock(&throttle->lock);
	throttle_forget(throttle, gfn, 1);
	pthread_mutex_unlock(&throttle->lock);
	return layer_lose(&throttle->layer, gfn);
}

static int throttle_request(struct page_source *source, gfn_t first, uint64_t n)
{
	struct throttle *throttle = (struct throttle *)source;
	uint64_t i;

	pthread_mutex_lock(&throttle->lock);
	for (i = 0; i < n; i++)
		if (!page_table_find(&throttle->requested, GFN(first.v + i)) &&
		    !page_table_add(&throttle->requested, GFN(first.v + i)))
			throttle->stats.forgotten++;
	pthread_cond_broadcast(&throttle->changed);
	pthread_mutex_unlock(&throttle->lock);
	return layer_ask(&throttle->layer, first, n);
}

static void throttle_stop(struct layer *layer)
{
	struct throttle *throttle = (struct throttle *)layer;

	pthread_mutex_lock(&throttle->lock);
	pthread_cond_broadcast(&throttle->changed);
	pthread_mutex_unlock(&throttle->lock);
}

static void throttle_free(struct layer *layer)
{
	struct throttle *throttle = (struct throttle *)layer;

	page_table_fini(&throttle->requested);
	pthread_cond_destroy(&throttle->changed);
	pthread_mutex_destroy(&throttle->lock);
	free(throttle);
}

static const struct page_source_ops source_ops = { .name = "throttle",
						   .request = throttle_request };
static const struct page_sink_ops sink_ops = {
	.name = "throttle",
	.fill = throttle_fill,
	.lose = throttle_lose,
	.room = layer_room_above,
	.commit = throttle_commit,
};
static const struct layer_ops layer_ops = { .stop = throttle_stop, .free = throttle_free };

int throttle_new(struct throttle **out, uint64_t bytes_per_second, size_t requested_max,
		 struct err *err)
{
	struct throttle *throttle = calloc(1, sizeof(*throttle));
	int r;

	if (!throttle)
		return err_set(err, -ENOMEM, "no memory to throttle pages");
	r = page_table_init(&throttle->requested, requested_max, err);
	if (r < 0) {
		free(throttle);
		return err_prefix(err, r, "throttle");
	}
	layer_init(&throttle->layer, &source_ops, &sink_ops, &layer_ops);
	pthread_mutex_init(&throttle->lock, NULL);
	cond_init(&throttle->changed);
	bucket_init(&throttle->bucket, bytes_per_second, clock_now_ns());
	*out = throttle;
	return 0;
}

struct layer *throttle_layer(struct throttle *throttle)
{
	return &throttle->layer;
}

void throttle_limit(struct throttle *throttle, uint64_t bytes_per_second)
{
	pthread_mutex_lock(&throttle->lock);
	bucket_set_rate(&throttle->bucket, bytes_per_second, clock_now_ns());
	pthread_cond_broadcast(&throttle->changed);
	pthread_mutex_unlock(&throttle->lock);
}

void throttle_stats(struct throttle *throttle, struct throttle_stats *stats)
{
	pthread_mutex_lock(&throttle->lock);
	*stats = throttle->stats;
	pthread_mutex_unlock(&throttle->lock);
}
