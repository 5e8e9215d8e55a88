/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The one way in which a thread of the VMM reaches guest memory. Named after
 * the kernel's get_user_pages; the flags carry the kernel's names and meaning.
 *
 *   GUP_WRITE (kernel: FOLL_WRITE)
 * 	the caller will write; the pages are marked dirty when the span is put
 *   GUP_NOWAIT (FOLL_NOWAIT, FAULT_FLAG_RETRY_NOWAIT)
 * 	never sleep, never drop the map lock: -EAGAIN, the fetch is under way,
 * 	the ticket fires when the page is in
 *   GUP_INTERRUPTIBLE (FOLL_INTERRUPTIBLE)
 * 	a kick of opts->self ends the wait with -EINTR; only for callers that
 * 	can retry
 *   always (FAULT_FLAG_KILLABLE)
 * 	memory_shut ends every wait with -EINTR
 *   opts->unlocked (int *locked)
 * 	set when the wait had to drop the map lock, so that the caller looks
 * 	again
 *
 * INTERRUPTIBLE and KILLABLE are independent. GUP_NOWAIT wins over
 * GUP_INTERRUPTIBLE: who never sleeps has no wait to interrupt.
 *
 * Order of checks: an interruption is no failure, so it is looked at before any
 * error of the page: no such memory (-EFAULT, it will never be otherwise), then
 * shut down or kicked (-EINTR, the latter only with INTERRUPTIBLE and only when
 * it would have to wait or fail), then lost (-EIO), then not there yet
 * (-EAGAIN), then the deadline (-ETIMEDOUT).
 *
 * The map lock: the caller holds it shared around gup (memory_map_lock); it
 * keeps regions from going away. A span that was got stays valid after the
 * unlock: its pages are pinned.
 */
#ifndef POSTERN_MEMORY_GUP_H
#define POSTERN_MEMORY_GUP_H

#include "memory/memory.h"

#define GUP_WRITE 0x1u
#define GUP_NOWAIT 0x2u
#define GUP_INTERRUPTIBLE 0x4u

struct memory_thread;

/*
 * A NOWAIT miss's promise. Initialise with fire and arg; arm by passing it to
 * gup; it fires once, on the thread that filled the page (no lock held, must
 * not sleep), also when the page is LOST or memory shuts down: the caller then
 * asks again and learns more. While armed it must stay in place;
 * gup_ticket_cancel takes it back.
 */
struct gup_ticket {
	void (*fire)(struct gup_ticket *ticket);
	void *arg;
	/* not the caller's */
	struct gup_ticket *next;
	gfn_t gfn;
	int64_t since_ns;
	bool armed;
};

struct gup_opts {
	struct memory_thread *self;	/* whose kick interrupts; needed with GUP_INTERRUPTIBLE */
	int64_t deadline_ns;		/* CLOCK_MONOTONIC; 0: none */
	struct gup_ticket *ticket;	/* armed on -EAGAIN; may be NULL */
	bool *unlocked;			/* may be NULL: the caller keeps nothing it looked up under the map lock */
};

/* Guest memory at hand: len bytes at hva, of PRESENT and pinned pages. */
struct gup_span {
	uint8_t *hva;
	size_t len;
	gfn_t first;
	uint32_t pages;
	uint32_t flags;		/* GUP_WRITE: it was got for writing, and gup_put marks its pages */
};

/* Shared: any number of threads hold it at a time. */
void memory_map_lock(struct memory *mem);
void memory_map_unlock(struct memory *mem);

/*
 * Gets [gpa, gpa + len) of one region. opts may be NULL (no deadline, no
 * ticket). Returns 0 and fills *span, or -EFAULT no such memory (or len 0),
 * -EINTR kicked or shut down, -EAGAIN not there yet, -EIO lost, -ETIMEDOUT the
 * caller's deadline. All missing pages of the span are asked for at once.
 */
int gup(struct memory *mem, gpa_t gpa, size_t len, unsigned int flags, const struct gup_opts *opts,
	struct gup_span *span);
/*
 * Unpins, and marks the pages of a GUP_WRITE span dirty: so it comes after the
 * last write, by whomever (a read(2) or io_uring into the span that is still
 * under way). Each span that gup returned is put once; one that was copied is
 * one span still.
 */
void gup_put(struct memory *mem, struct gup_span *span);

/*
 * Takes an armed ticket back. True: it will not fire; false: it has fired, is
 * firing or was never armed.
 */
bool gup_ticket_cancel(struct memory *mem, struct gup_ticket *ticket);

/*
 * Copy in or out with gup, page by page across regions' pages, the map lock
 * taken inside; the lock must not be held. Returns 0 or gup's error; with an
 * error some bytes may have been copied.
 */
int gup_read(struct memory *mem, gpa_t gpa, void *to, size_t len, unsigned int flags,
	     const struct gup_opts *opts);
int gup_write(struct memory *mem, gpa_t gpa, const void *from, size_t len, unsigned int flags,
	      const struct gup_opts *opts);

#endif
