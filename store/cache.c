// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// See cache.h. A GET is looked up at once where its block is in the page cache; else one of a few
// threads does what it takes, block by block, and may wait: for the disk, for whoever is fetching
// the same, for the store below. A cancel ends each of these but the first. What goes through
// (all that is no GET of a version) is passed to the store below as it is.
#include "store/cache.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/cond.h"
#include "base/count.h"
#include "base/thread.h"
#include "store/cache_file.h"
#include "store/cache_walk.h"
#include "store/layer.h"

#define CACHE_LEAST_BYTES (UINT64_C(16) << 20)
#define CACHE_THREADS 16
#define CACHE_THREADS_URGENT 4
/* How often somebody else's fetch is looked after. */
#define POLL_NS (2 * NS_PER_MS)

struct cache_op {
	struct store_op op;
	struct store_request below;	/* where it goes through */
	bool passes, queued;
	struct store_scope scope;	/* else: what a thread waits for */
	struct cache_op *next;
};

struct cache_queue {
	struct cache_op *first, **last;
};

struct cache_store {
	struct store_layer layer;
	struct cache_place place;
	/* With the layer's lock: */
	struct cache_queue urgent, bulk, cancelled;
	pthread_cond_t work, cancels;
	unsigned int queued, idle, bulk_running;
	unsigned int threads;
	bool stopping;
	pthread_t thread[CACHE_THREADS + 1];	/* the first answers cancels of what is queued */
};

static struct cache_store *cache_of(struct store *store)
{
	return (struct cache_store *)store;
}

static void store_cache_release(struct store_op *op)
{
	struct cache_op *mine = (struct cache_op *)op;

	if (!mine->passes)
		store_scope_fini(&mine->scope);
	free(op);
}

static void cache_answer(struct cache_op *op, int64_t result)
{
	struct store_layer *layer = op->op.layer;
	struct store_request *request;

	pthread_mutex_lock(&layer->lock);
	request = store_op_end(&op->op);
	pthread_mutex_unlock(&layer->lock);
	if (result == -ECANCELED)
		store_fail(&layer->store, request, -ECANCELED, "cancelled");
	else
		store_done(request, result);
	store_op_put(&op->op);
}

/* Somebody else fetches it. */
static bool pause_a_little(void *arg)
{
	struct cache_op *op = arg;
	struct cache_store *cache = (struct cache_store *)op->op.layer;
	int64_t until_ns = clock_now_ns() + POLL_NS;
	bool cancelled;

	pthread_mutex_lock(&cache->layer.lock);
	while (!(cancelled = store_is_cancelled(op->op.request)) && clock_now_ns() < until_ns)
		cond_wait(&cache->cancels, &cache->layer.lock, until_ns);
	pthread_mutex_unlock(&cache->layer.lock);
	return !cancelled;
}

static void run_op(struct cache_store *cache, struct cache_op *op)
{
	const struct cache_wait wait = { .scope = &op->scope, .pause = pause_a_little, .arg = op };

	cache_answer(op, cache_walk(&cache->place, op->op.request, &wait));
}

/* ---- threads ---- */

static void cache_queue_push(struct cache_queue *queue, struct cache_op *op)
{
	op->next = NULL;
	*queue->last = op;
	queue->last = &op->next;
}

static struct cache_op *cache_queue_pop(struct cache_queue *queue)
{
	struct cache_op *op = queue->first;

	queue->first = op->next;
	if (!queue->first)
		queue->last = &queue->first;
	return op;
}

static void cache_queue_take(struct cache_queue *queue, struct cache_op *op)
{
	struct cache_op **link;

	for (link = &queue->first; *link != op; link = &(*link)->next)
		;
	*link = op->next;
	if (!*link)
		queue->last = link;
}

static struct cache_op *next_op(struct cache_store *cache)
{
	struct cache_queue *queue = &cache->urgent;
	struct cache_op *op;

