// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "base/mark.h"

#include <inttypes.h>
#include <pthread.h>

#include "base/clock.h"
#include "base/log.h"

/* Of this process; there is one start, on one thread. */
static struct marks {
	pthread_t thread;
	int64_t first_ns, last_ns;
} marks;

void mark_time(const char *what)
{
	int64_t now = clock_now_ns();

	if (!marks.first_ns)
		marks = (struct marks){ pthread_self(), now, now };
	/* A VM that another thread makes meanwhile is another story. */
	if (!pthread_equal(marks.thread, pthread_self()))
		return;
	log_debug("start: %s: %" PRId64 " us, %" PRId64 " us in all", what,
		  (now - marks.last_ns) / NS_PER_US, (now - marks.first_ns) / NS_PER_US);
	/* Without the line's own time. */
	marks.last_ns = clock_now_ns();
}
