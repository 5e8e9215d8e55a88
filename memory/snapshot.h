/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * All of guest RAM as it is at one moment, while the guest goes on writing it.
 *
 *   new      nothing happens yet
 *   prepare  the guest runs. All of memory is watched for writes, huge page by
 *            huge page; what is written meanwhile is protected again, until
 *            little is left. It takes some microseconds a huge page, so that
 *   begin    takes none: THE MOMENT. vCPUs are parked, devices drained. What
 *            was written in the last milliseconds is protected; then the caller
 *            lets the guest run. How long it takes depends on that, not on how
 *            much memory there is.
 *   next     hands out one span after the other, each exactly once, as it was
 *            at the moment, to any number of threads
 *   end      nothing is watched any more, or only for the next snapshot
 *
 * A span that is about to be written for the first time is copied before: into
 * a buffer of bounded size, which next() empties first of all. When it is full,
 * whoever writes is held up, and the snapshot is never given up for lack of
 * room: a vCPU waits in user space, outside KVM_RUN, where kicks, signals and
 * debuggers reach it at once (memory_thread_throttle); gup says -EAGAIN, and
 * its ticket fires when there is room, or waits as it does for a page that is
 * missing; the balloon's pages stay what they are.
 *
 * Memory may be late. A page that is not here at the moment is handed out as
 * `late`, without data, whether or not it has come since: it is to be named by
 * where it is.
 *
 * A memory has one snapshot at a time.
 */
#ifndef POSTERN_MEMORY_SNAPSHOT_H
#define POSTERN_MEMORY_SNAPSHOT_H

#include "memory/memory.h"

#define MEMORY_SPAN_PAGES 16u
#define MEMORY_SPAN_BYTES (MEMORY_SPAN_PAGES * PAGE_BYTES)
#define MEMORY_SNAPSHOT_BUFFER (UINT64_C(64) << 20)
#define MEMORY_SNAPSHOT_BUFFER_MIN (UINT64_C(1) << 20)

struct memory_snapshot;

struct memory_snapshot_config {
	/*
	 * For copies before a first write; 0: MEMORY_SNAPSHOT_BUFFER, and never
	 * less than MEMORY_SNAPSHOT_BUFFER_MIN. 80 MiB of address space more
	 * are a reserve, which is used while somebody comes out of the guest to
	 * wait.
	 */
	uint64_t buffer_bytes;
	/*
	 * The guest stays parked from begin to end: nothing is watched, and no
	 * userfaultfd needed. For hosts that cannot do it live; the calls are
	 * the same.
	 */
	bool paused;
	/*
	 * After the end go on noticing which spans are written: the next
	 * snapshot hands out those that are as they were in this one as `same`.
	 * It costs the guest a fault at the first write to each span.
	 */
	bool track;
	/*
	 * Hands out every span with its data, also those that are the same: what
	 * the last snapshot had is not where this one goes.
	 */
	bool all;
};

/*
 * What is handed out: `spans` spans that are alike, all of one huge page, from
 * page `first` on. The masks are those of each: bit i is page first + i, or i
 * pages after the beginning of another one. No bit is in two of them, and each
 * page's is in one, unless `same`.
 */
struct memory_span {
	gfn_t first; /* a multiple of MEMORY_SPAN_PAGES */
	unsigned int spans; /* 1; up to 32 where nothing is `here` */
	uint16_t here; /* the page is at data + i * PAGE_BYTES, perhaps all zeros */
	uint16_t zero; /* it is zero, and nothing lies in data */
	uint16_t late; /* it was not here: MISSING or REQUESTED */
	uint16_t lost; /* LOST: nobody has it */
	bool same; /* nobody has written it since the last snapshot that ended as saved; nothing lies in data */
};

/*
 * Any thread; config is copied, NULL: all 0. -EBUSY: there is another; -ENOMEM.
 * mem outlives it.
 */
int memory_snapshot_new(struct memory_snapshot **out, struct memory *mem,
			const struct memory_snapshot_config *config, struct err *err);

/*
 * Once. Any thread that may wait, not the main thread: milliseconds for each
 * GiB. vCPUs run, or do not. -ENOTSUP: this host cannot report writes (the text
 * says why), a snapshot that is `paused` can be taken; -EPERM: this user may
 * not use userfaultfd; -ECANCELED; -ENOMEM; -EIO: the kernel would not protect
 * a page.
 */
int memory_snapshot_prepare(struct memory_snapshot *snapshot, struct err *err);

/*
 * The moment. Any thread; all vCPUs are parked and devices drained. What is
 * held by gup for writing all the same is copied now. -ENOBUFS: more of that
 * than the buffer has room for; -ECANCELED, -EIO. After an error nothing but
 * the end is left, and the guest may go on.
 */
int memory_snapshot_begin(struct memory_snapshot *snapshot, struct err *err);

/*
 * The next span, with its data, MEMORY_SPAN_BYTES of the caller's. Any thread
 * but the main thread, several at a time. Waits for nobody but another thread
 * that copies a span at this very moment. 1; 0: all have been handed out, by
 * this or by other threads; -ECANCELED; -EIO: the kernel has failed, what was
 * handed out is of no use.
 */
int memory_snapshot_next(struct memory_snapshot *snapshot, struct memory_span *span, void *data);

/*
 * More than half of the buffer is used: writers are held up soon, or are already,
 * unless next is called more often. Any thread, never sleeps.
 */
bool memory_snapshot_is_pressed(const struct memory_snapshot *snapshot);

/*
 * prepare, begin and next end with -ECANCELED from now on. Any thread, never
 * sleeps.
 */
void memory_snapshot_cancel(struct memory_snapshot *snapshot);

/*
 * Ends it, whatever has been called before, and frees it; writers that were
 * held up go on. Nobody is in any of the others. saved: all spans were handed
 * out, and are safe: the next snapshot's `same` is then since this moment, if
 * config.track; otherwise since the one before, if that was tracked. Any thread
 * that may wait, before memory_shut.
 */
void memory_snapshot_end(struct memory_snapshot *snapshot, bool saved);

/*
 * Is it noticed what is written since the last snapshot that ended as saved, so
 * that the next one hands out others as `same`? Any thread; while no snapshot is
 * under way.
 */
bool memory_snapshot_is_tracked(const struct memory *mem);

struct memory_snapshot_stats {
	uint64_t spans; /* of all memory */
	uint64_t left; /* not handed out yet */
	uint64_t copied; /* copied before a first write */
	uint64_t buffered; /* copies that wait to be handed out now; and the most there were */
	uint64_t buffered_max;
	uint64_t armed_again; /* huge pages with spans that were protected again in the pause */
	int64_t prepare_ns; /* what prepare took; and begin */
	int64_t begin_ns;
	uint64_t
		throttled; /* times that a vCPU was held up for lack of room; and how long all together */
	int64_t throttled_ns;
};
/* Any thread, at any time. */
void memory_snapshot_stats(const struct memory_snapshot *snapshot,
			   struct memory_snapshot_stats *stats);

#endif
