// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "source/layer.h"

#include <string.h>

#include "base/thread.h"

void layer_init(struct layer *layer, const struct page_source_ops *source,
		const struct page_sink_ops *sink, const struct layer_ops *ops)
{
	layer->source = (struct page_source){ .ops = source };
	layer->sink = (struct page_sink){ .ops = sink };
	layer->below = NULL;
	layer->ops = ops;
	atomic_init(&layer->stopped, false);
}

void layer_put_on(struct layer *layer, struct page_source *below)
{
	layer->below = below;
	below->sink = &layer->sink;
}

void layer_stop(struct layer *layer)
{
	/*
	 * Sequentially consistent: a wait either sees it, or is seen by who
	 * wakes under the wait's lock.
	 */
	if (!atomic_exchange(&layer->stopped, true) && layer->ops->stop)
		layer->ops->stop(layer);
}

int64_t layer_room_above(struct page_sink *sink, gfn_t first, uint64_t n, void **data)
{
	return layer_room(layer_of_sink(sink), first, n, data);
}

int64_t layer_put(struct layer *layer, gfn_t first, uint64_t n, const void *data)
{
	int64_t part, r, done = 0;
	void *room;
	uint64_t i;

	if (!data)
		return layer_commit(layer, first, n, NULL);
	for (i = 0; i < n && !layer_is_stopped(layer); i += (uint64_t)part) {
		part = layer_room(layer, GFN(first.v + i), n - i, &room);
		if (part < 0)
			return part;
		memcpy(room, fill_page(data, i), (size_t)part * PAGE_BYTES);
		r = layer_commit(layer, GFN(first.v + i), (uint64_t)part, room);
		if (r < 0)
			return r;
		done += r;
	}
	return done;
}

int layer_thread_start(pthread_t *thread, const char *name, void *(*fn)(void *arg), void *arg,
		       struct err *err)
{
	int r = thread_start(thread, fn, arg);

	if (r < 0)
		return err_errno(err, r, "starting the thread \"%s\"", name);
	pthread_setname_np(*thread, name);
	return 0;
}
