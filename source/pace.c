// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "source/pace.h"

#include <string.h>

#include "base/clock.h"

/* Forgets what is too long ago. */
static void pace_turn(struct pace *pace, int64_t second)
{
	if (second - pace->second >= PACE_SECONDS)
		memset(pace->count, 0, sizeof(pace->count));
	else
		while (pace->second < second)
			pace->count[++pace->second % PACE_SECONDS] = 0;
	pace->second = second;
}

void pace_add(struct pace *pace, uint64_t n, int64_t now_ns)
{
	if (!n)
		return;
	if (!pace->first_ns)
		pace->first_ns = now_ns;
	pace_turn(pace, now_ns / NS_PER_SEC);
	pace->count[pace->second % PACE_SECONDS] += n;
}

uint64_t pace_a_second(struct pace *pace, int64_t now_ns)
{
	/* The second that is not over yet counts as far as it is. */
	int64_t over = (PACE_SECONDS - 1) * NS_PER_SEC + now_ns % NS_PER_SEC;
	uint64_t all = 0;
	unsigned int i;

	if (!pace->first_ns)
		return 0;
	pace_turn(pace, now_ns / NS_PER_SEC);
	for (i = 0; i < PACE_SECONDS; i++)
		all += pace->count[i];
	over = now_ns - pace->first_ns < over ? now_ns - pace->first_ns : over;
	over = over < NS_PER_MS ? NS_PER_MS : over;
	return (uint64_t)((double)all * (double)NS_PER_SEC / (double)over);
}
