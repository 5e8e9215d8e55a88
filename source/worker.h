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

struct worker;

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
	/* Ends reads that take long, and those that begin until the next start. NULL: none does. */
	void (*cancel)(void *arg);
	void *arg;
	unsigned int urgent_threads;	/* 1 to WORKER_THREADS_MAX */
	unsigned int bulk_threads;	/* 0: only what is asked for */
	unsigned int urgent_pages;	/* of one read, 1 to HUGE_PAGES */
	unsigned int bulk_pages;
};

struct worker_stats {
	uint64_t requested;		/* pages, those that were requested already not counted */
	uint64_t waiting;		/* of these, not read yet */
	uint64_t urgent_reads, urgent_pages;
	uint64_t bulk_reads, bulk_pages;
	uint64_t failed;		/* reads, that are or will be repeated */
	uint64_t lost;			/* pages that were requested and are not there */
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
/* Requests get -ENOTCONN from now on; cancels reads and joins the threads. */
void worker_stop(struct worker *worker);
/* Stops as well. */
void worker_free(struct worker *worker);
/* Any thread. */
void worker_stats(struct worker *worker, struct worker_stats *stats);

#endif
