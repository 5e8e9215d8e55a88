// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Requests under way, and stores with faults. See layers.h.
#include "layers.h"

#include "store/dir.h"

static void flight_done(struct store_request *request)
{
	struct flight *flight = request->arg;

	pthread_mutex_lock(&flight->lock);
	flight->done++;
	pthread_cond_broadcast(&flight->cond);
	pthread_mutex_unlock(&flight->lock);
}

void flight_prepare(struct flight *flight, const char *object)
{
	*flight = (struct flight){
		.request = {
			.verb = STORE_GET,
			.flags = STORE_UP_TO,
			.object = object,
			.data = flight->data,
			.len = sizeof(flight->data),
			.done = flight_done,
			.arg = flight,
		},
	};
	pthread_mutex_init(&flight->lock, NULL);
	pthread_cond_init(&flight->cond, NULL);
}

void flight_begin(struct flight *flight, struct store *store, const char *object)
{
	flight_prepare(flight, object);
	store_begin(store, &flight->request);
}

bool flight_is_over(struct flight *flight)
{
	bool over;

	pthread_mutex_lock(&flight->lock);
	over = flight->done;
	pthread_mutex_unlock(&flight->lock);
	return over;
}

int64_t flight_wait(struct flight *flight)
{
	pthread_mutex_lock(&flight->lock);
	while (!flight->done)
		pthread_cond_wait(&flight->cond, &flight->lock);
	assert_int_equal(flight->done, 1);
	pthread_mutex_unlock(&flight->lock);
	return flight->request.result;
}

struct inject_store *faults_new(const struct folder *f, struct timers *timers,
				const struct store_inject_rule *rules, unsigned int n)
{
	struct inject_store *inject;
	struct store *store;

	assert_int_equal(dir_store_new(&store, f->path, NULL), 0);
	assert_int_equal(inject_store_new(&inject, store, timers, rules, n, 1, NULL), 0);
	return inject;
}

uint64_t faults_requests(struct inject_store *inject)
{
	struct store_inject_stats stats;

	inject_store_stats(inject, &stats);
	return stats.requests;
}

void faults_wait(struct inject_store *inject, uint64_t requests)
{
	while (faults_requests(inject) < requests)
		usleep(1000);
}
