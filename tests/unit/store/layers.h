/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A folder's store with faults over it, for the layers above; and requests that a test does not
 * wait for.
 */
#ifndef POSTERN_TESTS_STORE_LAYERS_H
#define POSTERN_TESTS_STORE_LAYERS_H

#include <pthread.h>

#include "folder.h"
#include "store/inject.h"
#include "store/timer.h"

/* A request under way, with memory for what is read. */
struct flight {
	struct store_request request;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	unsigned int done;
	char data[256];
};

/* All but begun: to read up to 256 bytes. */
void flight_prepare(struct flight *flight, const char *object);
void flight_begin(struct flight *flight, struct store *store, const char *object);
bool flight_is_over(struct flight *flight);
/* Its result; it ended once. */
int64_t flight_wait(struct flight *flight);

/* Faults over a new store of the folder; freed by whoever is put on top. */
struct inject_store *faults_new(const struct folder *f, struct timers *timers,
				const struct store_inject_rule *rules, unsigned int n);
uint64_t faults_requests(struct inject_store *inject);
/* Waits until that many have come to it. */
void faults_wait(struct inject_store *inject, uint64_t requests);

#endif
