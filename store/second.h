/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A layer over two stores that have the same objects. What is read is asked of the second one when
 * the first is late, or at once when it fails; the first answer that is good wins, and the other
 * request is cancelled. What is written or deleted goes to the first alone.
 *
 * A first store that was late or failed often in a row is not waited for: both are asked at once,
 * until it is the faster again. How much is asked twice because of a delay is bounded, so that a
 * slow day does not double the load of the second store without limit.
 */
#ifndef POSTERN_STORE_SECOND_H
#define POSTERN_STORE_SECOND_H

#include "store/store.h"
#include "store/timer.h"

struct second_store_config {
	unsigned int late_ms;		/* 0: both are asked at once, always */
	uint64_t twice_bytes;		/* asked of the second because of a delay, at a time. 0: 64 MiB */
};

struct second_store_stats {
	uint64_t requests;		/* GET and LIST */
	uint64_t late, failed;		/* of these, by what the first did */
	uint64_t second_won;
	uint64_t not_asked;		/* late, but there was too much under way */
};

struct second_store;

/* Takes both, also where it fails. -ENOMEM. */
int second_store_new(struct second_store **out, struct store *first, struct store *second,
		     struct timers *timers, const struct second_store_config *config,
		     struct err *err);
struct store *second_store(struct second_store *second);
void second_store_stats(struct second_store *second, struct second_store_stats *stats);

#endif
