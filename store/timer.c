// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// See timer.h. The list is in order of time, and filled from its end: most
// deadlines are as far away as the last one was. The thread is not woken for
// those that come later than what it sleeps for.
#include "store/timer.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/cond.h"
#include "base/thread.h"

struct timers {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	struct timer *first, *last;
	int64_t sleeps_until_ns;
	unsigned int refs;
	bool started, stopping;
	pthread_t thread;
};

int timers_new(struct timers **out, struct err *err)
{
	struct timers *timers = calloc(1, sizeof(*timers));

	if (!timers)
		return err_set(err, -ENOMEM, "no memory for timers");
	pthread_mutex_init(&timers->lock, NULL);
	cond_init(&timers->cond);
	timers->refs = 1;
	*out = timers;
	return 0;
}

struct timers *timers_get(struct timers *timers)
{
	pthread_mutex_lock(&timers->lock);
	timers->refs++;
	pthread_mutex_unlock(&timers->lock);
	return timers;
}

void timers_put(struct timers *timers)
{
	bool last;

	pthread_mutex_lock(&timers->lock);
	last = !--timers->refs;
	timers->stopping = last;
	pthread_cond_signal(&timers->cond);
	pthread_mutex_unlock(&timers->lock);
	if (!last)
		return;
	if (timers->started)
		pthread_join(timers->thread, NULL);
	pthread_cond_destroy(&timers->cond);
	pthread_mutex_destroy(&timers->lock);
	free(timers);
}

static void take_off(struct timers *timers, struct timer *timer)
{
	if (timer->prev)
		timer->prev->next = timer->next;
	else
		timers->first = timer->next;
	if (timer->next)
		timer->next->prev = timer->prev;
	else
		timers->last = timer->prev;
	timer->set = false;
}

static void *timers_main(void *arg)
{
	struct timers *timers = arg;
	struct timer *timer;

	pthread_mutex_lock(&timers->lock);
	while (!timers->stopping) {
		timer = timers->first;
		if (!timer || timer->due_ns > clock_now_ns()) {
			timers->sleeps_until_ns = timer ? timer->due_ns : INT64_MAX;
			cond_wait(&timers->cond, &timers->lock, timers->sleeps_until_ns);
			continue;
		}
		take_off(timers, timer);
		pthread_mutex_unlock(&timers->lock);
		timer->fire(timer);
		pthread_mutex_lock(&timers->lock);
	}
	pthread_mutex_unlock(&timers->lock);
	return NULL;
}

static int timers_start(struct timers *timers)
{
	int r = timers->started ? 0 : thread_start(&timers->thread, timers_main, timers);

	if (!r && !timers->started)
		pthread_setname_np(timers->thread, "store-timer");
	timers->started |= !r;
	return r;
}

int timers_set(struct timers *timers, struct timer *timer, int64_t due_ns)
{
	struct timer *after;
	int r;

	pthread_mutex_lock(&timers->lock);
	r = timers_start(timers);
	if (!r) {
		for (after = timers->last; after && after->due_ns > due_ns; after = after->prev)
			;
		timer->due_ns = due_ns;
		timer->prev = after;
		timer->next = after ? after->next : timers->first;
		*(after ? &after->next : &timers->first) = timer;
		*(timer->next ? &timer->next->prev : &timers->last) = timer;
		timer->set = true;
		if (due_ns < timers->sleeps_until_ns)
			pthread_cond_signal(&timers->cond);
	}
	pthread_mutex_unlock(&timers->lock);
	return r;
}

bool timers_stop(struct timers *timers, struct timer *timer)
{
	bool was;

	pthread_mutex_lock(&timers->lock);
	was = timer->set;
	if (was)
		take_off(timers, timer);
	pthread_mutex_unlock(&timers->lock);
	return was;
}
