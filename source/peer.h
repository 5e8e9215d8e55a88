/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The destination's page source: the source of a migration, at the far end of an urgent and a bulk connection.
 *
 * It lives as long as the migration and is started anew with each link. Requests go out on the urgent connection and
 * never block; two threads receive pages, check them and place them in memory.
 */
#ifndef POSTERN_SOURCE_PEER_H
#define POSTERN_SOURCE_PEER_H

#include "source/stream.h"

struct peer;

/* Counters over all links. */
struct peer_stats {
	uint64_t bytes;			/* received on both connections */
	uint64_t pages_normal;		/* pages of PAGES frames */
	uint64_t pages_zero;
	uint64_t pages_urgent;		/* of these, those of the urgent connection */
	uint64_t requests;		/* REQUEST frames sent */
	uint64_t queued_max;		/* most bytes of requests that ever waited for the connection */
};

/* One thread calls these four; mem outlives the peer. */
int peer_new(struct peer **out, struct memory *mem, struct err *err);
/* Starts the threads and attaches to memory, unless something is stacked on it. pair->lost may be called before this returns. */
int peer_start(struct peer *peer, const struct stream_pair *pair, struct err *err);
/* Detaches from memory (if it attached), shuts the connections down and joins the threads; never waits for the far end. */
void peer_stop(struct peer *peer);
/* Stops as well. */
void peer_free(struct peer *peer);

/*
 * To stack something on it, before its first start: its sink is memory's until another is set. Who stacks it attaches the
 * top to memory, and detaches it. Stopped, or its link lost, it answers requests with -ENOTCONN.
 */
struct page_source *peer_source(struct peer *peer);

/* Any thread. */
void peer_stats(const struct peer *peer, struct peer_stats *stats);

#endif
