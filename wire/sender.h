/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The source's side of postcopy: sends all of a paused guest's memory, what is
 * asked for first.
 *
 * It lives as long as the migration and is started anew with each link. What
 * was sent is kept a bit a page; after a lost link the bits are set from what
 * the destination says it has, as far as that can be.
 */
#ifndef POSTERN_WIRE_SENDER_H
#define POSTERN_WIRE_SENDER_H

#include "memory/memory.h"
#include "wire/stream.h"

struct sender;

/* Counters over all links. */
struct sender_stats {
	uint64_t pages;			/* of the guest */
	uint64_t unsent;		/* still to be sent, as far as known */
	uint64_t never_sent;		/* whose data was not sent on any link: no destination can have them */
	uint64_t bytes;			/* sent on both connections */
	uint64_t pages_normal, pages_zero;
	uint64_t pages_urgent;		/* of these, those sent because they were asked for */
	uint64_t pages_lost;		/* told to be lost */
};

/* One thread calls these; mem outlives the sender. Nothing is sent yet. */
int sender_new(struct sender **out, struct memory *mem, struct err *err);
/* Starts the two threads. The pair's lost() may be called before this returns. */
int sender_start(struct sender *sender, const struct stream_pair *pair, struct err *err);
/* Shuts the connections down and joins the threads; never waits for the far end. */
void sender_stop(struct sender *sender);
/* Everything has arrived: stops, and keeps the statistics only. */
void sender_forget(struct sender *sender);
/* Stops as well. */
void sender_free(struct sender *sender);

/*
 * Only while stopped: the n pages from `first` have been sent by other means.
 * Pages that are not RAM of one region: -EFAULT.
 */
int sender_mark_given(struct sender *sender, gfn_t first, uint64_t n);
/*
 * Only while stopped: the destination says which of the n pages from `first` it
 * misses (bit i of byte i / 8: page first + i), and that it has the others. Its
 * word counts no further than it can be true: -EBADMSG: it cannot have a page
 * that was never sent; others may be marked then. -EFAULT: not RAM of one
 * region. Returns how many it misses.
 */
int64_t sender_mark_reported(struct sender *sender, gfn_t first, uint64_t n, const uint8_t *missing,
			     struct err *err);

/* Any thread. Limit of the bulk, bytes a second, 0: none. Takes effect at once. */
void sender_limit(struct sender *sender, uint64_t bytes_per_second);
void sender_stats(const struct sender *sender, struct sender_stats *stats);

#endif
