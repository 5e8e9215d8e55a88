/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A wrapper that does not take silence for an answer: a requested page has a
 * deadline; when it passes, the page is asked for again, with more patience
 * each time, then of the next source, and at last a policy says whether to go
 * on waiting or to call the page lost.
 *
 * It also bridges sources that are gone for a while (-ENOTCONN) and come back:
 * the page stays noted and is asked for again.
 */
#ifndef POSTERN_SOURCE_RETRY_H
#define POSTERN_SOURCE_RETRY_H

#include "source/layer.h"

#define RETRY_SOURCES_MAX 8

struct retry;

enum retry_policy {
	RETRY_WAIT,		/* from the first source on again, for ever */
	RETRY_LOSE,		/* lose(): the machine pauses, an event says which page */
};

struct retry_config {
	int64_t deadline_ns;	/* for the first answer; doubles with each repetition ... */
	int64_t deadline_max_ns;	/* ... up to this. Each is varied by up to an eighth, both ways. Up to an hour */
	unsigned int tries;	/* requests of one source until it is the next one's turn, 1 to 255 */
	enum retry_policy policy;	/* when the last source did not answer either */
	uint64_t seed;		/* of the variation */
	size_t pages_max;	/* so many outstanding pages are watched; more are asked for, but once */
};

struct retry_stats {
	uint64_t asked;			/* pages requested from above */
	uint64_t again;			/* pages asked for again after a deadline */
	uint64_t moved;			/* of these and of refused ones, asked of another source than before */
	uint64_t refused;		/* a source said that it does not have the page, or is gone */
	uint64_t lost;			/* pages called lost */
	uint64_t unwatched;		/* pages that did not fit into the table */
	uint64_t outstanding;		/* now */
	uint64_t overdue;		/* of these, those that missed a deadline */
	int64_t oldest_ns;		/* how long the oldest has been outstanding; 0: none is */
};

/* -EINVAL, -ENOMEM, or that no thread can be started. */
int retry_new(struct retry **out, const struct retry_config *config, struct err *err);
/* To put into a stack, which frees it; what is below it there is the first source. */
struct layer *retry_layer(struct retry *retry);
/*
 * One more source, asked after those before it; or stack_top() of another
 * stack. It answers to the retry from now on, and must be quiet (stack_own)
 * before the retry is freed. Before the first request. -ENOSPC: more than
 * RETRY_SOURCES_MAX.
 */
int retry_add(struct retry *retry, struct page_source *source);
void retry_stats(struct retry *retry, struct retry_stats *stats);

#endif
