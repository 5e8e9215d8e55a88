// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "machine/lost_pages.h"

#include <string.h>

void lost_gather_init(struct lost_gather *gather)
{
	memset(gather, 0, sizeof(*gather));
	pthread_mutex_init(&gather->lock, NULL);
}

void lost_gather_fini(struct lost_gather *gather)
{
	pthread_mutex_destroy(&gather->lock);
}

/*
 * At the end or the start of a range: sources mostly go upwards. Ranges that
 * grow together stay two.
 */
static bool range_grows(struct lost_range *range, gfn_t gfn)
{
	if (gfn.v > range->first.v && gfn.v - range->first.v == range->pages) {
		range->pages++;
		return true;
	}
	if (gfn.v > range->first.v || range->first.v - gfn.v != 1)
		return false;
	range->first = gfn;
	range->pages++;
	return true;
}

static void lost_add(struct lost_pages *pages, gfn_t gfn)
{
	unsigned int i;

	if (!pages->pages++ || gfn.v < pages->lowest.v)
		pages->lowest = gfn;
	/* The latest first: it is the one that grows. */
	for (i = pages->ranges; i-- > 0;)
		if (range_grows(&pages->range[i], gfn))
			return;
	if (pages->ranges < LOST_RANGES_MAX)
		pages->range[pages->ranges++] = (struct lost_range){ gfn, 1 };
}

bool lost_gather_add(struct lost_gather *gather, gfn_t gfn)
{
	bool reported;

	pthread_mutex_lock(&gather->lock);
	lost_add(&gather->pages, gfn);
	reported = gather->reported;
	gather->reported = true;
	pthread_mutex_unlock(&gather->lock);
	return !reported;
}

bool lost_gather_take(struct lost_gather *gather, struct lost_pages *pages)
{
	pthread_mutex_lock(&gather->lock);
	*pages = gather->pages;
	gather->pages.pages = 0;
	gather->pages.ranges = 0;
	gather->reported = pages->pages;
	pthread_mutex_unlock(&gather->lock);
	return pages->pages;
}
