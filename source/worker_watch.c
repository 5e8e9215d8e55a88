// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Spans that a replay has read and not filled, so that whoever touches one asks for it, and it
 * shows that it is still touched. They are kept here, a few: who asks does not wait for the store.
 *
 * Copies are made with the lock held; a span takes some microseconds.
 */
#include <string.h>

#include "base/page.h"
#include "source/worker_internal.h"

static size_t watch_span_bytes(const struct worker *worker)
{
	return (size_t)worker_span_pages(worker) * PAGE_BYTES;
}

static struct watched *watch_find(struct worker *worker, uint64_t span)
{
	unsigned int i;

	for (i = 0; i < worker->watch.n; i++)
		if (worker->watch.watched[i].span == span)
			return &worker->watch.watched[i];
	return NULL;
}

static uint8_t *watch_page(struct worker *worker, const struct watched *watched, uint64_t index)
{
	return worker->watch.pages +
	       (size_t)(watched - worker->watch.watched) * watch_span_bytes(worker) +
	       index % worker_span_pages(worker) * PAGE_BYTES;
}

static struct watched *watch_new(struct worker *worker, uint64_t span)
{
	struct watch *watch = &worker->watch;

	if (watch->over || watch->n == WATCHED_MAX)
		return NULL;
	if (!watch->pages)
		watch->pages = page_buffer_new(WATCHED_MAX * watch_span_bytes(worker));
	if (!watch->pages)
		return NULL;
	watch->watched[watch->n] = (struct watched){ .span = span };
	return &watch->watched[watch->n++];
}

bool worker_watch_keep(struct worker *worker, uint64_t at, uint64_t n, const void *data)
{
	unsigned int span = worker_span_pages(worker);
	struct watched *watched;
	uint64_t i;

	if (!span)
		return false;
	pthread_mutex_lock(&worker->lock);
	watched = watch_find(worker, at / span);
	if (!watched)
		watched = watch_new(worker, at / span);
	for (i = 0; watched && i < n && (at + i) / span == at / span; i++) {
		if (data)
			memcpy(watch_page(worker, watched, at + i),
			       (const uint8_t *)data + i * PAGE_BYTES, PAGE_BYTES);
		else
			memset(watch_page(worker, watched, at + i), 0, PAGE_BYTES);
		watched->have |= UINT64_C(1) << (at + i) % span;
	}
	pthread_mutex_unlock(&worker->lock);
	return watched;
}

int64_t worker_watch_read(struct worker *worker, uint64_t at, uint64_t n, void *data)
{
	unsigned int span = worker_span_pages(worker);
	struct watched *watched;
	uint64_t i = 0;

	pthread_mutex_lock(&worker->lock);
	watched = span && worker->watch.n ? watch_find(worker, at / span) : NULL;
	for (; watched && i < n && (at + i) / span == at / span &&
	       watched->have >> (at + i) % span & 1;
	     i++)
		memcpy((uint8_t *)data + i * PAGE_BYTES, watch_page(worker, watched, at + i),
		       PAGE_BYTES);
	pthread_mutex_unlock(&worker->lock);
	return (int64_t)i;
}

void worker_watch_end(struct worker *worker)
{
	struct watch *watch = &worker->watch;

	pthread_mutex_lock(&worker->lock);
	page_buffer_free(watch->pages, WATCHED_MAX * watch_span_bytes(worker));
	watch->pages = NULL;
	watch->n = 0;
	watch->over = true;
	pthread_mutex_unlock(&worker->lock);
}
