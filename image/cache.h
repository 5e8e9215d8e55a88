/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What several threads read, kept in a fixed number of slots. Whoever asks for
 * what is not there loads it; whoever asks for that meanwhile waits for the
 * same load. What is in use stays, of the rest goes what was not asked for
 * longest (by a clock's hand). A load that fails is kept for nobody but those
 * who wait for it.
 *
 * Threads: any. No lock is held across a load. A thread holds one slot at a
 * time of each cache, so there must be as many slots as threads, or they wait.
 */
#ifndef POSTERN_IMAGE_CACHE_H
#define POSTERN_IMAGE_CACHE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct cache;

struct cache_ops {
	/*
	 * Fills slot with what key names; `what` is the caller's of cache_get. 0 or a negative
	 * errno.
	 */
	int (*load)(void *arg, unsigned int slot, uint64_t key, void *what, struct err *err);
	/*
	 * A slot that was loaded goes. May be NULL. Not with a lock of the cache's held by
	 * others' loads.
	 */
	void (*drop)(void *arg, unsigned int slot);
};

/* slots: 1 or more. NULL: no memory. */
struct cache *cache_new(unsigned int slots, const struct cache_ops *ops, void *arg);
/* Nobody uses it. Drops all. NULL is allowed. */
void cache_free(struct cache *cache);
/*
 * Returns 1: it was there, or another thread's load brought it; 0: it was loaded; or the load's
 * error.
 */
int cache_get(struct cache *cache, uint64_t key, void *what, unsigned int *slot, struct err *err);
/* Is it there, or being loaded? A moment later it may be otherwise. */
bool cache_has(struct cache *cache, uint64_t key);
/*
 * Loads what may be asked for soon, where there is room for it and it is not there: nobody
 * holds it.
 */
void cache_add(struct cache *cache, uint64_t key, void *what);
void cache_put(struct cache *cache, unsigned int slot);
/* As cache_put, and it is the first to go: nobody is expected to ask for it again. */
void cache_put_first(struct cache *cache, unsigned int slot);
/*
 * As cache_put, and it is loaded anew when it is asked for again: what it holds has proved
 * wrong.
 */
void cache_put_bad(struct cache *cache, unsigned int slot);
/*
 * Drops all that nobody uses. each, which may be NULL, is called of every slot that holds nothing
 * then, with the lock held.
 */
void cache_empty(struct cache *cache, void (*each)(void *arg, unsigned int slot));

#endif
