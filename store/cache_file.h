/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A cache's folder: blocks in files, and how many bytes there may be. Several
 * processes use it at a time, and any of them may be killed at any moment.
 *
 *   .used		how many bytes there are, at most; whoever changes it has it locked
 *   ab/HASH		a block; ab are the hash's first digits
 *   ab/~HASH		one that is being fetched; whoever does has it locked. Nobody else: it is stale
 */
#ifndef POSTERN_STORE_CACHE_FILE_H
#define POSTERN_STORE_CACHE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "store/cache.h"

#define CACHE_KEY_MAX 640
#define CACHE_HEAD_BYTES 104
#define CACHE_FILE_MAX (CACHE_HEAD_BYTES + CACHE_KEY_MAX + CACHE_BLOCK_BYTES)

/* What a block is, in full, and its file's name. */
struct cache_key {
	size_t len;
	uint8_t bytes[CACHE_KEY_MAX];
	char name[40];			/* ab/HASH */
	char tmp[40];			/* ab/~HASH */
};

/* label and object are not longer than store.h has them. */
void cache_key_make(struct cache_key *key, const char *label, const char *object, uint64_t version,
		    uint64_t block);

/* A descriptor of the folder, or a negative errno, as cache_store_new has them. */
int cache_dir_open(const char *path, struct err *err);

/*
 * Reads bytes [from, to) of a block, as far as it has them, to where they lie
 * behind head and key in `file`, CACHE_FILE_MAX bytes. How many bytes the whole
 * block has: fewer than CACHE_BLOCK_BYTES where its object ends. -ENOENT: it is
 * not there; -EBADMSG: nor is it, now that it was found damaged; -EAGAIN, with
 * `nowait`: not without waiting.
 */
int64_t cache_file_read(int dir, const struct cache_key *key, size_t from, size_t to, uint8_t *file,
			bool nowait);

/* The right to fetch a block: a descriptor. -EBUSY: somebody else has it. */
int cache_file_lock(int dir, const struct cache_key *key);
/* Keeps a block of n bytes; the lock is still to be given up. May remove others. */
int cache_file_write(int dir, uint64_t limit, const struct cache_key *key, int lock,
		     const void *data, size_t n);
void cache_file_unlock(int dir, const struct cache_key *key, int lock);

/* cache_bound.c: room for so many bytes, of which the folder may have `limit`. -EBUSY: not now. */
int cache_reserve(int dir, uint64_t limit, uint64_t bytes);
/* What a file of so many bytes takes there. */
uint64_t cache_disk_bytes(uint64_t bytes);

#endif
