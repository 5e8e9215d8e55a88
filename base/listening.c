// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * See listening.h. Several sockets are one descriptor by an epoll instance. A
 * unix socket's mode is set before it has a name (Linux takes the file's from
 * the socket's own inode), so that there is no moment at which others may
 * connect.
 */
#include "base/listening.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/lookup.h"
#include "base/path.h"

/* How often a port that is free at the first address, and not at another, is tried for anew. */
#define PORT_TRIES 32

/*
 * Who makes a socket has the directory's lock for microseconds; how often it is
 * tried, a millisecond apart.
 */
#define LOCK_TRIES 20

/* ---- one address ---- */

/*
 * Who looks for a stale socket and makes its own in its place does so alone: a
 * socket that another process has bound, and does not listen at yet, would look
 * stale. By a lock of the directory, as it needs no file. It is none among all:
 * other programs know nothing of it, and where the directory cannot be read or
 * locked, or somebody keeps its lock, it goes without. Then two that begin at
 * the same path within some microseconds may both succeed, and the first one's
 * socket has no name. To close that as well, the socket would be bound at
 * another name and renamed once it listens; but the name that it was bound at is
 * the one that ss(8) and its peers are told for good. Returns what to close, or -1.
 */
static int directory_lock(const char *path)
{
	const struct timespec moment = clock_to_timespec(NS_PER_MS);
	const char *slash = strrchr(path, '/');
	char dir[ADDRESS_PATH_BYTES] = ".";
	unsigned int tries = LOCK_TRIES;
	int fd, r;

	if (slash)
		snprintf(dir, sizeof(dir), "%.*s", (int)(slash - path + 1), path);
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	while ((r = flock(fd, LOCK_EX | LOCK_NB)) < 0 && errno == EWOULDBLOCK && --tries)
		nanosleep(&moment, NULL);
	if (!r)
		return fd;
	close(fd);
	return -1;
}

