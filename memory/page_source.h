/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Where late pages come from, and where they go. memory/ defines both
 * interfaces and knows no source: a peer in a migration, a snapshot file, a
 * page store, or a wrapper around another source implement them.
 *
 * A source is asked with request(), which never blocks, and answers later, on
 * any thread, into its sink: with fill() or with lose(). Pages that nobody
 * asked for may come too, and better by room() and commit(): the source asks
 * where to put a run of pages, writes them there, and says that the run is
 * whole. memory/ is the last sink (memory_sink); a wrapper is a source to what
 * is above it and a sink to what is below it, so wrappers stack in any order
 * (docs/sources.md).
 */
#ifndef POSTERN_MEMORY_PAGE_SOURCE_H
#define POSTERN_MEMORY_PAGE_SOURCE_H

#include <stdint.h>

#include "base/types.h"

struct page_source;
struct page_sink;

/*
 * Both are called from any thread, several at a time. The caller holds no lock:
 * a sink calls the next one inline, and may call request() of the source below
 * from inside. A sink may hold its caller up for as long as it runs (a throttle
 * does), never longer than until it is stopped; memory's own never does.
 */
struct page_sink_ops {
	const char *name;
	/*
	 * The data of the n pages from `first` on has come (NULL: they are
	 * zero). `data` is the caller's and good only during the call. Returns
	 * how many pages became PRESENT by this, as far as is known at once: a
	 * sink that passes them on later, not at all, or that is stopped
	 * returns less. Errors: -EFAULT: not RAM, -ENOMEM: the host has none;
	 * pages are as missing as they were.
	 */
	int64_t (*fill)(struct page_sink *sink, gfn_t first, uint64_t n, const void *data);
	/* The source does not have page gfn, now or ever. 0 or -EFAULT: not RAM. */
	int (*lose)(struct page_sink *sink, gfn_t gfn);
	/*
	 * Where to put the n pages from `first` on, for which nobody is in a hurry: *data, at a
	 * page's boundary. Returns for how many of them there is room in one piece, 1 to n;
	 * -EFAULT: not RAM, -ENOMEM: the host has none. The room is the caller's alone until it
	 * is committed, by any thread, which it has to be. Several may be out at a time.
	 */
	int64_t (*room)(struct page_sink *sink, gfn_t first, uint64_t n, void **data);
	/*
	 * The first n pages of the room at `data`, which is that of page `first`, are whole. The
	 * room is the sink's again; what it had beyond them is given back (n is 0: all of it).
	 * `data` is NULL: the n pages from `first` on are zero, and have no room. The pages
	 * become PRESENT now or some milliseconds later, with others of their huge page. Returns
	 * how many of them are PRESENT now, as far as is known, or fill's errors.
	 */
	int64_t (*commit)(struct page_sink *sink, gfn_t first, uint64_t n, const void *data);
};

/* Embedded in each implementation. */
struct page_sink {
	const struct page_sink_ops *ops;
};

struct page_source_ops {
	const char *name;
	/*
	 * Somebody waits for the n pages from `first` on. Called from any
	 * thread (mostly the fault thread) with no lock of memory/ held but the
	 * one that detach takes; must neither sleep, nor touch guest memory,
	 * nor answer from inside. 0, or -ENOTCONN: this source is gone and the
	 * pages will be asked of the next one.
	 */
	int (*request)(struct page_source *source, gfn_t first, uint64_t n);
};

/* Embedded at the start of, or inside, each implementation. */
struct page_source {
	const struct page_source_ops *ops;
	struct page_sink *sink;		/* where answers go; set by who stacks it, before the first request, and kept */
};

#endif
