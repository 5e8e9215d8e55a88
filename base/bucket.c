// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "base/bucket.h"

#include "base/clock.h"

#define BURST_PER_SEC 20	/* the bucket holds a 20th of a second */
#define BURST_MIN (64 << 10)
#define RATE_MAX (UINT64_C(1) << 50)

static int64_t bucket_burst(const struct bucket *bucket)
{
	int64_t burst = (int64_t)(bucket->rate / BURST_PER_SEC);

	return burst > BURST_MIN ? burst : BURST_MIN;
}

static void bucket_refill(struct bucket *bucket, int64_t now_ns)
{
	int64_t burst = bucket_burst(bucket), gained;
	int64_t elapsed = now_ns - bucket->since_ns;

	if (elapsed <= 0)
		return;
	if (elapsed > NS_PER_SEC)
		elapsed = NS_PER_SEC;	/* more than fills it, unless in debt: then it takes several calls */
	gained = (int64_t)((unsigned __int128)elapsed * bucket->rate / (uint64_t)NS_PER_SEC);
	if (!gained)
		return;		/* keep the fraction of a byte: since_ns stays */
	bucket->since_ns = now_ns;
	bucket->credit = bucket->credit > burst - gained ? burst : bucket->credit + gained;
}

void bucket_init(struct bucket *bucket, uint64_t rate, int64_t now_ns)
{
	bucket->rate = rate < RATE_MAX ? rate : RATE_MAX;
	bucket->credit = bucket_burst(bucket);
	bucket->since_ns = now_ns;
}

void bucket_set_rate(struct bucket *bucket, uint64_t rate, int64_t now_ns)
{
	bucket_refill(bucket, now_ns);
	bucket->rate = rate < RATE_MAX ? rate : RATE_MAX;
	bucket->since_ns = now_ns;
	if (bucket->credit > bucket_burst(bucket))
		bucket->credit = bucket_burst(bucket);
	if (!rate && bucket->credit < 0)
		bucket->credit = 0;
}

int64_t bucket_take(struct bucket *bucket, uint64_t bytes, int64_t now_ns)
{
	if (!bucket->rate)
		return 0;
	bucket_refill(bucket, now_ns);
	if (bucket->credit <= 0) {
		unsigned __int128 ns = (unsigned __int128)(uint64_t)(1 - bucket->credit) *
				       (uint64_t)NS_PER_SEC / bucket->rate + 1;

		return ns < (unsigned __int128)NS_PER_SEC ? (int64_t)ns : NS_PER_SEC;
	}
	bucket->credit -= bytes < RATE_MAX ? (int64_t)bytes : (int64_t)RATE_MAX;
	return 0;
}

void bucket_charge(struct bucket *bucket, uint64_t bytes, int64_t now_ns)
{
	int64_t taken = bytes < RATE_MAX ? (int64_t)bytes : (int64_t)RATE_MAX;

	if (!bucket->rate)
		return;
	bucket_refill(bucket, now_ns);
	/* Debt has an end too, that it may not wrap. */
	bucket->credit =
		bucket->credit < -(int64_t)RATE_MAX ? bucket->credit : bucket->credit - taken;
}
