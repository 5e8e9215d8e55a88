/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Spans of guest memory whose first write is noticed: what a snapshot of a
 * running guest stands on (snapshot.h), and what knows what has been written
 * since the last one. A span is MEMORY_SPAN_PAGES pages; it has a byte:
 *
 *   PROTECTED  the kernel reports the next write, and the first touch of what
 *              it does not have. Then nobody holds a page of it for writing:
 *              gup opens a span before it lets a writer in (gup.c)
 *   PATCHY     but of pages that have come from a source since: these are not
 *              protected
 *   WANTED     the snapshot has not got it yet
 *   BLANK      at the moment of the snapshot each page of it was zero, or was
 *              not here
 *   WRITTEN    since the moment of the last snapshot; two bits, which change
 *              places at the moment
 *
 * A span is *opened* before it is written, and so before a page of it is given
 * up or goes out of date: it is copied if the snapshot that is under way still
 * wants it, it is marked, and its protection is taken away. It is *armed* by
 * the opposite.
 *
 * Bytes, and the notes of late pages, are written with the huge page's lock
 * held (internal.h), which is also held from the first look to the kernel's
 * last answer, so that the two agree for whoever has the lock. Whether a span
 * is PROTECTED may be looked at without it: see memory_spans_may_write.
 */
#ifndef POSTERN_MEMORY_SPAN_H
#define POSTERN_MEMORY_SPAN_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "memory/memory.h"
#include "memory/snapshot.h"

#define SPAN_PROTECTED 0x01u
#define SPAN_PATCHY 0x02u
#define SPAN_WANTED 0x04u
#define SPAN_BLANK 0x08u
#define SPAN_WRITTEN_A 0x10u
#define SPAN_WRITTEN_B 0x20u
#define SPAN_WRITTEN (SPAN_WRITTEN_A | SPAN_WRITTEN_B)

#define SPANS_IN_HUGE (HUGE_PAGES / MEMORY_SPAN_PAGES)
/*
 * Touches that wait for room and are known one by one; with more of them all
 * waiters look again.
 */
#define SPANS_HELD_MAX 64u

enum spans_phase {
	SPANS_OFF, /* writes are not noticed. Left by prepare */
	SPANS_PREPARE, /* are being armed; one that is opened is logged, to be armed again. Left by the moment */
	SPANS_LIVE, /* a snapshot is under way. Left by its end */
	SPANS_TRACK, /* none is; writes are noticed for the next one. Left by prepare, or by an end */
};

typedef _Atomic uint8_t span_byte;

/* A part of struct memory. */
struct memory_spans {
	_Atomic enum spans_phase phase;
	/*
	 * Absent pages of RAM that is PRESENT are zero, and the kernel tells of
	 * them: from prepare until nothing is watched.
	 */
	_Atomic bool watching;
	span_byte *span[MEMORY_REGIONS_MAX]; /* NULL: never prepared, or given up */
	uint16_t *late
		[MEMORY_REGIONS_MAX]; /* pages of a span that came after the moment; the huge page's lock */
	/*
	 * Which bit of a span's byte a write sets, and which one said so before
	 * the moment. Written with the log's lock held.
	 */
	uint8_t written, before;
	bool based; /* a snapshot was saved when the bit `before` was new */
	bool all; /* the snapshot that is under way wants it all the same; set before the moment */
	_Atomic int error; /* of the snapshot that is under way */
	_Atomic bool unserved; /* the fault thread has ended */

	/*
	 * Huge pages with spans that were opened during prepare, numbered over
	 * all regions; each once.
	 */
	pthread_mutex_t log_lock;
	uint32_t *log; /* a ring */
	uint8_t *logged;
	size_t log_first, n_log;

	struct memory_copies *copies; /* while a snapshot is live */
	_Atomic bool has_snapshot;
	/*
	 * Copies that wait, and with how many nobody gets another but who
	 * cannot be held up; UINT_MAX: there is no snapshot.
	 */
	_Atomic unsigned int used, high, used_max;
	_Atomic bool room_wanted; /* somebody waits for room: see wait.c */
	/* Touches that found no room at all; guarded by the log's lock. */
	uint64_t held[SPANS_HELD_MAX];
	unsigned int n_held;

	_Atomic uint64_t n_copied, n_throttled, throttled_ns;
};

/*
 * Who needs a copy: one that can wait, or one that sleeps in the kernel, or the
 * moment itself, which may use the reserve.
 */
enum spans_room {
	SPANS_ROOM_USUAL,
	SPANS_ROOM_RESERVE,
};

void memory_spans_init(struct memory *mem);
void memory_spans_fini(struct memory *mem);

/*
 * Makes every span WANTED, and written if writes were not noticed; the log is
 * empty. Nobody else prepares. 0 or -ENOMEM.
 */
int memory_spans_want(struct memory *mem);
/*
 * The snapshot is over; saved: its moment is what the next one's spans are
 * compared with, if writes are to be tracked. Spans are given up if there is
 * nothing to compare with. Nobody takes copies out any more.
 */
