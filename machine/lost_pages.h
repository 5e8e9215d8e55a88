/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Pages that a source has called lost, gathered until the main thread tells of
 * them: a source may lose millions of them at once, one by one, and in any
 * order, and they take the same memory, one post to the loop and one event
 * a while.
 */
#ifndef POSTERN_MACHINE_LOST_PAGES_H
#define POSTERN_MACHINE_LOST_PAGES_H

#include <pthread.h>
#include <stdbool.h>

#include "base/types.h"

/* Ranges of one event; pages of more are counted, and not named. */
#define LOST_RANGES_MAX 16

struct lost_range {
	gfn_t first;
	uint64_t pages;
};

/*
 * An event. Every page is in `pages` and not below `lowest`; ranges do not
 * overlap, and are in the order in which they began.
 */
struct lost_pages {
	uint64_t pages;
	gfn_t lowest;
	unsigned int ranges;
	struct lost_range range[LOST_RANGES_MAX];
};

struct lost_gather {
	pthread_mutex_t lock;		/* guards the rest */
	struct lost_pages pages;	/* since the last event */
	bool reported;			/* whoever takes will take again, until there was nothing */
};

void lost_gather_init(struct lost_gather *gather);
void lost_gather_fini(struct lost_gather *gather);
/*
 * Any thread: a page that was not lost before. True: somebody is to take, and
 * is not going to by itself.
 */
bool lost_gather_add(struct lost_gather *gather, gfn_t gfn);
/*
 * What has come since the last time. False: nothing; the next page asks for it
 * to be taken. After true, this is called again in a while.
 */
bool lost_gather_take(struct lost_gather *gather, struct lost_pages *pages);

#endif
