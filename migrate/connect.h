/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The source's way to a link: resolves, connects three times and goes through the handshake,
 * without ever waiting. Main thread.
 */
#ifndef POSTERN_MIGRATE_CONNECT_H
#define POSTERN_MIGRATE_CONNECT_H

#include "base/loop.h"
#include "migrate/handshake.h"
#include "migrate/trust.h"

struct connector;

/* One of the two is called, once, from the loop; the callee frees the connector. */
struct connector_ops {
	/* The connections are the callee's. */
	void (*connected)(void *arg, struct conn *const conn[WIRE_CHANNELS]);
	void (*failed)(void *arg, const struct err *err);
};

/*
 * preface: session and epoch. trust: its secret, where it is given, is proven, and the
 * destination's proof of it asked for; copied. Three connected descriptors that the URI names are
 * taken over on success. timeout_ms is for all of it.
 */
int connector_new(struct connector **out, struct loop *loop, const struct uri *uri,
		  const struct preface *preface, const struct migration_trust *trust,
		  unsigned int timeout_ms, const struct connector_ops *ops, void *arg,
		  struct err *err);
/* At any time; no callback comes after it. */
void connector_free(struct connector *connector);

#endif
