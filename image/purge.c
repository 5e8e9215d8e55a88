// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/* See purge.h. Each of a few places has a request of its own; who adds takes a free one. */
#include "image/purge.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cond.h"
#include "image/name.h"

#define PLACES 16

struct purge_place {
	struct purge *purge;
	struct store_request request;
	char object[NAME_ROOM];
	bool busy;
};

struct purge {
	struct store *store;
	int64_t until_ns;
	pthread_mutex_t lock;		/* guards the rest */
	pthread_cond_t changed;
	struct purge_place place[PLACES];
	unsigned int busy;
	bool failed;
};

struct purge *purge_new(struct store *store, int64_t time_ns)
{
	struct purge *purge = calloc(1, sizeof(*purge));
	unsigned int i;

	if (!purge)
		return NULL;
	purge->store = store;
	purge->until_ns = clock_now_ns() + time_ns;
	pthread_mutex_init(&purge->lock, NULL);
	cond_init(&purge->changed);
	for (i = 0; i < PLACES; i++)
		purge->place[i].purge = purge;
	return purge;
}

static void purge_done(struct store_request *request)
{
	struct purge_place *place = request->arg;
	struct purge *purge = place->purge;

	pthread_mutex_lock(&purge->lock);
	if (request->result < 0 && request->result != -ENOENT)
		purge->failed = true;
	place->busy = false;
	purge->busy--;
	pthread_cond_broadcast(&purge->changed);
	pthread_mutex_unlock(&purge->lock);
}

/*
 * Until fewer than n are under way; once the time is over, what is under way is cancelled. With
 * the lock.
 */
static void purge_until(struct purge *purge, unsigned int n)
{
	unsigned int i;

	while (purge->busy >= n) {
		int64_t until = purge->failed && clock_now_ns() >= purge->until_ns ?
					INT64_MAX :
					purge->until_ns;

		if (cond_wait(&purge->changed, &purge->lock, until) != ETIMEDOUT)
			continue;
		purge->failed = true;
		for (i = 0; i < PLACES; i++)
			if (purge->place[i].busy)
				store_cancel(purge->store, &purge->place[i].request);
	}
}

void purge_add(struct purge *purge, const char *object)
{
	struct purge_place *place = NULL;
	unsigned int i;

	if (!purge)
		return;
	pthread_mutex_lock(&purge->lock);
	purge_until(purge, PLACES);
	for (i = 0; i < PLACES && !place; i++)
		if (!purge->place[i].busy)
			place = &purge->place[i];
	if (clock_now_ns() >= purge->until_ns) {
		purge->failed = true;
		place = NULL;
	} else {
		place->busy = true;
		purge->busy++;
		snprintf(place->object, sizeof(place->object), "%s", object);
		memset(&place->request, 0, sizeof(place->request));
	}
	pthread_mutex_unlock(&purge->lock);
	if (!place)
		return;
	place->request.verb = STORE_DELETE;
	place->request.object = place->object;
	place->request.done = purge_done;
	place->request.arg = place;
	store_begin(purge->store, &place->request);
}

bool purge_wait(struct purge *purge)
{
	bool gone;

	if (!purge)
		return false;
	pthread_mutex_lock(&purge->lock);
	purge_until(purge, 1);
	gone = !purge->failed;
	pthread_mutex_unlock(&purge->lock);
	return gone;
}

void purge_free(struct purge *purge)
{
	if (!purge)
		return;
	purge_wait(purge);
	pthread_cond_destroy(&purge->changed);
	pthread_mutex_destroy(&purge->lock);
	free(purge);
}
