/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A virtqueue as the device sees it: split and packed ring (virtio 1.2,
 * sections 2.7 and 2.8), indirect descriptors, event index.
 *
 * Guest memory, rings and buffers alike, is reached by gup with GUP_NOWAIT
 * alone. Where a page is missing the queue parks: it has a ticket for that
 * page, nothing has moved, and when the page is in it starts with that chain
 * anew. No other queue notices. What is missing of a chain is asked for all at
 * once.
 *
 *   ready --pop finds a page missing--> parked --the page is in: wake--> ready      stop, reset, fini: the ticket is taken back
 *
 * Chains that are to be given back while the ring's page is missing wait in the
 * queue, in order, for the same.
 *
 * The guest is not trusted: what it wrote is copied once and then checked:
 * indices against the ring's size, the number of descriptors (which ends
 * loops), lengths and their sum, that readable buffers come before writable
 * ones. What is wrong is -EPROTO with the reason in `why`.
 *
 * The device's lock guards all of it. Only `wake` comes without, on the thread
 * that has brought the page.
 */
#ifndef POSTERN_DEVICE_VIRTIO_QUEUE_H
#define POSTERN_DEVICE_VIRTIO_QUEUE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "memory/gup.h"

#define VQUEUE_SIZE_MAX 256
/* Of one chain: the specification's bound for a split ring's (2.7.4.3: at most 2^32 bytes). */
#define VCHAIN_BYTES_MAX (UINT32_C(32) << 20)

/*
 * A chain of buffers that the driver has made available: pinned guest memory,
 * what the device reads first. Of a queue of `addresses` nothing is pinned,
 * asked for or bounded: a span has the whole pages of RAM that lie in its
 * buffer, perhaps none, and no hva.
 */
struct vchain {
	struct vchain *next;
	uint16_t id;			/* split: the head's index; packed: the buffer id */
	uint16_t slots;			/* of the ring that it takes; split: 1 */
	uint16_t batch;			/* given back with those behind it, so many in all: the driver sees all or none */
	uint32_t written;
	unsigned int n_out, n_in;
	uint64_t out_bytes, in_bytes;
	struct gup_span span[];		/* n_out, then n_in */
};

/* A ticket, and who waits with it. */
struct vqueue_wait {
	struct gup_ticket ticket;
	bool armed;
	atomic_bool fired;		/* the last that the ticket does: then its memory may go */
	int fd;
};

/* One descriptor, as copied. */
struct vqueue_piece {
	gpa_t gpa;
	uint32_t len;
	bool write;
};

struct vqueue {
	struct memory *mem;
	unsigned int index;
	uint16_t size_max;
	int fd;				/* eventfd: counts the driver's notifications, and pages that are in */
	/* The driver's settings. */
	uint16_t size, vector;
	uint64_t desc, driver, device;	/* descriptors; driver area (available ring), device area (used ring) */
	bool enabled;
	bool addresses;			/* the device's: buffers are told of, not touched */
	bool packed, event_idx, indirect;
	/* Where the device is. */
	uint16_t avail, used;
	bool avail_wrap, used_wrap;	/* packed */
	unsigned int in_flight;		/* chains that the device has */
	unsigned int in_flight_slots;	/* ... and what they take of the ring */
	struct vchain *done, **done_last;	/* given back, but the ring's page is missing */
	struct vqueue_wait take_wait, give_wait;
	struct vqueue_piece piece[VQUEUE_SIZE_MAX];
	unsigned int pieces;
	char why[96];			/* what the driver did wrong */
};

/* 0 or -EMFILE and the like. */
int vqueue_init(struct vqueue *q, struct memory *mem, unsigned int index, uint16_t size_max);
void vqueue_fini(struct vqueue *q);
/* As vqueue_init left it. The device has no chain any more. */
void vqueue_reset(struct vqueue *q);

/* The driver enables it, with these features (VIRTIO_F_ bits). -EPROTO: its settings are wrong. */
int vqueue_enable(struct vqueue *q, uint64_t features);
/* After loading: the positions are the saved ones. */
int vqueue_restore(struct vqueue *q, uint64_t features, uint16_t avail, bool avail_wrap,
		   uint16_t used, bool used_wrap);

/*
 * The next chain. 1 and *out, whose owner is now the caller until vqueue_push
 * or vqueue_drop. 0: there is none; the driver will notify. -EAGAIN: parked,
 * `fd` will count when it is worth another try. -EIO: a page is lost, -EINTR:
 * memory shuts down; try again when the machine goes on. -EPROTO: the driver is
 * wrong. -ENOMEM.
 */
int vqueue_pop(struct vqueue *q, struct vchain **out);
/*
 * Back to the driver, with so many bytes written into it. 1: the driver wants
 * to be interrupted; 0: it does not; errors as of vqueue_pop: then the queue
 * keeps it for vqueue_resume.
 */
int vqueue_push(struct vqueue *q, struct vchain *chain, uint32_t written);
/*
 * As vqueue_push, of n chains, 1 at least: the driver sees all of them at once.
 * `written` is set in each.
 */
int vqueue_push_all(struct vqueue *q, struct vchain *const *chain, unsigned int n);
/* Chains that could not be given back: as vqueue_push. 0 when there are none. */
int vqueue_resume(struct vqueue *q);
/* As if the chain, of those not given back the one taken last, had not been taken. */
void vqueue_unpop(struct vqueue *q, struct vchain *chain);
/* The chain is forgotten, and so are its pins. */
void vqueue_drop(struct vqueue *q, struct vchain *chain);

/* Waits for a page? */
bool vqueue_is_parked(const struct vqueue *q);
/* Takes the tickets back: no page wakes it any more. */
void vqueue_stop(struct vqueue *q);
/* The driver does not get back what waits for it, and no page wakes the queue. */
void vqueue_abandon(struct vqueue *q);
/* As the driver's notification. Any thread, no lock needed. */
void vqueue_kick(struct vqueue *q);

/* ---- a chain's bytes ---- */

/* Copies out of what the device reads, from offset on; false: it is shorter. */
bool vchain_read(const struct vchain *chain, uint64_t offset, void *to, size_t len);
/* Copies into what the device writes; false: it is shorter. */
bool vchain_write(const struct vchain *chain, uint64_t offset, const void *from, size_t len);
/*
 * [offset, offset + len) of one side (in: what the device writes) as an iovec
 * of at most n_out or n_in; returns how many.
 */
unsigned int vchain_iovec(const struct vchain *chain, bool in, uint64_t offset, uint64_t len,
			  struct iovec *iov);

#endif