void memory_spans_end(struct memory *mem, bool track, bool saved);
/* Writes are not tracked any more. No snapshot is under way. */
void memory_spans_stop(struct memory *mem);
/* Is the span, whose byte it is, as it was in the last snapshot? Of use to this one alone. */
static inline bool memory_span_is_same(const struct memory_spans *spans, uint8_t byte)
{
	return spans->based && !spans->all && !(byte & spans->before);
}
/*
 * Nobody serves the kernel's reports any more (a negative errno): the snapshot
 * fails, and nobody is left waiting.
 */
void memory_spans_fail(struct memory *mem, int error);

/*
 * With a huge page's lock held, while spans are prepared: some of it are open
 * and are to be armed again. False: the moment has come, and it is not logged.
 */
bool memory_spans_log(struct memory *mem, unsigned int region, uint64_t offset);
/*
 * Takes a huge page's number out of the log; -1: it is empty, and if it is to
 * be, this was the moment.
 */
int64_t memory_spans_unlog(struct memory *mem, bool moment);
size_t memory_spans_logged(struct memory *mem);

/*
 * May the pages [offset, offset + n), which the caller has pinned, be written?
 * Opens their spans. Else *bad is a page whose span cannot be copied now for
 * lack of room. Takes huge pages' locks.
 */
bool memory_spans_may_write(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n,
			    uint64_t *bad);
/* The same for a page, with its huge page's lock held. */
bool memory_span_open(struct memory *mem, unsigned int region, uint64_t offset,
		      enum spans_room room);
/*
 * The same for a write that the kernel has reported, from the reserve, also
 * where its byte says that it is open.
 */
bool memory_span_open_for_fault(struct memory *mem, unsigned int region, uint64_t offset);
/*
 * Pages that are not PRESENT are about to come; with their huge page's lock
 * held, before the kernel shows them.
 */
void memory_spans_arrive(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n);
/*
 * May pages of this huge page that are here be moved elsewhere? With its lock
 * held; opens their spans if so.
 */
bool memory_spans_may_move(struct memory *mem, unsigned int region, uint64_t offset);

/*
 * Arms what is not, of the huge page that begins at `offset`, with its lock
 * held; what somebody holds, and so may be writing, stays open. Adds to *open
 * the spans that did. 0 or a negative errno.
 */
int memory_spans_arm(struct memory *mem, unsigned int region, uint64_t offset, uint32_t *open);
/* Takes the protection of the whole huge page away. */
int memory_spans_disarm(struct memory *mem, unsigned int region, uint64_t offset);

/*
 * Where each page of the span at `offset` is: fills the masks of *span. The
 * huge page's lock is held.
 */
int memory_span_look(struct memory *mem, unsigned int region, uint64_t offset,
		     struct memory_span *span);
/*
 * Its pages that are PRESENT, and zero because the kernel has nothing there: a
 * bit each. The huge page's lock is held.
 */
uint16_t memory_span_absent(struct memory *mem, unsigned int region, uint64_t offset);
/* memory_span_look, and copies what is here. */
int memory_span_copy(struct memory *mem, unsigned int region, uint64_t offset,
		     struct memory_span *span, uint8_t *data);
/*
 * Copies it for the snapshot, if that wants it and there is anything to copy.
 * False: no room.
 */
bool memory_span_take(struct memory *mem, unsigned int region, uint64_t offset,
		      enum spans_room room);

struct uffd_msg;
/*
 * The fault thread has read that a thread waits at this page. True: it was for
 * a span, and is dealt with. `returns`: as memory_check_access.
 */
bool memory_span_fault(struct memory *mem, const struct uffd_msg *msg, unsigned int region,
		       uint64_t offset, uint64_t returns);
/* There is room again, or no snapshot: touches that were held look again. */
void memory_spans_release(struct memory *mem);

/* Is there room for another copy, of somebody who can wait? */
bool memory_spans_has_room(struct memory *mem);

static inline span_byte *span_of(const struct memory_spans *spans, unsigned int region,
				 uint64_t offset)
{
	return &spans->span[region][offset / MEMORY_SPAN_PAGES];
}

/* ---- copies.c ---- */

struct memory_copies;

/*
 * bytes: how many may be used by who can wait; there is a reserve beyond.
 * -ENOMEM.
 */
int memory_copies_new(struct memory_copies **out, struct memory *mem, uint64_t bytes);
void memory_copies_free(struct memory_copies *copies);
/* Room for a span's data, or NULL. */
uint8_t *memory_copies_get(struct memory_copies *copies, enum spans_room room);
/* The room at `data` has the span now: it waits to be handed out. */
void memory_copies_push(struct memory_copies *copies, const struct memory_span *span,
			uint8_t *data);
/* The oldest copy, if there is one. */
bool memory_copies_pop(struct memory_copies *copies, struct memory_span *span, uint8_t *data);

#endif
