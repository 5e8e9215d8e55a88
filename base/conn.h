/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A connection: two streams of bytes, one each way. Everything that speaks to a
 * migration's peer does it through this; base/conn_socket.h is a plain socket,
 * and an implementation that encrypts goes around another connection (struct
 * conn_wrapper).
 *
 * Waiting. A call with CONN_NOWAIT never waits; one without may, for the peer.
 * To learn when a call with CONN_NOWAIT may get further, wait with poll(2) for
 * what conn_events() says, on conn_fd(), which is good for nothing else: it
 * need not even be a socket. But first ask conn_pending(): bytes that were
 * read ahead of the caller show in no poll. (conn_watch.h does both on a loop.)
 * That poll found something does not mean that there is any of it for the
 * caller: what came may concern the implementation alone.
 *
 * Beginning. An implementation may have to talk to its like at the far end
 * before the first byte of the caller's passes. It does so within the calls:
 * the first ones with CONN_NOWAIT may say -EAGAIN, a receive may have to send,
 * and the other way round; conn_events() knows. Once a byte has been received
 * the connection takes some 100 bytes at once in the other direction.
 *
 * Ending. conn_shutdown() ends both directions at once, and every call that
 * waits in another thread. conn_finish() ends the sending alone, in good order.
 *
 * Threads. At any time one thread may send and one receive, with or without
 * waiting, and not always the same two; each asks conn_events() for its own
 * direction, or for both while the other does not call. conn_shutdown(): any
 * thread, at any time. What an implementation's two directions share, it
 * guards itself, and with no lock that is held across a wait. conn_free(): one
 * thread, when no other is or will be inside.
 *
 * Errors are negative errnos. Where a call takes an err, that says what went
 * wrong in words of the implementation's own (but for -EAGAIN, which leaves it
 * as it was). After any but -EAGAIN the connection is of no use but to be freed.
 */
#ifndef POSTERN_BASE_CONN_H
#define POSTERN_BASE_CONN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/err.h"

struct conn;

/* What a call may do. */
#define CONN_NOWAIT 1u

/* What can be waited for. */
#define CONN_SEND 1u
#define CONN_RECEIVE 2u
#define CONN_HANGUP 4u /* the peer has ended its direction, whatever it sent before; best effort */

/* As the functions below, which say more. pending and unsent may be NULL: always 0. */
struct conn_ops {
	const char *name;
	ssize_t (*send)(struct conn *conn, const struct iovec *iov, int n, unsigned int flags,
			struct err *err);
	ssize_t (*receive)(struct conn *conn, void *buf, size_t len, unsigned int flags,
			   struct err *err);
	size_t (*pending)(const struct conn *conn);
	int (*fd)(const struct conn *conn);
	short (*events)(struct conn *conn, unsigned int wanted);
	uint64_t (*unsent)(const struct conn *conn);
	void (*finish)(struct conn *conn);
	void (*shutdown)(struct conn *conn);
	void (*free)(struct conn *conn);
};

/* The first member of each implementation. */
struct conn {
	const struct conn_ops *ops;
};

/*
 * Puts a connection around another. On success `inner` is the new one's to
 * free, otherwise it stays the caller's. accepts: this side was connected to,
 * and did not connect. Nothing is sent yet. The wrapper outlives what it has made.
 */
struct conn_wrapper {
	int (*wrap)(const struct conn_wrapper *wrapper, struct conn **out, struct conn *inner,
		    bool accepts, struct err *err);
};

/*
 * Sends from the start of the n pieces, as much as it takes; how many bytes, at
 * least one. -EAGAIN (with CONN_NOWAIT): nothing was taken, and the next send
 * begins with the same bytes, as many of them or more, wherever they are then:
 * an implementation may have made a record of them. -EPIPE also after
 * conn_finish() or conn_shutdown().
 */
static inline ssize_t conn_send(struct conn *conn, const struct iovec *iov, int n,
				unsigned int flags, struct err *err)
{
	return conn->ops->send(conn, iov, n, flags, err);
}

/*
 * Receives up to len (at least 1) bytes, straight to where they belong where
 * the implementation can. 0: the peer has ended its direction, or
 * conn_shutdown() was called. -EAGAIN: with CONN_NOWAIT alone; then nothing is
 * pending.
 */
static inline ssize_t conn_receive(struct conn *conn, void *buf, size_t len, unsigned int flags,
				   struct err *err)
{
	return conn->ops->receive(conn, buf, len, flags, err);
}

/*
 * Bytes that a receive would give at once, whatever poll says. The thread that
 * receives asks, and only a receive makes some pending.
 */
static inline size_t conn_pending(const struct conn *conn)
{
	return conn->ops->pending ? conn->ops->pending(conn) : 0;
}

/* To poll. It stays the connection's, and the same. */
static inline int conn_fd(const struct conn *conn)
{
	return conn->ops->fd(conn);
}

/*
 * Which of poll(2)'s events to wait for, where `wanted` (CONN_SEND, ...) is to
 * be done. Good until the next call; where it is asked more than once, the last
 * answer counts.
 */
static inline short conn_events(struct conn *conn, unsigned int wanted)
{
	return conn->ops->events(conn, wanted);
}

/*
 * Bytes that were sent and that the far end has not taken yet, as far as this
 * host knows. Any thread.
 */
static inline uint64_t conn_unsent(const struct conn *conn)
{
	return conn->ops->unsent ? conn->ops->unsent(conn) : 0;
}

/* Nothing more is sent; all that was arrives, and then the peer's receive says 0. Does not wait. */
static inline void conn_finish(struct conn *conn)
{
	conn->ops->finish(conn);
}

/* See above. More than once as well; does not wait. */
static inline void conn_shutdown(struct conn *conn)
{
	conn->ops->shutdown(conn);
}

/* Closes it. NULL is nothing. */
static inline void conn_free(struct conn *conn)
{
	if (conn)
		conn->ops->free(conn);
}

#endif
