// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "source/stream.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

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

int stream_send(int fd, struct iovec *iov, int n, struct err *err)
{
	while (n) {
		struct msghdr msg = { .msg_iov = iov, .msg_iovlen = (size_t)n };
		ssize_t sent = sendmsg(fd, &msg, MSG_NOSIGNAL);

		if (sent < 0) {
			if (errno == EINTR)
				continue;
			return err_errno(err, -errno, "send");
		}
		iov_consume(&iov, &n, (size_t)sent);
	}
	return 0;
}

int stream_receive(int fd, void *buf, size_t len, _Atomic int64_t *heard_ns, struct err *err)
{
	uint8_t *to = buf;
	size_t done = 0;

	while (done < len) {
		ssize_t got = recv(fd, to + done, len - done, 0);

		if (got < 0) {
			if (errno == EINTR)
				continue;
			return err_errno(err, -errno, "receive");
		}
		if (!got)
			return err_set(err, -EPIPE, done ? "the peer closed the connection in the middle of a frame"
							 : "the peer closed the connection");
		done += (size_t)got;
		/* Only a time stamp: it orders nothing. */
		if (heard_ns)
			atomic_store_explicit(heard_ns, clock_now_ns(), memory_order_relaxed);
	}
	return 0;
}

int stream_read(struct stream_reader *reader, void *buf, size_t len, struct err *err)
{
	uint8_t *to = buf;
	size_t part;
	ssize_t got;

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
			return stream_receive(reader->fd, to, len, reader->heard_ns, err);
		got = recv(reader->fd, reader->ahead, sizeof(reader->ahead), 0);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return err_errno(err, -errno, "receive");
		if (!got)
			return err_set(err, -EPIPE, "the peer closed the connection%s",
				       to != buf ? " in the middle of a frame" : "");
		reader->pos = 0;
		reader->len = (size_t)got;
		if (reader->heard_ns)
			atomic_store_explicit(reader->heard_ns, clock_now_ns(), memory_order_relaxed);
	}
	return 0;
}

int stream_send_pages(int fd, gfn_t first, uint32_t n, const uint8_t *pages, struct err *err)
{
	uint8_t head[FRAME_BYTES + FRAME_SUMS_BYTES(FRAME_PAGES_MAX)];
	struct iovec iov[2] = {
		{ .iov_base = head, .iov_len = FRAME_BYTES + FRAME_SUMS_BYTES(n) },
		{ .iov_base = (void *)(uintptr_t)pages, .iov_len = n * PAGE_BYTES },
	};

	frame_encode_pages(head, first, n, pages);
	return stream_send(fd, iov, 2, err);
}

int stream_send_bare(int fd, enum frame_type type, gfn_t first, uint32_t n, struct err *err)
{
	struct frame frame = { .type = type, .count = n, .gfn = first };
	uint8_t head[FRAME_BYTES];
	struct iovec iov = { .iov_base = head, .iov_len = sizeof(head) };

	frame_encode(&frame, head);
	return stream_send(fd, &iov, 1, err);
}
