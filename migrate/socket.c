// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Listening resolves nothing: it happens on the main thread, which must not wait for a name server. So the address
 * must be a number, empty, or "localhost".
 */
#include "migrate/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BULK_SEND_BYTES (4 << 20)
#define BACKLOG 16

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

int socket_error(int fd)
{
	int error = 0;
	socklen_t len = sizeof(error);

	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		return -errno;
	return -error;
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

static int listen_unix(const struct uri *uri, struct err *err)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct stat st;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), code;

	if (fd < 0)
		return err_errno(err, -errno, "socket");
	memcpy(addr.sun_path, uri->path, strlen(uri->path) + 1);
	/* Left behind by a process that is no more: nobody accepts there. */
	if (!lstat(uri->path, &st) && S_ISSOCK(st.st_mode)) {
		int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

		if (probe >= 0 && connect(probe, (struct sockaddr *)&addr, sizeof(addr)) < 0 &&
		    errno == ECONNREFUSED)
			unlink(uri->path);
		if (probe >= 0)
			close(probe);
	}
	if (!bind(fd, (struct sockaddr *)&addr, sizeof(addr)) && !listen(fd, BACKLOG))
		return fd;
	code = -errno;
	close(fd);
	return err_errno(err, code, "listening at unix:%s", uri->path);
}

static int listen_addr(const struct addrinfo *ai)
{
	int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1, zero = 0, code;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (ai->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
	if (!bind(fd, ai->ai_addr, ai->ai_addrlen) && !listen(fd, BACKLOG))
		return fd;
	code = -errno;
	close(fd);
	return code;
}

static int listen_tcp(const struct uri *uri, struct err *err)
{
	struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM,
				  .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV };
	/* An empty host: all addresses, IPv6 with IPv4 mapped where there is IPv6. */
	const char *const any[] = { "::", "0.0.0.0" };
	const char *host = !strcmp(uri->host, "localhost") ? "127.0.0.1" : uri->host;
	struct addrinfo *ai;
	int fd = -EADDRNOTAVAIL, r;
	unsigned int i, n = *host ? 1 : 2;

	for (i = 0; i < n && fd < 0; i++) {
		r = getaddrinfo(*host ? host : any[i], uri->port, &hints, &ai);
		if (r)
			return err_set(err, -EINVAL,
				       "'%s' is no numeric address (listening resolves no names)", host);
		fd = listen_addr(ai);
		freeaddrinfo(ai);
	}
	if (fd < 0)
		return err_errno(err, fd, "listening at tcp:%s:%s", uri->host, uri->port);
	return fd;
}

int socket_listen(const struct uri *uri, struct err *err)
{
	return uri->kind == URI_UNIX ? listen_unix(uri, err) : listen_tcp(uri, err);
}
