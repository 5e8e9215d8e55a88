/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Character back ends of a serial port: standard input and output, a pty, a file, a unix socket, nothing.
 * Output never blocks the guest: what the far side does not take is dropped, oldest kept, and counted.
 */
#ifndef POSTERN_DEVICE_CHARDEV_H
#define POSTERN_DEVICE_CHARDEV_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"

enum chardev_kind {
	CHARDEV_NULL,
	CHARDEV_STDIO,	/* raw when a terminal; Ctrl-A is the escape key, as in QEMU: Ctrl-A x ends, Ctrl-A h helps, Ctrl-A a sends one */
	CHARDEV_PTY,	/* the pty's name is logged, and linked at `path` if that is given */
	CHARDEV_FILE,	/* output only, truncated */
	CHARDEV_UNIX,	/* listens on `path`; one client at a time, a new one when it has gone; never waits for one */
};

struct chardev_config {
	enum chardev_kind kind;
	const char *path;	/* copied */
};

struct chardev;

/* Parses "null", "stdio", "pty[:LINK]", "file:PATH", "unix:PATH" (QEMU's ",server=on,wait=off" is accepted and ignored). */
int chardev_parse(struct chardev_config *config, const char *text, struct err *err);

struct chardev_ops {
	/* Input has come (main thread). Returns how many bytes were taken; the rest is offered after chardev_accept_input. */
	size_t (*input)(void *arg, const uint8_t *data, size_t len);
	/* The user asked to end by the escape key (main thread). */
	void (*quit)(void *arg);
	void *arg;
};

int chardev_new(struct chardev **out, struct loop *loop, const struct chardev_config *config,
		const struct chardev_ops *ops, struct err *err);
/* Any thread, never blocks. */
void chardev_write(struct chardev *chardev, const uint8_t *data, size_t len);
/* Any thread: there is room for input again. */
void chardev_accept_input(struct chardev *chardev);
/* Restores the terminal. Main thread. */
void chardev_free(struct chardev *chardev);

#endif
