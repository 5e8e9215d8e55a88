/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Blocking reads and writes of whole pieces, for the threads that move pages. A
 * thread that is inside one of these is brought out by conn_shutdown(), by
 * another thread.
 */
#ifndef POSTERN_WIRE_STREAM_H
#define POSTERN_WIRE_STREAM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <sys/uio.h>

#include "base/conn.h"
#include "base/err.h"
#include "base/types.h"
#include "wire/frame.h"

/*
 * The two connections that threads serve, as page source and sender borrow them: shut
 * down but not freed by the borrower.
 */
struct stream_pair {
	struct conn *urgent, *bulk;
	_Atomic int64_t *heard_ns;	/* set to the clock whenever anything was received */
	/*
	 * Any thread, at most once a start: the connection failed, or the peer
	 * sent what it must not. Must not sleep.
	 */
	void (*lost)(void *arg, const struct err *err);
	void *arg;
};

/* Sends all of iov (which it changes). 0, or a negative errno: -EPIPE also after shutdown. */
int stream_send(struct conn *conn, struct iovec *iov, int n, struct err *err);
/*
 * Fills all of buf. 0, or a negative errno; -EPIPE: the peer closed, between
 * pieces or (the text says so) inside one.
 */
int stream_receive(struct conn *conn, void *buf, size_t len, _Atomic int64_t *heard_ns,
		   struct err *err);

/*
 * Reads ahead: small pieces come out of what one receive brought, so that a
 * frame of one page costs one system call. Zero-initialised but for conn and
 * heard_ns it is ready. One thread.
 */
struct stream_reader {
	struct conn *conn;
	_Atomic int64_t *heard_ns;
	size_t pos, len;
	uint8_t ahead[FRAME_BYTES + FRAME_PAGES_BYTES(1)];
};
/* As stream_receive. */
int stream_read(struct stream_reader *reader, void *buf, size_t len, struct err *err);
/*
 * Reads ahead what has come, without waiting. 0; -EAGAIN: nothing has; or as
 * stream_receive. Only when nothing is ahead.
 */
int stream_read_ahead(struct stream_reader *reader, struct err *err);
/* Is there data that was read ahead, here or by the connection? Then a poll says nothing. */
static inline bool stream_has_ahead(const struct stream_reader *reader)
{
	return reader->pos < reader->len || conn_pending(reader->conn);
}

/* Sends n (1 to FRAME_PAGES_MAX) pages from guest memory at `pages`. */
int stream_send_pages(struct conn *conn, gfn_t first, uint32_t n, const uint8_t *pages,
		      struct err *err);
/* Sends a frame that is a header only. */
int stream_send_bare(struct conn *conn, enum frame_type type, gfn_t first, uint32_t n,
		     struct err *err);

#endif
