/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The destination's page source: the source of a migration, at the far end of
 * an urgent and a bulk connection.
 *
 * It lives as long as the migration and is started anew with each link.
 * Requests go out on the urgent connection and never block; two threads receive
 * pages, check them and hand them to its sink.
 */
#ifndef POSTERN_SOURCE_WIRE_H
#define POSTERN_SOURCE_WIRE_H

#include "memory/memory.h"
#include "wire/stream.h"

struct wire_source;

/* Counters over all links. */
struct wire_source_stats {
	uint64_t bytes;			/* received on both connections */
	uint64_t pages_normal;		/* pages of PAGES frames */
	uint64_t pages_zero;
	uint64_t pages_urgent;		/* of these, those of the urgent connection */
	uint64_t requests;		/* REQUEST frames sent */
	uint64_t queued_max;		/* most bytes of requests that ever waited for the connection */
};

/* One thread calls these four; mem outlives the source. */
int wire_source_new(struct wire_source **out, struct memory *mem, struct err *err);
/* Starts the threads; then it can be attached. pair->lost may be called before this returns. */
int wire_source_start(struct wire_source *wire, const struct stream_pair *pair, struct err *err);
/*
 * Shuts the connections down and joins the threads; never waits for the far end. Requests get
 * -ENOTCONN until the next start.
 */
void wire_source_stop(struct wire_source *wire);
/* Stops as well. */
void wire_source_free(struct wire_source *wire);

/*
 * What to attach to memory, or to stack something on before the first start: its sink is memory's
 * until another is set. Its link lost, it answers requests with -ENOTCONN. It is detached before
 * it is freed; detached once it is stopped, memory has placed all that has come.
 */
struct page_source *wire_source_page_source(struct wire_source *wire);

/* Any thread. */
void wire_source_stats(const struct wire_source *wire, struct wire_source_stats *stats);

#endif
