/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A page source out of something that can be read: a file, a store, a function.
 * How pages are read, its reader says; which and when, the worker, on threads
 * of its own:
 *
 *   urgent	what somebody waits for, oldest first, neighbours together; it goes up by fill, the page
 * 		that is waited for first and then the rest of its span, which
 * 		has been paid for
 *   replay	what will probably be wanted soon, in that order (worker_replay): it goes up by fill, in
 *   		large reads, several at a time; those that somebody comes to wait for are urgent
 *   bulk	all else that is missing, huge page by huge page, those around the last requests first
 * 		and then in order; it goes up by room and commit. Can be
 * 		switched off, limited to a rate, and gives way while somebody
 * 		waits
 *
 * The three have their own threads, so that no background read is in the way of a
 * page that somebody waits for. A read that fails is repeated, after pauses
 * that become longer, and other pages do not wait for that; once one succeeds
 * again the others are tried soon. A wrapper above may ask another source
 * meanwhile (source/retry.h).
 *
 * A start costs the same whatever the guest's size: nothing is done for each
 * page.
 */
#ifndef POSTERN_SOURCE_WORKER_H
#define POSTERN_SOURCE_WORKER_H

#include "base/err.h"
#include "memory/memory.h"

#define WORKER_THREADS_MAX 64
#define WORKER_URGENT_MAX 64	/* pages of one urgent read */

struct worker;

/* The background fill. */
struct worker_fill {
	bool off;
	uint64_t rate;		/* bytes a second, zero pages not counted; 0: no limit */
};

struct worker_config {
	/*
	 * Reads pages from `first` on to `data`, at a page's boundary: as many of the n, which
	 * are of one huge page, as can be had at once. Returns how many, 1 to n; *zero, false so
	 * far, may say that they are zero, and nothing was written. -ENODATA: page `first` is not
	 * there, now or ever. -EBADMSG: it is damaged; after damaged_tries reads in a row that
	 * say so it is lost to whoever waits for it. Another negative errno: page `first` cannot
	 * be had now. By several threads at a time.
	 */
	int64_t (*read)(void *arg, gfn_t first, uint64_t n, void *data, bool *zero);
	/*
	 * The same for the replay: all n pages will be wanted, nobody waits for them yet. NULL:
	 * read is asked.
	 */
	int64_t (*read_soon)(void *arg, gfn_t first, uint64_t n, void *data, bool *zero);
	/*
	 * Somebody waits for this page, and nobody did before. On the asking thread, with a lock of
	 * the worker's held: neither sleeps nor calls it. NULL: nobody wants to know.
	 */
	void (*asked)(void *arg, gfn_t gfn);
	/* Ends reads that take long, and those that begin until the next start. NULL: none does. */
	void (*cancel)(void *arg);
	void *arg;
	unsigned int urgent_threads;	/* 1 to WORKER_THREADS_MAX */
	unsigned int bulk_threads;	/* 0: only what is asked for */
	unsigned int replay_threads;	/* at most; 0: there is no replay */
	unsigned int urgent_pages;	/* of one read, 1 to WORKER_URGENT_MAX */
	unsigned int bulk_pages;	/* 1 to HUGE_PAGES */
	/*
	 * Pages that come together: once one of them was read the others cost
	 * little. A power of two up to WORKER_URGENT_MAX; spans begin at its
	 * multiples. 0 or 1: there is no such thing. An urgent read then asks
	 * for pages to the end of the span, whatever urgent_pages says.
	 */
	unsigned int span_pages;
	unsigned int damaged_tries;	/* 0: a damaged page is tried for ever */
	struct worker_fill fill;	/* to begin with */
};

/* What will be wanted soon. */
struct worker_replay {
	const uint64_t *gfns;		/* in the order in which they will be; what is no RAM is passed over */
	size_t n;
	uint64_t bytes_max;		/* of what is read; 0: no bound */
	int64_t until_ns;		/* CLOCK_MONOTONIC: no read begins after that */
	/*
	 * Of so many huge pages the spans of one are read and not filled, so that they show whether
	 * they are still touched; which one, turn says. 0: none.
	 */
	unsigned int watch_one_in, turn;
};

enum worker_replay_state {
	WORKER_REPLAY_NONE,
	WORKER_REPLAY_RUNNING,
	WORKER_REPLAY_ENDED,	/* all has been read, or time or bytes are used up */
	WORKER_REPLAY_FAILED,	/* reads have failed in a row: it was given up */
};

struct worker_replay_stats {
	enum worker_replay_state state;
	uint64_t set;			/* pages, one a span at most */
	uint64_t present;		/* of these, here now */
	uint64_t asked;			/* of these, that somebody waited for since it began */
	uint64_t missed;		/* requests since then for spans that are not in the set */
	uint64_t reads, pages;		/* what the replay has brought itself */
	int64_t took_ns;		/* until its end, or now */
};

struct worker_stats {
	uint64_t requested;		/* pages, those that were requested already not counted */
	uint64_t waiting;		/* of these, not read yet */
	uint64_t urgent_reads, urgent_pages;
	uint64_t span_pages;		/* that came along with those */
	uint64_t bulk_reads, bulk_pages;
	uint64_t failed;		/* reads, that are or will be repeated */
	uint64_t lost;			/* pages that were requested and are not there, or damaged */
	uint64_t bulk_rate;		/* pages a second that the bulk brought lately */
	unsigned int failing;		/* pages that somebody waits for and whose last read failed */
};

/* mem outlives the worker. -EINVAL, -ENOMEM. */
int worker_new(struct worker **out, const struct worker_config *config, struct memory *mem,
	       struct err *err);
/* What to attach to memory, or to stack something on; its sink is memory's until another is set. */
struct page_source *worker_source(struct worker *worker);
/*
 * Starts its threads; they bring what is missing now. Those that read what somebody waits for are
 * started as they are needed, but for the first, and the bulk's with the fill. Once stopped it can be
 * started again. -ENOMEM, or a negative errno of a thread's start: nothing was
 * started.
 */
int worker_start(struct worker *worker, struct err *err);
/*
 * Begins to read what will be wanted soon; once after a start, later ones are passed over:
 * -EALREADY. The bulk waits until it has ended. Any thread. -ENOTCONN: it is stopped; -ENOTSUP: it
 * has no replay; -ENOMEM, or what the start of its threads fails with: nothing was begun.
 */
int worker_replay(struct worker *worker, const struct worker_replay *replay, struct err *err);
/*
 * What is watched need not be any more: whoever touches it from now on waits until it has been
 * read again, and its memory (4 MiB at most) is free. Any thread.
 */
void worker_watch_end(struct worker *worker);
/* The thread that starts and stops it: looks at each page of the set. */
void worker_replay_stats(struct worker *worker, struct worker_replay_stats *stats);
/* Requests get -ENOTCONN from now on; cancels reads and joins the threads. */
void worker_stop(struct worker *worker);
/* Any thread, at any time. */
void worker_set_fill(struct worker *worker, const struct worker_fill *fill);
void worker_get_fill(struct worker *worker, struct worker_fill *fill);
/* Stops as well. */
void worker_free(struct worker *worker);
/* Any thread. */
void worker_stats(struct worker *worker, struct worker_stats *stats);

#endif
