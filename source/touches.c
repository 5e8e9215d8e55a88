// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "source/touches.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

int touches_init(struct touches *touches, unsigned int span_pages, uint32_t us_max, size_t max)
{
	*touches = (struct touches){ .span_pages = span_pages, .us_max = us_max, .max = max };
	pthread_mutex_init(&touches->lock, NULL);
	/* Fresh memory, which costs nothing until it is used. */
	touches->touch = malloc((max + 1) * sizeof(*touches->touch));
	return touches->touch ? 0 : -ENOMEM;
}

void touches_fini(struct touches *touches)
{
	free(touches->touch);
	pthread_mutex_destroy(&touches->lock);
}

void touches_begin(struct touches *touches, int64_t now_ns)
{
	pthread_mutex_lock(&touches->lock);
	if (!touches->begun_ns)
		touches->begun_ns = now_ns;
	pthread_mutex_unlock(&touches->lock);
}

/* With the lock held. UINT32_MAX: it is no time of a touch that is noted. */
static uint32_t touch_time(const struct touches *touches, int64_t now_ns)
{
	int64_t us = (now_ns - touches->begun_ns) / NS_PER_US;

	return !touches->begun_ns || us < 0 || us > touches->us_max ? UINT32_MAX : (uint32_t)us;
}

void touches_add(struct touches *touches, gfn_t gfn, int64_t now_ns)
{
	uint64_t first = gfn.v & ~(uint64_t)(touches->span_pages - 1);
	uint32_t us;

	pthread_mutex_lock(&touches->lock);
	us = touch_time(touches, now_ns);
	/* Neighbours that are asked for together: one is enough. */
	if (us != UINT32_MAX && touches->n < touches->max &&
	    (!touches->n || touches->touch[touches->n - 1].gfn != first))
		touches->touch[touches->n++] = (struct working_set_touch){ first, us };
	pthread_mutex_unlock(&touches->lock);
}

bool touches_is_full(struct touches *touches, int64_t now_ns)
{
	bool full;

	pthread_mutex_lock(&touches->lock);
	full = touches->n == touches->max ||
	       (touches->begun_ns && touch_time(touches, now_ns) == UINT32_MAX);
	pthread_mutex_unlock(&touches->lock);
	return full;
}

size_t touches_count(struct touches *touches)
{
	size_t n;

	pthread_mutex_lock(&touches->lock);
	n = touches->n;
	pthread_mutex_unlock(&touches->lock);
	return n;
}

size_t touches_copy(struct touches *touches, struct working_set_touch *out, size_t n)
{
	pthread_mutex_lock(&touches->lock);
	n = n < touches->n ? n : touches->n;
	memcpy(out, touches->touch, n * sizeof(*out));
	pthread_mutex_unlock(&touches->lock);
	return n;
}
