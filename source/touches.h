/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Which pages were asked for first, and when: a run's touches, as a working set takes them
 * (image/working_set.h). Bounded by time and number; what comes later is not noted. Pages that
 * come together are one, the first of them: who touches another of these raises no event any more.
 *
 * Any thread.
 */
#ifndef POSTERN_SOURCE_TOUCHES_H
#define POSTERN_SOURCE_TOUCHES_H

#include <pthread.h>
#include <stdbool.h>

#include "base/types.h"
#include "image/working_set.h"

struct touches {
	unsigned int span_pages;
	uint32_t us_max;
	size_t max;
	pthread_mutex_t lock; /* guards the rest */
	int64_t begun_ns; /* CLOCK_MONOTONIC; 0: the guest has not run */
	struct working_set_touch *touch;
	size_t n;
};

/* span_pages: a power of two. -ENOMEM. */
int touches_init(struct touches *touches, unsigned int span_pages, uint32_t us_max, size_t max);
void touches_fini(struct touches *touches);
/* The guest runs from now on. */
void touches_begin(struct touches *touches, int64_t now_ns);
/* Neither sleeps nor allocates. */
void touches_add(struct touches *touches, gfn_t gfn, int64_t now_ns);
/* Nothing more is noted: time or number are used up. */
bool touches_is_full(struct touches *touches, int64_t now_ns);
size_t touches_count(struct touches *touches);
/* What was noted so far, n of them at most, to `out`; returns how many. */
size_t touches_copy(struct touches *touches, struct working_set_touch *out, size_t n);

#endif
