/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Watches a connection on the loop: tells when a call with CONN_NOWAIT may get
 * further, also for bytes that were read ahead and show in no poll. Main thread.
 */
#ifndef POSTERN_BASE_CONN_WATCH_H
#define POSTERN_BASE_CONN_WATCH_H

#include "base/conn.h"
#include "base/loop.h"

struct conn_watch;

/*
 * From the loop. ready: those of the watched things (CONN_SEND, ...) that may
 * be possible now; CONN_HANGUP, watched or not: the socket says that there was
 * an error, which a receive should tell. It is told again as long as it is so.
 * May free the watch.
 */
typedef void (*conn_ready_fn)(void *arg, unsigned int ready);

/* Borrows conn. Nothing is watched yet. */
int conn_watch_new(struct conn_watch **out, struct loop *loop, struct conn *conn,
		   conn_ready_fn ready, void *arg, struct err *err);
/* From now on these alone, 0: nothing. Cheap where that is no change. */
void conn_watch_set(struct conn_watch *watch, unsigned int wanted);
/*
 * ready(CONN_RECEIVE) comes in the next turn of the loop, whether there is
 * anything to receive or not, and not before.
 */
void conn_watch_again(struct conn_watch *watch);
/*
 * ready() is not called any more, and the connection may be freed at once.
 * closed(arg), if not NULL, comes from the loop when ready() has returned too.
 * NULL is nothing.
 */
void conn_watch_free(struct conn_watch *watch, void (*closed)(void *arg));

#endif
