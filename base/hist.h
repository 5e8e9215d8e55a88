/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A latency histogram: power-of-two buckets, bucket i counts values in [2^i,
 * 2^(i+1)) nanoseconds (bucket 0 also 0). Any thread may add and read at any
 * time; a reader sees each bucket whole, the set of them at slightly different
 * moments. The compiler's __atomic builtins rather than <stdatomic.h>: C++
 * reads this file too.
 */
#ifndef POSTERN_BASE_HIST_H
#define POSTERN_BASE_HIST_H

#include <stdbool.h>
#include <stdint.h>

#define HIST_BUCKETS 48

struct hist {
	uint64_t bucket[HIST_BUCKETS];
	uint64_t count;
	uint64_t sum_ns;
	uint64_t max_ns;
};

/*
 * One field of a histogram that others may be adding to. Statistics order
 * nothing, here and below.
 */
static inline uint64_t hist_read(const uint64_t *field)
{
	return __atomic_load_n(field, __ATOMIC_RELAXED);
}

/* Counts one value; negative ones as 0. */
static inline void hist_add(struct hist *h, int64_t ns)
{
	uint64_t v = ns > 0 ? (uint64_t)ns : 0;
	unsigned b = v ? 63u - (unsigned)__builtin_clzll(v) : 0;
	uint64_t max = hist_read(&h->max_ns);

	if (b >= HIST_BUCKETS)
		b = HIST_BUCKETS - 1;
	__atomic_fetch_add(&h->bucket[b], 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&h->count, 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&h->sum_ns, v, __ATOMIC_RELAXED);
	while (v > max && !__atomic_compare_exchange_n(&h->max_ns, &max, v, true, __ATOMIC_RELAXED,
						       __ATOMIC_RELAXED))
		;
}

/*
 * Upper bound, in ns, of the bucket in which the given share (0 to 1) of all
 * values is reached; 0 if empty.
 */
static inline uint64_t hist_quantile(const struct hist *h, double share)
{
	uint64_t total = 0, seen = 0;
	unsigned i;

	for (i = 0; i < HIST_BUCKETS; i++)
		total += hist_read(&h->bucket[i]);
	if (!total)
		return 0;
	for (i = 0; i < HIST_BUCKETS; i++) {
		seen += hist_read(&h->bucket[i]);
		if ((double)seen >= share * (double)total)
			break;
	}
	return UINT64_C(2) << (i < HIST_BUCKETS ? i : HIST_BUCKETS - 1);
}

#endif
