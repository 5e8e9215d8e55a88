/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A token bucket that may go into debt: a send is allowed while there is any
 * credit and is then paid off, so that no piece is too large for the bucket and
 * the long-term rate is exact. The clock is the caller's. One thread at a time.
 */
#ifndef POSTERN_BASE_BUCKET_H
#define POSTERN_BASE_BUCKET_H

#include <stdint.h>

struct bucket {
	uint64_t rate;		/* bytes a second; 0: no limit */
	int64_t credit;		/* bytes; negative: debt */
	int64_t since_ns;	/* up to when the credit is counted */
};

/* Starts full: a burst of 50 ms. Rates above 2^50 count as 2^50. */
void bucket_init(struct bucket *bucket, uint64_t rate, int64_t now_ns);
/* Debt in bytes stays: it is paid off at the new rate. A new rate of 0 forgives it. */
void bucket_set_rate(struct bucket *bucket, uint64_t rate, int64_t now_ns);
/*
 * 0: `bytes` may be sent and are accounted for. Else how many ns to wait before
 * asking again; nothing was taken.
 */
int64_t bucket_take(struct bucket *bucket, uint64_t bytes, int64_t now_ns);
/* `bytes` were sent whatever the credit is: they are accounted for and make debt. */
void bucket_charge(struct bucket *bucket, uint64_t bytes, int64_t now_ns);

#endif