	if (!queue->first) {
		queue = &cache->bulk;
		if (!queue->first || cache->bulk_running >= CACHE_THREADS - CACHE_THREADS_URGENT)
			return NULL;
		cache->bulk_running++;
	}
	op = cache_queue_pop(queue);
	op->queued = false;
	cache->queued--;
	return op;
}

static void *cache_main(void *arg)
{
	struct cache_store *cache = arg;
	struct cache_op *op;
	bool urgent;

	pthread_mutex_lock(&cache->layer.lock);
	while (!cache->stopping) {
		op = next_op(cache);
		if (!op) {
			cache->idle++;
			cond_wait(&cache->work, &cache->layer.lock, INT64_MAX);
			cache->idle--;
			continue;
		}
		urgent = op->op.request->flags & STORE_URGENT;
		pthread_mutex_unlock(&cache->layer.lock);
		run_op(cache, op);
		pthread_mutex_lock(&cache->layer.lock);
		cache->bulk_running -= !urgent;
	}
	pthread_mutex_unlock(&cache->layer.lock);
	return NULL;
}

/* Answers what was cancelled before a thread had it. */
static void *cancel_main(void *arg)
{
	struct cache_store *cache = arg;
	struct cache_op *op;

	pthread_mutex_lock(&cache->layer.lock);
	while (!cache->stopping) {
		if (!cache->cancelled.first) {
			cond_wait(&cache->cancels, &cache->layer.lock, INT64_MAX);
			continue;
		}
		op = cache_queue_pop(&cache->cancelled);
		pthread_mutex_unlock(&cache->layer.lock);
		cache_answer(op, -ECANCELED);
		pthread_mutex_lock(&cache->layer.lock);
	}
	pthread_mutex_unlock(&cache->layer.lock);
	return NULL;
}

static int cache_start_thread(struct cache_store *cache)
{
	bool cancels = !cache->threads;
	pthread_t *thread = &cache->thread[cache->threads];
	int r = thread_start(thread, cancels ? cancel_main : cache_main, cache);

	if (r < 0)
		return r;
	pthread_setname_np(*thread, cancels ? "cache-cancel" : "store-cache");
	cache->threads++;
	return 0;
}

/* With the lock held. */
static int cache_enqueue(struct cache_store *cache, struct cache_op *op)
{
	bool urgent = op->op.request->flags & STORE_URGENT;
	int r = cache->threads ? 0 : cache_start_thread(cache);

	/* Those that were woken for what is queued are idle still. */
	if (!r && cache->idle <= cache->queued && cache->threads < CACHE_THREADS + 1)
		r = cache_start_thread(cache);
	if (cache->threads < 2)
		return r;
	store_op_enter(&op->op);
	/* A cancel that came already is seen by the thread: it opens no scope for it. */
	if (store_is_cancelled(op->op.request))
		store_scope_cancel(&op->scope);
	op->queued = true;
	cache->queued++;
	cache_queue_push(urgent ? &cache->urgent : &cache->bulk, op);
	pthread_cond_signal(&cache->work);
	return 0;
}

/* ---- the interface ---- */

static void pass_done(struct store_request *below)
{
	struct cache_op *op = below->arg;
	struct store_request *request;

	pthread_mutex_lock(&op->op.layer->lock);
	request = store_op_end(&op->op);
	pthread_mutex_unlock(&op->op.layer->lock);
	store_pass_on(request, below);
	store_op_put(&op->op);
}

static void pass(struct cache_store *cache, struct cache_op *op)
{
	op->passes = true;
	store_op_ask(&op->op, &op->below, pass_done);
	pthread_mutex_lock(&cache->layer.lock);
	if (store_op_enter(&op->op))
		store_cancel(cache->layer.below, &op->below);
	pthread_mutex_unlock(&cache->layer.lock);
	store_begin(cache->layer.below, &op->below);
}

