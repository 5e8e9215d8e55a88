/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The destination's listener: accepts connections, sees each through its handshake and puts the
 * three of one session and epoch together. Main thread only. Anybody may connect: what comes is
 * bounded in number and time, and dropped with a log line.
 */
#ifndef POSTERN_MIGRATE_LISTEN_H
#define POSTERN_MIGRATE_LISTEN_H

#include "base/loop.h"
#include "migrate/handshake.h"
#include "migrate/trust.h"

struct listener;

/* Connections that are not part of a link yet. */
#define LISTENER_CLIENTS_MAX 48

struct listener_ops {
	/*
	 * May a connection with this (well-formed) preface come in now, which has proven the
	 * secret where there is one? 0, or a negative errno and the reason for the peer.
	 * -EAGAIN: perhaps in a moment; it is asked again for a second.
	 */
	int (*judge)(void *arg, const struct preface *preface, struct err *why);
	/*
	 * Three connections that were let in, and are the callee's. The listener goes on; it may be
	 * freed.
	 */
	void (*linked)(void *arg, struct conn *const conn[WIRE_CHANNELS],
		       const struct preface *preface);
	/*
	 * Only with three connected descriptors given: they are of no use, and no others can
	 * come.
	 */
	void (*failed)(void *arg, const struct err *err);
};

/*
 * Descriptors named by a URI are taken over on success, three connected ones also when memory is
 * short. A connection has timeout_ms for its handshake, and to be joined by the two others. trust:
 * its secret, where it is given, is what each has to prove; it is looked at when one comes, and
 * outlives the listener.
 */
int listener_new(struct listener **out, struct loop *loop, const struct uri *uri,
		 const struct migration_trust *trust, unsigned int timeout_ms,
		 const struct listener_ops *ops, void *arg, struct err *err);
/* How long those who come from now on have for their handshake. Main thread. */
void listener_set_timeout(struct listener *listener, unsigned int timeout_ms);
void listener_free(struct listener *listener);

#endif
