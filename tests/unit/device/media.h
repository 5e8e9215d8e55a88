/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A medium with a volatile cache, as a disk's: a write is in the cache until it
 * is made stable, by itself or by a flush that began after it had been
 * acknowledged. A loss of power leaves of each sector any content that it had
 * since, at random.
 *
 * Not locked: the caller sees to it.
 */
#ifndef POSTERN_TESTS_DEVICE_MEDIA_H
#define POSTERN_TESTS_DEVICE_MEDIA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MEDIA_SECTOR 512
#define MEDIA_WRITES_MAX 16384

struct media_write {
	uint64_t id, at, sequence;
	uint64_t acknowledged;		/* when; 0: not yet */
	size_t len;
	uint8_t *data;
};

struct media {
	size_t bytes;
	uint8_t *stable, *now;
	uint64_t *stable_sequence;	/* of each sector: of the write that it has */
	uint64_t sequence, time;	/* time: of acknowledgements and flushes */
	unsigned int n;
	struct media_write write[MEDIA_WRITES_MAX];	/* volatile ones, in order */
	unsigned int seed;
};

struct media *media_new(size_t bytes, unsigned int seed);
void media_free(struct media *media);
/* Into the cache. data NULL: zeros. */
void media_put(struct media *media, uint64_t id, uint64_t at, const void *data, size_t len);
/* Write `id` has been acknowledged; stable: and is stable by that. */
void media_acknowledge(struct media *media, uint64_t id, bool stable);
/*
 * A flush: what has been acknowledged when it begins is stable when it ends.
 * Returns that moment, for its end.
 */
uint64_t media_flush_begin(struct media *media);
void media_flush_end(struct media *media, uint64_t begin);
/* The power is lost, and back. */
void media_cut(struct media *media);

#endif
