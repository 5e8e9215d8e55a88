// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * A call that may not wait says so to the kernel (MSG_DONTWAIT). One that may
 * needs the socket in blocking mode, and libuv takes that away from each that
 * it watches: so the first such call that finds it taken away restores it.
 */
#include "base/conn_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

struct conn_socket {
	struct conn conn;
	int fd;
};

static int fd_of(const struct conn *conn)
{
	return ((const struct conn_socket *)conn)->fd; /* the first member */
}

/* After a call that failed. 1: again; or why not. */
static int call_again(int fd, unsigned int flags, const char *what, struct err *err)
{
	int r = -errno, mode;

	if (r == -EINTR)
		return 1;
	if (r != -EAGAIN && r != -EWOULDBLOCK)
		return err_errno(err, r, "%s", what);
	if (flags & CONN_NOWAIT)
		return -EAGAIN;
	mode = fcntl(fd, F_GETFL);
	if (mode < 0 || fcntl(fd, F_SETFL, mode & ~O_NONBLOCK) < 0)
		return err_errno(err, -errno, "preparing a connection");
	return 1;
}

static ssize_t socket_send(struct conn *conn, const struct iovec *iov, int n, unsigned int flags,
			   struct err *err)
{
	struct msghdr msg = { .msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = (size_t)n };
	int fd = fd_of(conn), r;
	ssize_t sent;

	do {
		sent = sendmsg(fd, &msg, MSG_NOSIGNAL | (flags & CONN_NOWAIT ? MSG_DONTWAIT : 0));
		r = sent < 0 ? call_again(fd, flags, "send", err) : 0;
	} while (r > 0);
	return r < 0 ? r : sent;
}

static ssize_t socket_receive(struct conn *conn, void *buf, size_t len, unsigned int flags,
			      struct err *err)
{
	int fd = fd_of(conn), r;
	ssize_t got;

	do {
		got = recv(fd, buf, len, flags & CONN_NOWAIT ? MSG_DONTWAIT : 0);
		r = got < 0 ? call_again(fd, flags, "receive", err) : 0;
	} while (r > 0);
	return r < 0 ? r : got;
}

static short socket_events(struct conn *conn, unsigned int wanted)
{
	(void)conn;
	return (short)((wanted & CONN_SEND ? POLLOUT : 0) | (wanted & CONN_RECEIVE ? POLLIN : 0) |
		       (wanted & CONN_HANGUP ? POLLRDHUP : 0));
}

static uint64_t socket_unsent(const struct conn *conn)
{
	int held;

	return ioctl(fd_of(conn), SIOCOUTQ, &held) < 0 ? 0 : (unsigned int)held;
}

static void socket_finish(struct conn *conn)
{
	shutdown(fd_of(conn), SHUT_WR);
}

static void socket_shutdown(struct conn *conn)
{
	shutdown(fd_of(conn), SHUT_RDWR);
}

static void socket_free(struct conn *conn)
{
	close(fd_of(conn));
	free(conn);
}

static const struct conn_ops socket_ops = {
	.name = "socket",
	.send = socket_send,
	.receive = socket_receive,
	.fd = fd_of,
	.events = socket_events,
	.unsent = socket_unsent,
	.finish = socket_finish,
	.shutdown = socket_shutdown,
	.free = socket_free,
};

int conn_socket_new(struct conn **out, int fd, struct err *err)
{
	struct conn_socket *self = malloc(sizeof(*self));

	if (!self)
		return err_set(err, -ENOMEM, "no memory for a connection");
	*self = (struct conn_socket){ .conn = { &socket_ops }, .fd = fd };
	*out = &self->conn;
	return 0;
}
