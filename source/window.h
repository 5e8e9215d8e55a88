/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * How much to have under way at once, so that a line is full and no more waits in its queues than
 * that takes: twice what comes at the best rate lately during the shortest time that a request
 * took. It begins small, and so doubles with each turn until more under way brings no more. The
 * shortest time is never forgotten: so it is for what lasts seconds, not hours.
 *
 * In any unit, such as pages. The caller locks.
 */
#ifndef POSTERN_SOURCE_WINDOW_H
#define POSTERN_SOURCE_WINDOW_H

#include <stdint.h>

struct window {
	uint64_t least, most;
	uint64_t size; /* what may be under way */
	uint64_t came; /* in all */
	double rate; /* a second; what it was at best, of late */
	int64_t shortest_ns; /* 0: nothing has come */
};

/* A request, from its begin to its end. */
struct window_mark {
	int64_t begun_ns;
	uint64_t came;
};

void window_init(struct window *window, uint64_t least, uint64_t most);
struct window_mark window_begin(const struct window *window, int64_t now_ns);
/* n came of it. */
void window_end(struct window *window, const struct window_mark *mark, uint64_t n, int64_t now_ns);

#endif
