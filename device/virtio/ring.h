/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What queue.c, split.c and packed.c share.
 */
#ifndef POSTERN_DEVICE_VIRTIO_RING_H
#define POSTERN_DEVICE_VIRTIO_RING_H

#include "device/virtio/queue.h"

/* A descriptor's flags are the same in both rings, also those of an indirect table. */
enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };

struct ring_ops {
	/* -EPROTO: sizes or addresses cannot be right. */
	int (*check)(struct vqueue *q);
	/*
	 * Collects the next chain's pieces and fills id and slots. 1, 0 or an
	 * error; nothing moves.
	 */
	int (*next)(struct vqueue *q, uint16_t *id, uint16_t *slots);
	/* The chain was taken. */
	void (*advance)(struct vqueue *q, uint16_t slots);
	/* ... and is as if it were not. */
	void (*retreat)(struct vqueue *q, uint16_t slots);
	/*
	 * Tells the driver of a batch of used chains, linked: 1 interrupt, 0
	 * none, or an error; may be repeated until it succeeds.
	 */
	int (*put)(struct vqueue *q, const struct vchain *chain);
};

extern const struct ring_ops ring_split, ring_packed;

/* `why` and -EPROTO. */
int ring_wrong(struct vqueue *q, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/*
 * Ring memory. Copies; and single 16-bit fields that the driver changes at the
 * same time: the load is an acquire, the store a release (2.7.13.1, 2.8.21.1).
 * wait: whose ticket is armed on -EAGAIN, or NULL. -EPROTO: not RAM.
 */
int ring_read(struct vqueue *q, struct vqueue_wait *wait, uint64_t gpa, void *to, size_t len);
int ring_write(struct vqueue *q, struct vqueue_wait *wait, uint64_t gpa, const void *from,
	       size_t len);
int ring_load16(struct vqueue *q, struct vqueue_wait *wait, uint64_t gpa, uint16_t *to);
int ring_store16(struct vqueue *q, struct vqueue_wait *wait, uint64_t gpa, uint16_t value);
/* One more buffer of the chain, checked. */
int ring_piece(struct vqueue *q, uint64_t gpa, uint32_t len, bool write);
/*
 * Is an interrupt (or notification) due that was asked for at `event`, when the
 * position went from old to now? (2.7.10)
 */
static inline bool ring_need_event(uint16_t event, uint16_t now, uint16_t old)
{
	return (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

#endif
