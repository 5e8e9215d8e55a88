// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "migrate/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#define BULK_SEND_BYTES (4 << 20)

void socket_tune(int fd, enum wire_channel channel)
{
	int one = 1, bytes = BULK_SEND_BYTES, domain = AF_UNSPEC;
	socklen_t len = sizeof(domain);

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0)
		return;
	if (domain != AF_UNIX)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (channel != WIRE_BULK)
		return;
	/* Without the privilege TCP's own growing buffer does better than what wmem_max allows. */
	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)) < 0 && domain == AF_UNIX)
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
}

int socket_set_blocking(int fd, bool blocking)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0)
		return -errno;
	flags = blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK;
	return fcntl(fd, F_SETFL, flags) < 0 ? -errno : 0;
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
