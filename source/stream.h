/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Blocking reads and writes of whole pieces, for the threads that move pages. A thread that is inside one of these is
 * brought out by shutdown(2) of the socket, by another thread.
 */
#ifndef POSTERN_SOURCE_STREAM_H
#define POSTERN_SOURCE_STREAM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <sys/uio.h>

#include "base/err.h"
#include "base/types.h"
#include "source/frame.h"

/*
 * The two connections that threads serve, as peer and sender borrow them: both are connected stream sockets in
 * blocking mode, shut down but not closed by the borrower.
 */
struct stream_pair {
	int urgent, bulk;
	_Atomic int64_t *heard_ns;	/* set to the clock whenever anything was received */
	/* Any thread, at most once a start: the connection failed, or the peer sent what it must not. Must not sleep. */
	void (*lost)(void *arg, const struct err *err);
	void *arg;
};

/* Sends all of iov (which it changes). 0, or a negative errno: -EPIPE also after shutdown. */
int stream_send(int fd, struct iovec *iov, int n, struct err *err);
/* Fills all of buf. 0, or a negative errno; -EPIPE: the peer closed, between pieces or (the text says so) inside one. */
int stream_receive(int fd, void *buf, size_t len, _Atomic int64_t *heard_ns, struct err *err);

/*
 * Reads ahead: small pieces come out of what one recv brought, so that a frame of one page costs one system call. Zero-initialised
 * but for fd and heard_ns it is ready. One thread.
 */
struct stream_reader {
	int fd;
	_Atomic int64_t *heard_ns;
	size_t pos, len;
	uint8_t ahead[FRAME_BYTES + FRAME_PAGES_BYTES(1)];
};
/* As stream_receive. */
int stream_read(struct stream_reader *reader, void *buf, size_t len, struct err *err);
/* Is there data that was read ahead and not taken? Then a poll of the socket says nothing. */
static inline bool stream_has_ahead(const struct stream_reader *reader)
{
	return reader->pos < reader->len;
}

/* Sends n (1 to FRAME_PAGES_MAX) pages from guest memory at `pages`. */
int stream_send_pages(int fd, gfn_t first, uint32_t n, const uint8_t *pages, struct err *err);
/* Sends a frame that is a header only. */
int stream_send_bare(int fd, enum frame_type type, gfn_t first, uint32_t n, struct err *err);

#endif
