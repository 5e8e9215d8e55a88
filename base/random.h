/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Pseudo-random numbers that anybody can have again who knows the seed: for sources and stores
 * that misbehave on purpose, and delays. Not for secrets.
 */
#ifndef POSTERN_BASE_RANDOM_H
#define POSTERN_BASE_RANDOM_H

#include <stdint.h>

/* The i-th of the numbers that belong to a seed (splitmix64). */
static inline uint64_t random_at(uint64_t seed, uint64_t i)
{
	uint64_t x = seed + (i + 1) * UINT64_C(0x9e3779b97f4a7c15);

	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

#endif
