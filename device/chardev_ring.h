/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Output of a chardev that waits for its far side. What does not fit drives out
 * the oldest: a guest's last words are what one looks for. Where bytes are
 * missing, the stream says so, and how many:
 *
 *	\r\n[postern: 12345 bytes are missing here]\r\n
 *
 * Any thread puts bytes in, one takes them out. That one copies a piece first,
 * so that nobody drives out what is just being written.
 */
#ifndef POSTERN_DEVICE_CHARDEV_RING_H
#define POSTERN_DEVICE_CHARDEV_RING_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

struct chardev_ring {
	pthread_mutex_t lock;	/* guards these; a leaf */
	uint8_t *bytes;
	size_t head, len;	/* what it holds: len bytes, from head on */
	uint64_t dropped;	/* in all */
	uint64_t gap;		/* of these, those before head that no piece has told of */
	/* The taker's own. */
	uint8_t *piece;
	size_t piece_len, piece_done;
};

/* 0 or -ENOMEM. */
int chardev_ring_init(struct chardev_ring *ring);
void chardev_ring_fini(struct chardev_ring *ring);
/* Any thread, never blocks. */
void chardev_ring_put(struct chardev_ring *ring, const uint8_t *data, size_t len);
/*
 * Any thread: as if `len` bytes had been put and driven out again, with all
 * that was there before.
 */
void chardev_ring_lose(struct chardev_ring *ring, uint64_t len);
/* Any thread. */
uint64_t chardev_ring_dropped(struct chardev_ring *ring);
/* What is to be written next, until chardev_ring_taken says how much of it was; 0: nothing. */
size_t chardev_ring_peek(struct chardev_ring *ring, const uint8_t **data);
void chardev_ring_taken(struct chardev_ring *ring, size_t len);

#endif
