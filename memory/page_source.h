/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Where late pages come from. memory/ defines this interface and knows no implementation: a peer in
 * a migration, a snapshot file, a page store, or a wrapper around another source implement it.
 *
 * A source is asked with request(), which never blocks, and answers at any later time and from any
 * thread with memory_fill() or memory_lose(). Pages that nobody asked for may come too.
 */
#ifndef POSTERN_MEMORY_PAGE_SOURCE_H
#define POSTERN_MEMORY_PAGE_SOURCE_H

#include <stdint.h>

#include "base/types.h"

struct page_source;

struct page_source_ops {
	const char *name;
	/*
	 * Somebody waits for the n pages from `first` on. Called from any thread (mostly the fault
	 * thread) with no lock of memory/ held; must neither sleep nor touch guest memory. 0, or
	 * -ENOTCONN: this source is gone and the pages will be asked of the next one.
	 */
	int (*request)(struct page_source *source, gfn_t first, uint64_t n);
};

/* Embedded at the start of, or inside, each implementation. */
struct page_source {
	const struct page_source_ops *ops;
};

#endif
