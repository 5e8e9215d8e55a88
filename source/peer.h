/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The destination's page source: the source of a migration, at the far end of an urgent and a bulk connection.
 *
 * It lives as long as the migration and is started anew with each link. Requests go out on the urgent connection and
 * never block; two threads receive pages, check them and hand them to its sink.
 */
#ifndef POSTERN_SOURCE_PEER_H
#define POSTERN_SOURCE_PEER_H

#include "memory/memory.h"
#include "wire/stream.h"

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
/* Starts the threads; then it can be attached. pair->lost may be called before this returns. */
int peer_start(struct peer *peer, const struct stream_pair *pair, struct err *err);
/*
 * Shuts the connections down and joins the threads; never waits for the far end. Requests get
 * -ENOTCONN until the next start.
 */
void peer_stop(struct peer *peer);
/* Stops as well. */
void peer_free(struct peer *peer);

/*
 * What to attach to memory, or to stack something on before the first start: its sink is memory's
 * until another is set. Its link lost, it answers requests with -ENOTCONN. It is detached before
 * it is freed; detached once it is stopped, memory has placed all that has come.
 */
struct page_source *peer_source(struct peer *peer);

/* Any thread. */
void peer_stats(const struct peer *peer, struct peer_stats *stats);

#endif
