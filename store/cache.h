/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A layer that keeps what is read in a local folder, for all processes of one user on this host:
 * a GET that says which version of an object it means (store.h) is read from there, and what is
 * missing is fetched in blocks and kept. All else goes through.
 *
 * The folder never has more bytes than it may; the blocks that were not used for the longest time
 * go first. Each block has a checksum of all that it says, and appears by a rename: so a process
 * may die at any moment, and a disk may lie, and what is read is right or is fetched again. When
 * several want a block at once, of several processes as well, one fetches it and the others wait
 * for that, for a while. docs/stores.md has the format.
 */
#ifndef POSTERN_STORE_CACHE_H
#define POSTERN_STORE_CACHE_H

#include "store/store.h"

#define CACHE_BLOCK_BYTES ((size_t)128 << 10)

struct cache_store;

struct cache_store_stats {
	uint64_t hits, misses;		/* blocks */
	uint64_t waited;		/* misses that somebody else was fetching */
	uint64_t damaged;		/* blocks that were there and wrong */
	uint64_t not_kept;		/* blocks that could not be written: the folder is full or broken */
};

/*
 * Takes `below`, also where it fails. The folder is made if it is not there.
 * -EPERM: others may write to it; -EINVAL: fewer than 16 MiB; -ENOMEM, or what
 * making and opening it says.
 */
int cache_store_new(struct cache_store **out, struct store *below, const char *path, uint64_t bytes,
		    struct err *err);
struct store *cache_store(struct cache_store *cache);
void cache_store_stats(struct cache_store *cache, struct cache_store_stats *stats);

#endif
