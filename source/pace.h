/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * How fast something goes lately: what came in each of the last seconds. The caller locks.
 */
#ifndef POSTERN_SOURCE_PACE_H
#define POSTERN_SOURCE_PACE_H

#include <stdint.h>

#define PACE_SECONDS 8u

/* Zeroed: nothing has come. */
struct pace {
	int64_t second; /* the one that count[second % PACE_SECONDS] is of */
	int64_t first_ns; /* when the first came; 0: none has */
	uint64_t count[PACE_SECONDS];
};

/* now_ns: CLOCK_MONOTONIC. */
void pace_add(struct pace *pace, uint64_t n, int64_t now_ns);
/*
 * A second, over the last few of them, or over the time since the first came, if that is less; 0:
 * nothing came meanwhile.
 */
uint64_t pace_a_second(struct pace *pace, int64_t now_ns);

#endif
