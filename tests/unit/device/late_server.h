/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * An NBD server at its worst, as the protocol allows it: it does requests in
 * any order, loses what was not made stable when its power fails, and may go on
 * with what a connection that has ended had asked, at any time until it is told
 * to finish.
 *
 * Its threads are its own; all functions may be called from the test's.
 */
#ifndef POSTERN_TESTS_DEVICE_LATE_SERVER_H
#define POSTERN_TESTS_DEVICE_LATE_SERVER_H

#include "media.h"

struct late_options {
	bool flush, fua;
	uint32_t block_min, block_preferred, block_max;	/* all 0: it does not say, and takes anything */
};

struct late_server;

/* media is the caller's, and used with the server's lock held while that lives. */
struct late_server *late_server_new(struct media *media, const struct late_options *options,
				    unsigned int seed);
void late_server_free(struct late_server *server);
const char *late_server_uri(const struct late_server *server);
/*
 * From now on nothing is done, and so nothing answered, but what ended
 * connections had asked; or it goes on.
 */
void late_server_hold(struct late_server *server, bool hold);
/* All connections end. What they asked and has no answer is never done, or has been, or will be. */
void late_server_cut_links(struct late_server *server);
/* Its power fails, and is back at once. */
void late_server_cut_power(struct late_server *server);
/* What will be done is done now. */
void late_server_finish(struct late_server *server);
/* How many requests of ended connections were done after their connection's end. */
unsigned int late_server_late(struct late_server *server);
/* How many requests it has and has not done. */
unsigned int late_server_pending(struct late_server *server);
/* How many flushes it has done. */
unsigned int late_server_flushes(struct late_server *server);
/* How long the last export's name was that it was asked for. */
unsigned int late_server_name_bytes(struct late_server *server);
/* Requests that it has refused since they do not fit its blocks. */
unsigned int late_server_refused(struct late_server *server);
/* The most bytes of one request of data. */
uint32_t late_server_largest(struct late_server *server);
void late_server_lock(struct late_server *server);
void late_server_unlock(struct late_server *server);

#endif
