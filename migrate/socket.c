// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "migrate/socket.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/conn_socket.h"

#define BULK_SEND_BYTES (4 << 20)

static void tune(int fd, bool sends_bulk)
{
	int one = 1, bytes = BULK_SEND_BYTES, domain = AF_UNSPEC;
	socklen_t len = sizeof(domain);

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0)
		return;
	if (domain != AF_UNIX)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (!sends_bulk)
		return;
	/* Without the privilege TCP's own growing buffer does better than what wmem_max allows. */
	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)) < 0 &&
	    domain == AF_UNIX)
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
}

int socket_to_conn(struct conn **out, int fd, bool sends_bulk, bool accepts,
		   const struct conn_wrapper *wrapper, struct err *err)
{
	struct conn *inner;
	int r;

	tune(fd, sends_bulk);
	r = conn_socket_new(&inner, fd, err);
	if (r < 0) {
		close(fd);
		return r;
	}
	if (!wrapper) {
		*out = inner;
		return 0;
	}
	r = wrapper->wrap(wrapper, out, inner, accepts, err);
	if (r < 0)
		conn_free(inner);
	return r;
}

int socket_check(int fd, bool listening, struct err *err)
{
	int type = 0, accepts = 0;
	struct sockaddr_storage peer;
	socklen_t len = sizeof(type);

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0)
		return err_errno(err, -errno, "descriptor %d is no socket", fd);
	if (type != SOCK_STREAM)
		return err_set(err, -EINVAL, "descriptor %d is no stream socket", fd);
	len = sizeof(accepts);
	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &accepts, &len) < 0)
		return err_errno(err, -errno, "descriptor %d", fd);
	if (listening && !accepts)
		return err_set(err, -EINVAL, "descriptor %d is not a listening socket", fd);
	len = sizeof(peer);
	if (!listening && getpeername(fd, (struct sockaddr *)&peer, &len) < 0)
		return err_errno(err, -errno, "descriptor %d is not a connected socket", fd);
	return 0;
}
