/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Counters for statistics, which any thread may add to and read. They order nothing: who reads two
 * of them may see the later one first. (base/hist.h has its own, since C++ reads it too.)
 */
#ifndef POSTERN_BASE_COUNT_H
#define POSTERN_BASE_COUNT_H

#include <stdatomic.h>
#include <stdint.h>

static inline void count_add(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static inline void count_sub(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_fetch_sub_explicit(counter, n, memory_order_relaxed);
}

static inline uint64_t count_get(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

#endif
