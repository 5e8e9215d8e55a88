/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Condition variables whose waits end by CLOCK_MONOTONIC, the clock of all deadlines here
 * (base/clock.h); pthread_cond_init alone makes one that follows the time of day.
 */
#ifndef POSTERN_BASE_COND_H
#define POSTERN_BASE_COND_H

#include <pthread.h>
#include <stdint.h>

#include "base/clock.h"

static inline void cond_init(pthread_cond_t *cond)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(cond, &attr);
	pthread_condattr_destroy(&attr);
}

/*
 * Waits, until until_ns at the latest (INT64_MAX: for ever), with the lock held
 * but while it sleeps. 0: it was woken, perhaps for nothing; ETIMEDOUT: the
 * time has come.
 */
static inline int cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t until_ns)
{
	struct timespec until;

	if (until_ns == INT64_MAX)
		return pthread_cond_wait(cond, lock);
	until = clock_to_timespec(until_ns);
	return pthread_cond_timedwait(cond, lock, &until);
}

#endif
