/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A GET of an object's version on its way through the cache's blocks: those
 * that are there are read, the others fetched and kept. Several threads at a
 * time.
 */
#ifndef POSTERN_STORE_CACHE_WALK_H
#define POSTERN_STORE_CACHE_WALK_H

#include "store/store.h"

/* Where the blocks are, and what becomes of them. */
struct cache_place {
	int dir;
	uint64_t limit;			/* bytes */
	struct store *below;
	_Atomic bool complained;
	_Atomic uint64_t hits, misses, waited, damaged, not_kept;
};

/* How its thread waits. */
struct cache_wait {
	struct store_scope *scope;	/* for the store below */
	/* Sleeps a little, since somebody else fetches the same. false: it was cancelled. */
	bool (*pause)(void *arg);
	void *arg;
};

/* Returns the request's result, which is -ECANCELED without a text. Waits. */
int64_t cache_walk(struct cache_place *place, struct store_request *request,
		   const struct cache_wait *wait);
/* The same from the page cache alone, inside of one block. -EAGAIN: not without waiting. */
int64_t cache_walk_cached(struct cache_place *place, struct store_request *request);

#endif
