// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * chardev_pty.c - a pseudo-terminal.
 *
 * We keep its slave open ourselves: without anybody there the master would
 * report "hung up" all the time. What the guest writes while nobody reads waits
 * in the terminal and in the ring.
 */
#include "device/chardev_backend.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "base/log.h"

#define PTYS "/dev/pts/"

/* An old link to a pty goes; anything else that lies there is not ours to remove. */
static int link_make(struct chardev *c, const char *name, struct err *err)
{
	const char *path = c->config.path;
	char old[sizeof(PTYS)];
	ssize_t len = readlink(path, old, sizeof(old));

	if (len == sizeof(old) && !memcmp(old, PTYS, sizeof(PTYS) - 1))
		unlink(path);
	if (symlink(name, path) < 0)
		return err_errno(err, -errno, "link %s to the pty %s", path, name);
	chardev_path_made(c);
	return 0;
}

static int slave_open(struct chardev *c, const char *name, struct err *err)
{
	struct termios tio;

	c->slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (c->slave < 0 || tcgetattr(c->slave, &tio) < 0)
		return err_errno(err, -errno, "pty %s", name);
	cfmakeraw(&tio);
	if (tcsetattr(c->slave, TCSANOW, &tio) < 0)
		return err_errno(err, -errno, "pty %s", name);
	return 0;
}

static int pty_open(struct chardev *c, struct err *err)
{
	char name[128];
	int fd, r;

	fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return err_errno(err, -errno, "open a pty");
	if (grantpt(fd) < 0 || unlockpt(fd) < 0 || ptsname_r(fd, name, sizeof(name)) != 0) {
		r = err_errno(err, -errno, "unlock a pty");
		close(fd);
		return r;
	}
	r = slave_open(c, name, err);
	if (r < 0) {
		close(fd);
		return r;
	}
	r = chardev_stream_new(&c->in, c, fd, NULL, err);
	if (r < 0)
		return r;
	c->out = c->in;
	if (*c->config.path)
		r = link_make(c, name, err);
	if (r == 0)
		log_info("serial port on %s", name);
	return r;
}

static void pty_close(struct chardev *c)
{
	chardev_path_remove(c);
	if (c->slave >= 0)
		close(c->slave);
	c->slave = -1;
}

const struct chardev_backend chardev_pty_backend = {
	.open = pty_open,
	.close = pty_close,
};
