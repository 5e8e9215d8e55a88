/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A layer that gives each request so much time, and what its bytes take at 1
 * MiB/s: then it is cancelled below, and fails with -ETIMEDOUT. The time is
 * kept by our own timers, whatever the store beneath believes in.
 */
#ifndef POSTERN_STORE_DEADLINE_H
#define POSTERN_STORE_DEADLINE_H

#include "store/store.h"
#include "store/timer.h"

/* Takes `below`, also where it fails. ms: at least 1. -EINVAL, -ENOMEM. */
int deadline_store_new(struct store **out, struct store *below, struct timers *timers,
		       unsigned int ms, struct err *err);

#endif
