// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "wire/stream.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"

static void iov_consume(struct iovec **iov, int *n, size_t len)
{
	while (*n && len >= (*iov)->iov_len) {
		len -= (*iov)->iov_len;
		(*iov)++;
		(*n)--;
	}
	if (*n) {
		(*iov)->iov_base = (uint8_t *)(*iov)->iov_base + len;
		(*iov)->iov_len -= len;
	}
}

int stream_send(struct conn *conn, struct iovec *iov, int n, struct err *err)
{
	while (n) {
		ssize_t sent = conn_send(conn, iov, n, 0, err);

		if (sent < 0)
			return (int)sent;
		iov_consume(&iov, &n, (size_t)sent);
	}
	return 0;
}

/* Receives some; `inside` a frame, of which the end of the connection takes the rest. */
static ssize_t receive_some(struct conn *conn, void *buf, size_t len, unsigned int flags,
			    bool inside, _Atomic int64_t *heard_ns, struct err *err)
{
	ssize_t got = conn_receive(conn, buf, len, flags, err);

	if (!got)
		return err_set(err, -EPIPE, "the peer closed the connection%s",
			       inside ? " in the middle of a frame" : "");
	/* Only a time stamp: it orders nothing. */
	if (got > 0 && heard_ns)
		atomic_store_explicit(heard_ns, clock_now_ns(), memory_order_relaxed);
	return got;
}

int stream_receive(struct conn *conn, void *buf, size_t len, _Atomic int64_t *heard_ns,
		   struct err *err)
{
	uint8_t *to = buf;
	size_t done = 0;

	while (done < len) {
		ssize_t got = receive_some(conn, to + done, len - done, 0, done, heard_ns, err);

		if (got < 0)
			return (int)got;
		done += (size_t)got;
	}
	return 0;
}

/* Nothing is ahead. */
static int reader_fill(struct stream_reader *reader, unsigned int flags, bool inside,
		       struct err *err)
{
	ssize_t got = receive_some(reader->conn, reader->ahead, sizeof(reader->ahead), flags,
				   inside, reader->heard_ns, err);

	if (got < 0)
		return (int)got;
	reader->pos = 0;
	reader->len = (size_t)got;
	return 0;
}

int stream_read_ahead(struct stream_reader *reader, struct err *err)
{
	return reader_fill(reader, CONN_NOWAIT, false, err);
}

int stream_read(struct stream_reader *reader, void *buf, size_t len, struct err *err)
{
	uint8_t *to = buf;
	size_t part;
	int r;

	while (len) {
		part = reader->len - reader->pos;
		if (part > len)
			part = len;
		memcpy(to, reader->ahead + reader->pos, part);
		reader->pos += part;
		to += part;
		len -= part;
		if (!len)
			break;
		/* A long piece goes straight to where it belongs. */
		if (len >= sizeof(reader->ahead))
			return stream_receive(reader->conn, to, len, reader->heard_ns, err);
		r = reader_fill(reader, 0, to != buf, err);
		if (r < 0)
			return r;
	}
	return 0;
}

int stream_send_pages(struct conn *conn, gfn_t first, uint32_t n, const uint8_t *pages,
		      struct err *err)
{
	uint8_t head[FRAME_BYTES + FRAME_SUMS_BYTES(FRAME_PAGES_MAX)];
	struct iovec iov[2] = {
		{ .iov_base = head, .iov_len = FRAME_BYTES + FRAME_SUMS_BYTES(n) },
		{ .iov_base = (void *)(uintptr_t)pages, .iov_len = n * PAGE_BYTES },
	};

	frame_encode_pages(head, first, n, pages);
	return stream_send(conn, iov, 2, err);
}

int stream_send_bare(struct conn *conn, enum frame_type type, gfn_t first, uint32_t n,
		     struct err *err)
{
	struct frame frame = { .type = type, .count = n, .gfn = first };
	uint8_t head[FRAME_BYTES];
	struct iovec iov = { .iov_base = head, .iov_len = sizeof(head) };

	frame_encode(&frame, head);
	return stream_send(conn, &iov, 1, err);
}
