/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Through all of an image, leaf by leaf, by several threads: for what looks at
 * every page. It reads past the cache of frames, which others use.
 */
#ifndef POSTERN_IMAGE_WALK_H
#define POSTERN_IMAGE_WALK_H

#include "image/internal.h"

struct walk_ops {
	/*
	 * A span with data or absent pages, on one of the threads: those of its data pages that are
	 * right stand at data, each at its place, and are in the mask `right`. 0, or an error that
	 * ends the walk.
	 */
	int (*span)(void *arg, gfn_t first, const struct leaf_span *span, const uint8_t *data,
		    uint64_t right, struct err *err);
	/* So many pages cannot be had, because of damage. One at a time. 0: goes on. */
	int (*damage)(void *arg, uint64_t pages, const struct err *err);
	/* one at a time; may be NULL */
	void (*progress)(void *arg, uint64_t done, uint64_t pages);
	void *arg;
};

/* 0, or the first error that ended it. threads: 0 is 1. */
int image_walk(struct image *image, unsigned int threads, const struct walk_ops *ops,
	       struct err *err);

#endif
