// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "device/chardev_ring.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/chardev.h"

#define PIECE_BYTES ((size_t)64 << 10)
#define MARK_BYTES 80

int chardev_ring_init(struct chardev_ring *ring)
{
	*ring = (struct chardev_ring){ 0 };
	ring->bytes = malloc(CHARDEV_RING_BYTES);
	ring->piece = malloc(PIECE_BYTES + MARK_BYTES);
	pthread_mutex_init(&ring->lock, NULL);
	if (ring->bytes && ring->piece)
		return 0;
	chardev_ring_fini(ring);
	return -ENOMEM;
}

void chardev_ring_fini(struct chardev_ring *ring)
{
	pthread_mutex_destroy(&ring->lock);
	free(ring->bytes);
	free(ring->piece);
}

/* With the lock held: the oldest go. */
static void drive_out(struct chardev_ring *ring, size_t len)
{
	ring->head = (ring->head + len) % CHARDEV_RING_BYTES;
	ring->len -= len;
	ring->dropped += len;
	ring->gap += len;
}

void chardev_ring_put(struct chardev_ring *ring, const uint8_t *data, size_t len)
{
	size_t at, first;

	if (len > CHARDEV_RING_BYTES) {
		chardev_ring_lose(ring, len - CHARDEV_RING_BYTES);
		data += len - CHARDEV_RING_BYTES;
		len = CHARDEV_RING_BYTES;
	}
	pthread_mutex_lock(&ring->lock);
	if (ring->len + len > CHARDEV_RING_BYTES)
		drive_out(ring, ring->len + len - CHARDEV_RING_BYTES);
	at = (ring->head + ring->len) % CHARDEV_RING_BYTES;
	first = len < CHARDEV_RING_BYTES - at ? len : CHARDEV_RING_BYTES - at;
	memcpy(ring->bytes + at, data, first);
	memcpy(ring->bytes, data + first, len - first);
	ring->len += len;
	pthread_mutex_unlock(&ring->lock);
}

void chardev_ring_lose(struct chardev_ring *ring, uint64_t len)
{
	pthread_mutex_lock(&ring->lock);
	drive_out(ring, ring->len);
	ring->dropped += len;
	ring->gap += len;
	pthread_mutex_unlock(&ring->lock);
}

uint64_t chardev_ring_dropped(struct chardev_ring *ring)
{
	uint64_t dropped;

	pthread_mutex_lock(&ring->lock);
	dropped = ring->dropped;
	pthread_mutex_unlock(&ring->lock);
	return dropped;
}

/* The next piece: where it begins behind a gap, with a line that says so. */
static void ring_refill(struct chardev_ring *ring)
{
	size_t n, first;
	int mark = 0;

	ring->piece_done = 0;
	pthread_mutex_lock(&ring->lock);
	if (ring->gap)
		mark = snprintf((char *)ring->piece, MARK_BYTES,
				"\r\n[postern: %" PRIu64 " bytes are missing here]\r\n", ring->gap);
	ring->gap = 0;
	n = ring->len < PIECE_BYTES ? ring->len : PIECE_BYTES;
	first = n < CHARDEV_RING_BYTES - ring->head ? n : CHARDEV_RING_BYTES - ring->head;
	memcpy(ring->piece + mark, ring->bytes + ring->head, first);
	memcpy(ring->piece + mark + first, ring->bytes, n - first);
	ring->head = (ring->head + n) % CHARDEV_RING_BYTES;
	ring->len -= n;
	pthread_mutex_unlock(&ring->lock);
	ring->piece_len = (size_t)mark + n;
}

size_t chardev_ring_peek(struct chardev_ring *ring, const uint8_t **data)
{
	if (ring->piece_done == ring->piece_len)
		ring_refill(ring);
	*data = ring->piece + ring->piece_done;
	return ring->piece_len - ring->piece_done;
}

void chardev_ring_taken(struct chardev_ring *ring, size_t len)
{
	ring->piece_done += len;
}