/* Removes a socket that nobody listens at any more. */
static int stale_remove(const struct sockaddr_un *addr, struct err *err)
{
	struct stat st;
	int fd, r;

	if (lstat(addr->sun_path, &st) < 0)
		return errno == ENOENT ? 0 : err_errno(err, -errno, "%s", addr->sun_path);
	if (!S_ISSOCK(st.st_mode))
		return err_set(err, -EEXIST, "%s: a file of that name exists and is no socket",
			       addr->sun_path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_errno(err, -errno, "%s", addr->sun_path);
	r = connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 ? -errno : 0;
	close(fd);
	if (r != -ECONNREFUSED)
		return err_set(err, -EADDRINUSE, "%s: another process listens there",
			       addr->sun_path);
	if (unlink(addr->sun_path) < 0 && errno != ENOENT)
		return err_errno(err, -errno, "%s: stale, but not to be removed", addr->sun_path);
	return 0;
}

/* only: an IPv6 socket takes no IPv4; else one at :: does. */
static int door_open(const struct sockaddr_storage *at, socklen_t len, bool only, int backlog)
{
	int fd = socket(at->ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1,
	    v6only = only, r;

	if (fd < 0)
		return -errno;
	if (at->ss_family == AF_UNIX) {
		r = fchmod(fd, 0600);
	} else {
		r = setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		if (at->ss_family == AF_INET6)
			r = setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6only, sizeof(v6only));
	}
	if (!r && !bind(fd, (const struct sockaddr *)at, len) && !listen(fd, backlog))
		return fd;
	r = -errno;
	close(fd);
	return r;
}

static in_port_t *port_of(struct sockaddr_storage *at)
{
	return at->ss_family == AF_INET ? &((struct sockaddr_in *)at)->sin_port :
					  &((struct sockaddr_in6 *)at)->sin6_port;
}

/* The port that a socket has got. */
static in_port_t port_got(int fd)
{
	struct sockaddr_storage at = { 0 };
	socklen_t len = sizeof(at);

	return getsockname(fd, (struct sockaddr *)&at, &len) < 0 ? 0 : *port_of(&at);
}

/* ---- all of them ---- */

static void doors_close(struct listening *l)
{
	while (l->n)
		close(l->door[--l->n]);
}

/*
 * What this host does not have, -EADDRNOTAVAIL and -EAFNOSUPPORT, counts only
 * when it has none of them.
 */
static int doors_open(struct listening *l, struct addresses list, int backlog, struct err *err)
{
	char text[SOCKADDR_TEXT_BYTES];
	unsigned int i;
	int fd = -EADDRNOTAVAIL, r = 0;

	for (i = 0; i < list.n; i++) {
		if (l->n && list.at[i].ss_family != AF_UNIX && !*port_of(&list.at[i]))
			*port_of(&list.at[i]) = port_got(l->door[0]);
		fd = door_open(&list.at[i], list.len[i], list.n > 1, backlog);
		if (fd >= 0) {
			l->door[l->n++] = fd;
			continue;
		}
		sockaddr_print(&list.at[i], list.len[i], true, text);
		r = err_errno(err, fd, "%s", text);
		if (fd != -EADDRNOTAVAIL && fd != -EAFNOSUPPORT)
			break;
		log_debug("listening at %s: %s", text, strerror(-fd));
		r = 0;
	}
	if (!r && !l->n)
		r = fd;
	if (r < 0)
		doors_close(l);
	return r;
}

static int watch_all(struct listening *l)
{
	struct epoll_event event = { .events = EPOLLIN };
	unsigned int i;

	if (l->n == 1) {
		l->fd = l->door[0];
		return 0;
	}
	l->fd = epoll_create1(EPOLL_CLOEXEC);
	if (l->fd < 0)
		return -errno;
	for (i = 0; i < l->n; i++)
		if (epoll_ctl(l->fd, EPOLL_CTL_ADD, l->door[i], &event) < 0)
			return -errno;
	return 0;
}

static void path_made(struct listening *l, const char *path)
{
	if (!lstat(path, &l->made))
		strcpy(l->path, path);
}

static int addresses_find(struct addresses *found, const struct address *address,
			  int64_t patience_ns, struct err *err)
{
	if (addresses_known(found, address))
		return 0;
	if (!patience_ns)
		return err_set(
			err, -EINVAL,
			"'%.100s' is no numeric address (listening resolves names at the start alone)",
			address->host);
	return lookup_wait(found, address, clock_now_ns() + patience_ns, -1, err);
}

static int open_found(struct listening *l, const struct address *address,
		      const struct addresses *found, int backlog, struct err *err)
{
	unsigned int tries = found->n > 1 && !strcmp(address->port, "0") ? PORT_TRIES : 1;
	int r;

	do
		r = doors_open(l, *found, backlog, err);
	while (r == -EADDRINUSE && --tries);
	if (r < 0)
		return r;
	if (address->type == ADDRESS_UNIX)
		path_made(l, address->path);
	r = watch_all(l);
	return r < 0 ? err_errno(err, r, "several sockets") : 0;
}

int listening_open(struct listening *l, const struct address *address, int64_t patience_ns,
		   int backlog, struct err *err)
{
	char text[ADDRESS_TEXT_BYTES];
	struct addresses found;
	int r, lock = -1;

	*l = (struct listening){ .fd = -1 };
	r = addresses_find(&found, address, patience_ns, err);
	if (!r && address->type == ADDRESS_UNIX) {
		lock = directory_lock(address->path);
		r = stale_remove((const struct sockaddr_un *)&found.at[0], err);
	}
	if (!r)
		r = open_found(l, address, &found, backlog, err);
	if (lock >= 0)
		close(lock);
	if (!r)
		return 0;
	listening_close(l);
	address_print(address, text);
	return err_prefix(err, r, "listening at %s", text);
}

int listening_take(struct listening *l)
{
	int fd = l->fd;

	l->fd = -1;
	l->n = 0;
	return fd;
}

void listening_adopt(struct listening *l, int fd)
{
	*l = (struct listening){ .fd = fd, .door = { fd }, .n = 1 };
}

int listening_accept(struct listening *l)
{
	unsigned int i;
	int fd, r = -EAGAIN;

	/* In turn, so that a crowd at one is not in everybody's way. */
	for (i = 0; i < l->n; i++) {
		l->turn = (l->turn + 1) % l->n;
		fd = accept4(l->door[l->turn], NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0)
			return fd;
		if (errno != EAGAIN && errno != EWOULDBLOCK)
			r = -errno;
	}
	return r;
}

void listening_print(const struct listening *l, unsigned int i, char *out)
{
	struct sockaddr_storage at = { 0 };
	socklen_t len = sizeof(at);

	if (*l->path)
		snprintf(out, SOCKADDR_TEXT_BYTES, "unix:%s", l->path);
	else if (!getsockname(l->door[i], (struct sockaddr *)&at, &len))
		sockaddr_print(&at, len, true, out);
	else
		snprintf(out, SOCKADDR_TEXT_BYTES, "descriptor %d", l->door[i]);
}

void listening_close(struct listening *l)
{
	/* Somebody may listen at the path anew. The socket is open still: see path_is. */
	if (*l->path)
		path_remove(l->path, &l->made);
	*l->path = 0;
	if (l->fd >= 0 && l->n != 1)
		close(l->fd);
	l->fd = -1;
	doors_close(l);
}
