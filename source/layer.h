/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What every wrapper of a page source begins with: a source to what is above it
 * (towards memory), a sink to what is below it (towards where pages come from),
 * and how it is stopped. docs/sources.md tells how wrappers are stacked.
 *
 *     memory  --request-->  layer  --request-->  layer  --request-->  source
 *             <--fill, lose--      <--fill, lose--      <--fill, lose--
 *             <----commit----      <----commit----      <----commit----
 *             -----room----->      -----room----->      -----room----->
 *
 * Rules for a layer: request() never sleeps; no lock is held across a call to
 * the neighbours; whatever waits is ended by stop(). Once stopped, request()
 * says -ENOTCONN, and what comes from below is dropped (those pages are as
 * missing as before).
 *
 * Room is that of the sink above, handed down, so that what comes by commit
 * needs no copy; what is not to pass is not committed above. A layer that keeps
 * pages for longer gives room of its own, and layer_put hands on what came
 * there.
 */
#ifndef POSTERN_SOURCE_LAYER_H
#define POSTERN_SOURCE_LAYER_H

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/err.h"
#include "base/random.h"
#include "memory/page_source.h"

struct layer;

struct layer_ops {
	/*
	 * Ends every wait inside the layer and joins its thread; `stopped` is
	 * set already. NULL: nothing to do.
	 */
	void (*stop)(struct layer *layer);
	/* Only when stopped, and nobody above or below calls any more. */
	void (*free)(struct layer *layer);
};

/* First member of each wrapper. */
struct layer {
	struct page_source source;	/* what is above asks here; source.sink is where answers go */
	struct page_sink sink;		/* what is below answers here */
	struct page_source *below;
	const struct layer_ops *ops;
	_Atomic bool stopped;
};

void layer_init(struct layer *layer, const struct page_source_ops *source,
		const struct page_sink_ops *sink, const struct layer_ops *ops);
/* The layer asks `below`, which answers to the layer. Before the first request. */
void layer_put_on(struct layer *layer, struct page_source *below);
/* Any thread, more than once as well. */
void layer_stop(struct layer *layer);

static inline struct layer *layer_of_sink(struct page_sink *sink)
{
	return (struct layer *)(void *)((char *)sink - offsetof(struct layer, sink));
}

static inline bool layer_is_stopped(struct layer *layer)
{
	return atomic_load(&layer->stopped);
}

/* Passes on what the layer was asked, or answered; after stop as told above. */
static inline int layer_ask(struct layer *layer, gfn_t first, uint64_t n)
{
	return layer_is_stopped(layer) ? -ENOTCONN :
					 layer->below->ops->request(layer->below, first, n);
}

static inline int64_t layer_fill(struct layer *layer, gfn_t first, uint64_t n, const void *data)
{
	struct page_sink *sink = layer->source.sink;

	return layer_is_stopped(layer) ? 0 : sink->ops->fill(sink, first, n, data);
}

static inline int layer_lose(struct layer *layer, gfn_t gfn)
{
	struct page_sink *sink = layer->source.sink;

	return layer_is_stopped(layer) ? 0 : sink->ops->lose(sink, gfn);
}

/* Room above; also when stopped: what is written there is given back. */
static inline int64_t layer_room(struct layer *layer, gfn_t first, uint64_t n, void **data)
{
	struct page_sink *sink = layer->source.sink;

	return sink->ops->room(sink, first, n, data);
}

/* Commits n pages of such room, 0: gives it back. */
static inline int64_t layer_commit(struct layer *layer, gfn_t first, uint64_t n, const void *data)
{
	struct page_sink *sink = layer->source.sink;

	if (!layer_is_stopped(layer))
		return sink->ops->commit(sink, first, n, data);
	return data ? sink->ops->commit(sink, first, 0, data) : 0;
}

/* What came to the layer by commit, or by fill, goes on the same way. */
static inline int64_t layer_pass(struct layer *layer, bool commit, gfn_t first, uint64_t n,
				 const void *data)
{
	return (commit ? layer_commit : layer_fill)(layer, first, n, data);
}

/* `room` of a sink whose layer has none of its own. */
int64_t layer_room_above(struct page_sink *sink, gfn_t first, uint64_t n, void **data);
/* Commits pages (NULL: zeros) of the layer's own room: copies them into room above. As commit. */
int64_t layer_put(struct layer *layer, gfn_t first, uint64_t n, const void *data);

/* The i-th page of a fill's data, or NULL: it is zero. */
static inline const uint8_t *fill_page(const void *data, uint64_t i)
{
	return data ? (const uint8_t *)data + i * PAGE_BYTES : NULL;
}

/* A thread without signals: they are for the main thread and the vCPUs. */
int layer_thread_start(pthread_t *thread, const char *name, void *(*fn)(void *arg), void *arg,
		       struct err *err);

#endif