static void cache_begin(struct store *store, struct store_request *request)
{
	struct cache_store *cache = cache_of(store);
	bool kept = request->verb == STORE_GET && request->version && request->len;
	struct cache_op *op;
	int64_t r = kept ? cache_walk_cached(&cache->place, request) : -EAGAIN;

	if (r != -EAGAIN) {
		store_done(request, r);
		return;
	}
	op = store_op_new(&cache->layer, request, sizeof(*op), store_cache_release);
	if (!op)
		return;
	if (!kept) {
		pass(cache, op);
		return;
	}
	store_scope_init(&op->scope);
	pthread_mutex_lock(&cache->layer.lock);
	r = cache_enqueue(cache, op);
	pthread_mutex_unlock(&cache->layer.lock);
	if (!r)
		return;
	store_cache_release(&op->op);
	store_errno(store, request, -EAGAIN, "no thread for its cache");
}

static void cache_cancel(struct store *store, struct store_request *request)
{
	struct cache_store *cache = cache_of(store);
	struct cache_op *op;

	pthread_mutex_lock(&cache->layer.lock);
	op = store_op_of(request);
	if (op && op->passes) {
		store_cancel(cache->layer.below, &op->below);
	} else if (op && op->queued) {
		cache_queue_take(request->flags & STORE_URGENT ? &cache->urgent : &cache->bulk, op);
		op->queued = false;
		cache->queued--;
		cache_queue_push(&cache->cancelled, op);
	} else if (op) {
		store_scope_cancel(&op->scope);
	}
	if (op)
		pthread_cond_broadcast(&cache->cancels);
	pthread_mutex_unlock(&cache->layer.lock);
}

static void store_cache_free(struct store *store)
{
	struct cache_store *cache = cache_of(store);
	unsigned int i;

	pthread_mutex_lock(&cache->layer.lock);
	cache->stopping = true;
	pthread_cond_broadcast(&cache->work);
	pthread_cond_broadcast(&cache->cancels);
	pthread_mutex_unlock(&cache->layer.lock);
	for (i = 0; i < cache->threads; i++)
		pthread_join(cache->thread[i], NULL);
	store_layer_fini(&cache->layer);
	pthread_cond_destroy(&cache->work);
	pthread_cond_destroy(&cache->cancels);
	close(cache->place.dir);
	free(cache);
}

static const struct store_ops cache_ops = {
	.name = "cache",
	.begin = cache_begin,
	.cancel = cache_cancel,
	.free = store_cache_free,
};

static void cache_queue_init(struct cache_queue *queue)
{
	queue->first = NULL;
	queue->last = &queue->first;
}

int cache_store_new(struct cache_store **out, struct store *below, const char *path, uint64_t bytes,
		    struct err *err)
{
	struct cache_store *cache = NULL;
	int fd = bytes < CACHE_LEAST_BYTES ?
			 err_set(err, -EINVAL, "the cache \"%s\" of fewer than 16 MiB", path) :
			 cache_dir_open(path, err);

	if (fd >= 0)
		cache = calloc(1, sizeof(*cache));
	if (!cache) {
		store_free(below);
		if (fd < 0)
			return fd;
		close(fd);
		return err_set(err, -ENOMEM, "no memory for a cache");
	}
	store_layer_init(&cache->layer, &cache_ops, below, NULL);
	cache->place.dir = fd;
	cache->place.limit = bytes;
	cache->place.below = below;
	cache_queue_init(&cache->urgent);
	cache_queue_init(&cache->bulk);
	cache_queue_init(&cache->cancelled);
	cond_init(&cache->work);
	cond_init(&cache->cancels);
	*out = cache;
	return 0;
}

struct store *cache_store(struct cache_store *cache)
{
	return &cache->layer.store;
}

void cache_store_stats(struct cache_store *cache, struct cache_store_stats *stats)
{
	stats->hits = count_get(&cache->place.hits);
	stats->misses = count_get(&cache->place.misses);
	stats->waited = count_get(&cache->place.waited);
	stats->damaged = count_get(&cache->place.damaged);
	stats->not_kept = count_get(&cache->place.not_kept);
}
