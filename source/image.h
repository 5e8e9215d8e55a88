/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A page source out of an image in a store: a worker (worker.h) that reads by image_read. What
 * cannot be read now is asked for again for as long as it takes, so that a store which is away only
 * holds up who waits for its pages; a page that is damaged each time it is read, and one that the
 * image does not have, is LOST.
 *
 * Any thread, unless said otherwise. The image, its scope and mem outlive the source.
 */
#ifndef POSTERN_SOURCE_IMAGE_H
#define POSTERN_SOURCE_IMAGE_H

#include "image/image.h"
#include "source/touches.h"
#include "source/worker.h"

struct image_source;

struct image_source_config {
	struct image *image;
	struct store_scope *scope;	/* the image's: what worker_stop cancels */
	bool far;			/* the store is on a network: more reads at a time */
	struct worker_fill fill;
	struct touches *touches;	/* is told what is asked for; NULL: nobody is */
};

struct image_source_info {
	struct worker_stats worker;
	struct worker_replay_stats replay;
	struct image_stats image;
	struct worker_fill fill;
	int64_t failing_since_ns;	/* CLOCK_MONOTONIC; 0: the last read did not fail */
	char error[508];		/* why, or "" */
};

/* -ENOMEM, -EINVAL. */
int image_source_new(struct image_source **out, const struct image_source_config *config,
		     struct memory *mem, struct err *err);
/* What to attach to memory. */
struct page_source *image_source_pages(struct image_source *source);
/* One thread at a time for these three; as worker_start, worker_stop, worker_free. */
int image_source_start(struct image_source *source, struct err *err);
void image_source_stop(struct image_source *source);
void image_source_free(struct image_source *source);

/*
 * Begins to read a working set's pages, before they are wanted: as worker_replay, and its errors.
 * turn: another one of the set is watched each time, so that what is touched no more is noticed.
 */
int image_source_replay(struct image_source *source, const struct working_set *set,
			unsigned int turn, struct err *err);

/* Nobody looks any more what of the set is touched: worker_watch_end. */
void image_source_watch_end(struct image_source *source);

void image_source_set_fill(struct image_source *source, const struct worker_fill *fill);
/* The thread that starts and stops it. */
void image_source_info(struct image_source *source, struct image_source_info *info);

#endif
