// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * chardev_unix.c - a listening unix socket.
 *
 * One client at a time: while there is one, others wait in the socket's queue. A client that sends and goes
 * at once is heard all the same, as far as the input buffer holds it.
 */
#include "device/chardev_backend.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/accept.h"
#include "base/log.h"

/* Removes a socket that nobody listens at any more. */
static int stale_remove(const struct sockaddr_un *addr, struct err *err)
{
	struct stat st;
	int fd, r;

	if (lstat(addr->sun_path, &st) < 0)
		return 0;
	if (!S_ISSOCK(st.st_mode))
		return err_set(err, -EEXIST, "console socket %s: something else is there, and no socket",
			       addr->sun_path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_errno(err, -errno, "socket");
	r = connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 ? -errno : 0;
	close(fd);
	if (r != -ECONNREFUSED)
		return err_set(err, -EADDRINUSE, "console socket %s: somebody listens there", addr->sun_path);
	unlink(addr->sun_path);
	return 0;
}

static void on_knock(struct chardev_stream *listener, int events)
{
	struct chardev *c = listener->chardev;
	int fd, r;

	(void)events;
	fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	r = fd < 0 ? -errno : 0;
	if (!r)
		r = chardev_stream_new(&c->in, c, fd, NULL, NULL);
	if (accept_should_rest(r)) {
		if (!c->knock_told)
			log_warn("console socket %s: no client can be let in: %s; it waits", c->config.path, strerror(-r));
		c->knock_told = true;
		chardev_stream_poll(listener, 0);
		chardev_try_again(c);
		return;
	}
	if (r < 0) {
		chardev_stream_poll(listener, UV_READABLE);
		return;
	}
	c->knock_told = false;
	c->out = c->in;
	chardev_stream_poll(listener, 0);
	chardev_update(c);
}

static void unix_again(struct chardev *c)
{
	if (c->listener && !c->in)
		chardev_stream_poll(c->listener, UV_READABLE);
}

static int unix_open(struct chardev *c, struct err *err)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd, r;

	if (strlen(c->config.path) >= sizeof(addr.sun_path))
		return err_set(err, -ENAMETOOLONG, "console socket %s: the path is longer than %zu bytes",
			       c->config.path, sizeof(addr.sun_path) - 1);
	strcpy(addr.sun_path, c->config.path);
	r = stale_remove(&addr, err);
	if (r < 0)
		return r;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_errno(err, -errno, "socket");
	/* Before bind, the socket's mode is what the file will get: there is no moment in which others may connect. */
	if (fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		r = err_errno(err, -errno, "console socket %s", addr.sun_path);
		close(fd);
		return r;
	}
	chardev_path_made(c);
	if (listen(fd, 4) < 0) {
		r = err_errno(err, -errno, "console socket %s", addr.sun_path);
		close(fd);
		return r;
	}
	r = chardev_stream_new(&c->listener, c, fd, on_knock, err);
	if (r == 0)
		chardev_stream_poll(c->listener, UV_READABLE);
	return r;
}

static void unix_lost(struct chardev *c, struct chardev_stream *stream)
{
	chardev_stream_close(stream);
	unix_again(c);
}

static void unix_close(struct chardev *c)
{
	chardev_path_remove(c);
	if (c->listener)
		chardev_stream_close(c->listener);
}

const struct chardev_backend chardev_unix_backend = {
	.open = unix_open,
	.close = unix_close,
	.lost = unix_lost,
	.again = unix_again,
};
