/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * How many lines one place in the source may log: what guests, peers and
 * clients cause can be said too often, and the log of a host is not theirs to
 * fill. Each place has a bucket of LOG_BURST lines, into which one comes back
 * each LOG_REFILL_NS; what finds it empty is counted, and the count is told in
 * a line of its own.
 */
#ifndef POSTERN_BASE_LOG_LIMIT_H
#define POSTERN_BASE_LOG_LIMIT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/log_target.h"

#define LOG_BURST 100u
#define LOG_REFILL_NS INT64_C(1000000000)
#define LOG_LAST_BYTES 160	/* of the latest line that was left out */

/* A place that logs; static, zero at first. All of it is guarded by log_limit.c's lock. */
struct log_site {
	struct log_site *next;		/* of those that have left lines out */
	bool listed;
	unsigned int used;		/* of the bucket */
	int64_t refilled_ns;
	uint64_t left_out;		/* since it was last told */
	const char *file;
	enum log_level level;		/* of the latest that was left out */
	char last[LOG_LAST_BYTES];
};

/* What is to be told of a site. */
struct log_left_out {
	uint64_t lines;			/* 0: nothing */
	const char *file;
	enum log_level level;
	char last[LOG_LAST_BYTES];
};

/*
 * Any thread; now_ns: CLOCK_MONOTONIC. May this line be logged? If so,
 * *left_out gets what the site has left out before it, which is then forgotten.
 */
bool log_limit_take(struct log_site *site, const char *file, enum log_level level,
		    const char *message, int64_t now_ns, struct log_left_out *left_out);
/*
 * notify(arg) is called, by any thread, when a site begins to leave lines out
 * of which nothing is told yet: somebody is to call log_report_left_out() in a
 * while. It must not log, nor wait. NULL: nobody does. Set by who runs the
 * loop; back at its end, none is under way.
 */
void log_limit_set_notify(void (*notify)(void *arg), void *arg);
/* Any thread. What some site has left out, which is then forgotten; false: none has. */
bool log_limit_next(struct log_left_out *left_out);

#endif
