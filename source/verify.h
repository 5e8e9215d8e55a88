/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A wrapper that lets no wrong page pass: each page that comes from below is
 * held against its xxh3_64 checksum. A wrong one is not passed on but asked for
 * again, a bounded number of times; then it is lost.
 */
#ifndef POSTERN_SOURCE_VERIFY_H
#define POSTERN_SOURCE_VERIFY_H

#include "source/layer.h"

struct verify;

struct verify_config {
	/*
	 * The checksum of a page; false: there is none, the page passes. Any
	 * thread, must be quick.
	 */
	bool (*sum)(void *arg, gfn_t gfn, uint64_t *sum);
	void *arg;
	unsigned int tries;		/* how often a page is asked for again, 0 to 255 */
	size_t bad_max;			/* so many pages can be asked for again at a time; one more is lost at once */
};

/*
 * A ready-made provider: checksums of the n pages from `first` on; `sum` of a
 * verify_config, with this as arg.
 */
struct verify_table {
	gfn_t first;
	uint64_t n;
	const uint64_t *sums;
};
bool verify_table_sum(void *arg, gfn_t gfn, uint64_t *sum);

struct verify_stats {
	uint64_t good, unknown;		/* pages passed on: right; without a checksum */
	uint64_t wrong;			/* pages not passed on */
	uint64_t again;			/* of these, asked for again */
	uint64_t lost;			/* of these, given up */
};

int verify_new(struct verify **out, const struct verify_config *config, struct err *err);
/* To put into a stack, which frees it. */
struct layer *verify_layer(struct verify *verify);
void verify_stats(const struct verify *verify, struct verify_stats *stats);

#endif
