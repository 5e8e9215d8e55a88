/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What is in a restored guest's memory before it runs: the early pages, which KVM touches itself;
 * and what is read before it is asked for, as far as there is time: what lies around them, since a
 * guest goes on near its instruction pointer and its stack. Any thread.
 */
#ifndef POSTERN_SNAPSHOT_RESTORE_EARLY_H
#define POSTERN_SNAPSHOT_RESTORE_EARLY_H

#include "image/image.h"
#include "image/state.h"
#include "memory/memory.h"

/* Of more nobody knows which are worth it: most are then of page tables. */
#define EARLY_SPANS_MAX 16u

/* Spans of the image in which there are early pages, by their first pages. */
struct early_spans {
	unsigned int span_pages;
	unsigned int n;
	bool more;			/* these are the first of them */
	gfn_t first[EARLY_SPANS_MAX];
};
void early_spans_of(struct early_spans *spans, const struct image_state *state,
		    unsigned int span_pages);

/* All early pages; err names the one that cannot be placed. */
int early_place(struct memory *mem, const struct image_state *state, struct err *err);

/*
 * Reads the leaves of the index that these spans are in, and, unless there are more, the spans:
 * whoever wants them next finds them decoded. Whatever fails is left to who does.
 */
void early_spans_read(const struct early_spans *spans, struct image *image);

#endif
