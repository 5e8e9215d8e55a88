/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A link: the three connections of one epoch of a migration, and whether the
 * peer is alive. The control connection is read and written here; urgent and
 * bulk are lent to the threads of a page source or a sender.
 *
 * Main thread, but for link_pair()'s lost callback. A link fails as one:
 * whatever breaks first is the reason.
 */
#ifndef POSTERN_MIGRATE_LINK_H
#define POSTERN_MIGRATE_LINK_H

#include "base/loop.h"
#include "migrate/message.h"
#include "wire/stream.h"

struct link;

struct link_ops {
	/* A message but Ping, Pong and Abort. */
	void (*message)(void *arg, wire_message *message);
	/* PAGES or ZERO on the control connection, its payload not yet checked. */
	void (*pages)(void *arg, const struct frame *frame, const uint8_t *payload);
	/*
	 * The link is lost; at most once, from the loop. The owner stops its
	 * threads and frees the link.
	 */
	void (*lost)(void *arg, const struct err *err);
	/* The control connection has taken all that link_queued counted. May be NULL. */
	void (*drained)(void *arg);
};

/*
 * Takes the three connections over, also when it fails. timeout_ms: silence of
 * that long is a lost link.
 */
int link_new(struct link **out, struct loop *loop, struct conn *const conn[WIRE_CHANNELS],
	     unsigned int timeout_ms, const struct link_ops *ops, void *arg, struct err *err);
/*
 * Shuts all three connections down, which brings every thread out of them.
 * `reason`, if not NULL, is sent to the peer if it can be sent at once. No
 * callback comes after this.
 */
void link_cut(struct link *link, const char *reason);
/* Cuts, and closes. The threads that borrowed the pair have been joined. */
void link_free(struct link *link);

/* Urgent and bulk for a sender or a page source. Its lost() may be called by any thread. */
void link_pair(struct link *link, struct stream_pair *pair);

void link_send(struct link *link, wire_body body, const void *content);
void link_send_pages(struct link *link, gfn_t first, uint32_t n, const uint8_t *pages);
void link_send_zero(struct link *link, gfn_t first, uint32_t n);
/* Bytes that the control connection has not taken yet. */
size_t link_queued(const struct link *link);
/*
 * Bytes that have been sent and that the peer has not taken yet, as far as this
 * host knows; of all three connections.
 */
uint64_t link_unsent(const struct link *link);
/* Loses the link from the loop, as if a connection had failed with this. */
void link_fail(struct link *link, const struct err *err);

void link_set_timeout(struct link *link, unsigned int timeout_ms);

#endif
