/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A latency histogram: power-of-two buckets, bucket i counts values in [2^i, 2^(i+1)) nanoseconds
 * (bucket 0 also 0). Any thread may add and read at any time; a reader sees each bucket whole, the
 * set of them at slightly different moments.
 */
#ifndef POSTERN_BASE_HIST_H
#define POSTERN_BASE_HIST_H

#include <stdatomic.h>
#include <stdint.h>

#define HIST_BUCKETS 48

struct hist {
	_Atomic uint64_t bucket[HIST_BUCKETS];
	_Atomic uint64_t count;
	_Atomic uint64_t sum_ns;
	_Atomic uint64_t max_ns;
};

static inline void hist_add(struct hist *h, int64_t ns)
{
	uint64_t v = ns > 0 ? (uint64_t)ns : 0;
	unsigned b = v ? 63u - (unsigned)__builtin_clzll(v) : 0;
	uint64_t max = atomic_load_explicit(&h->max_ns, memory_order_relaxed);

	if (b >= HIST_BUCKETS)
		b = HIST_BUCKETS - 1;
	/* Statistics order nothing. */
	atomic_fetch_add_explicit(&h->bucket[b], 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&h->count, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&h->sum_ns, v, memory_order_relaxed);
	while (v > max && !atomic_compare_exchange_weak_explicit(&h->max_ns, &max, v,
								 memory_order_relaxed,
								 memory_order_relaxed))
		;
}

/* Upper bound, in ns, of the bucket in which the given share (0 to 1) of all values is reached; 0 if empty. */
static inline uint64_t hist_quantile(struct hist *h, double share)
{
	uint64_t total = 0, seen = 0;
	unsigned i;

	for (i = 0; i < HIST_BUCKETS; i++)
		total += atomic_load_explicit(&h->bucket[i], memory_order_relaxed);
	if (!total)
		return 0;
	for (i = 0; i < HIST_BUCKETS; i++) {
		seen += atomic_load_explicit(&h->bucket[i], memory_order_relaxed);
		if ((double)seen >= share * (double)total)
			break;
	}
	return UINT64_C(2) << (i < HIST_BUCKETS ? i : HIST_BUCKETS - 1);
}

#endif
