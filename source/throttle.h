/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A wrapper that limits what is filled without anybody waiting for it, in bytes
 * a second. A page that was requested passes at once and is only accounted for:
 * the others wait the longer. Zero pages cost nothing.
 *
 * It holds up the thread that fills. A source that fills from one thread only
 * thus has its requested pages behind the others; one with a thread for each,
 * as wire, has not. A request for a page that is being held lets it pass.
 */
#ifndef POSTERN_SOURCE_THROTTLE_H
#define POSTERN_SOURCE_THROTTLE_H

#include "source/layer.h"

struct throttle;

struct throttle_stats {
	uint64_t bytes;			/* passed on */
	uint64_t bytes_requested;	/* of these, in fills with a page that was requested */
	uint64_t held;			/* fills that had to wait */
	uint64_t held_ns;		/* how long, together */
	uint64_t forgotten;		/* requested pages that were not noted: too many were outstanding */
};

/*
 * bytes_per_second 0: no limit. requested_max: so many requested pages are
 * known at a time; more count as not requested.
 */
int throttle_new(struct throttle **out, uint64_t bytes_per_second, size_t requested_max,
		 struct err *err);
/* To put into a stack, which frees it. */
struct layer *throttle_layer(struct throttle *throttle);
/* Any thread; takes effect at once. */
void throttle_limit(struct throttle *throttle, uint64_t bytes_per_second);
void throttle_stats(struct throttle *throttle, struct throttle_stats *stats);

#endif
