// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * chardev_unix.c - a listening unix socket.
 *
 * One client at a time: while there is one, others wait in the socket's queue.
 * A client that sends and goes at once is heard all the same, as far as the
 * input buffer holds it.
 */
#include "device/chardev_backend.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "base/accept.h"
#include "base/log.h"

#define BACKLOG 4

static void unix_on_connection(struct chardev_stream *listener, int events)
{
	struct chardev *c = listener->chardev;
	int fd, r;

	(void)events;
	fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	r = fd < 0 ? -errno : 0;
	if (!r)
		r = chardev_stream_new(&c->in, c, fd, NULL, NULL);
	if (accept_should_rest(r)) {
		if (!c->refusal_reported)
			log_warn("console socket %s: no client can be let in: %s; it waits",
				 c->config.path, strerror(-r));
		c->refusal_reported = true;
		chardev_stream_poll(listener, 0);
		chardev_try_again(c);
		return;
	}
	if (r < 0) {
		chardev_stream_poll(listener, UV_READABLE);
		return;
	}
	c->refusal_reported = false;
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
	struct address address = { .type = ADDRESS_UNIX };
	int r;

	if (strlen(c->config.path) >= sizeof(address.path))
		return err_set(err, -ENAMETOOLONG,
			       "console socket %s: the path is longer than %zu bytes",
			       c->config.path, sizeof(address.path) - 1);
	strcpy(address.path, c->config.path);
	r = listening_open(&c->listening, &address, 0, BACKLOG, err);
	if (r < 0)
		return err_prefix(err, r, "console socket");
	r = chardev_stream_new(&c->listener, c, listening_take(&c->listening), unix_on_connection,
			       err);
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
	/* The file first: see listening_take. */
	listening_close(&c->listening);
	if (c->listener)
		chardev_stream_close(c->listener);
}

const struct chardev_backend chardev_unix_backend = {
	.open = unix_open,
	.close = unix_close,
	.lost = unix_lost,
	.again = unix_again,
};
