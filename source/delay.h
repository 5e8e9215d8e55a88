/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A wrapper that makes a source slow: requests go down, and pages come up, a
 * fixed or random time later, in the order in which they fall due. For tests
 * and measurements. At stop, what waits is dropped.
 */
#ifndef POSTERN_SOURCE_DELAY_H
#define POSTERN_SOURCE_DELAY_H

#include "source/layer.h"

struct delay;

struct delay_config {
	/* Each is delayed by _ns and a random part of _spread_ns; up to an hour together. */
	int64_t request_ns, request_spread_ns;
	int64_t fill_ns, fill_spread_ns;	/* lose() as well */
	uint64_t seed;				/* of the random part */
	/* So much data waits at most; a fill beyond it waits for room. At least a huge page. */
	uint64_t bytes_max;
};

struct delay_stats {
	uint64_t requests, fills;	/* delivered, late */
	uint64_t hurried;		/* delivered at once: too many waited, or there was no memory */
	uint64_t failed;		/* late ones that the neighbour refused: nobody can be told any more */
	uint64_t waiting;		/* now */
};

/*
 * A fill returns 0, since its pages come later. -EINVAL, -ENOMEM, or that no
 * thread can be started.
 */
int delay_new(struct delay **out, const struct delay_config *config, struct err *err);
/* To put into a stack, which frees it. */
struct layer *delay_layer(struct delay *delay);
void delay_stats(struct delay *delay, struct delay_stats *stats);

#endif
