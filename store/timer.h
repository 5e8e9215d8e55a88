/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Timers of the layers over stores: one thread for all of them, which the first timer starts. It
 * takes no turn of the main loop, so that a deadline comes whatever that does.
 */
#ifndef POSTERN_STORE_TIMER_H
#define POSTERN_STORE_TIMER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct timers;

/* Its owner's memory; zeroed it is a timer that is not set. */
struct timer {
	void (*fire)(struct timer *timer);	/* on the timers' thread; must not sleep */
	int64_t due_ns;				/* CLOCK_MONOTONIC */
	struct timer *next, *prev;
	bool set;
};

/* -ENOMEM. One reference. */
int timers_new(struct timers **out, struct err *err);
struct timers *timers_get(struct timers *timers);
/* The last one ends the thread; no timer is set then, and no `fire` calls this. */
void timers_put(struct timers *timers);
/*
 * Any thread, with any lock that `fire` takes held as well. Sets a timer that is not set. 0, or a
 * negative errno of the thread's start.
 */
int timers_set(struct timers *timers, struct timer *timer, int64_t due_ns);
/* true: it was set, and will not fire. false: it has fired, or does right now. */
bool timers_stop(struct timers *timers, struct timer *timer);

#endif
