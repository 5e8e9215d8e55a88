/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The source's side of the handshake (handshake.h), on the three connections of a link at once.
 * It never waits, and sets no time: who owns it does. Main thread.
 */
#ifndef POSTERN_MIGRATE_GREETING_H
#define POSTERN_MIGRATE_GREETING_H

#include "base/conn.h"
#include "base/loop.h"
#include "migrate/handshake.h"

struct greeting;

/* One of the two is called, once, from the loop; the callee frees the greeting. */
struct greeting_ops {
	/* The destination has let all three in, and has proven the secret where there is one. */
	void (*done)(void *arg);
	void (*failed)(void *arg, const struct err *err);
};

/*
 * Sends the prefaces; session and epoch are `preface`'s, the rest is filled in. conn is borrowed;
 * secret is copied. What the destination sends after the handshake is left in the connections.
 */
int greeting_new(struct greeting **out, struct loop *loop, struct conn *const conn[WIRE_CHANNELS],
		 const struct preface *preface, const struct secret *secret,
		 const struct greeting_ops *ops, void *arg, struct err *err);
/* At any time; no callback comes after it. */
void greeting_free(struct greeting *greeting);
/*
 * Why it is not done yet, for who has waited long enough: what went wrong so far, or which
 * connection's answer is missing.
 */
void greeting_why(const struct greeting *greeting, struct err *err);

#endif
