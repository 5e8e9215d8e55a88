/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Character back ends of a serial port: standard input and output, a pty, a
 * file, a unix socket, nothing.
 *
 * Output never blocks the guest: it goes into a ring of CHARDEV_RING_BYTES that
 * the main loop empties as the far side takes it. What does not fit drives out
 * the oldest; that is counted, and marked in the stream (chardev_ring.h).
 * Output that comes while a socket has no client waits in the ring for the next
 * one.
 */
#ifndef POSTERN_DEVICE_CHARDEV_H
#define POSTERN_DEVICE_CHARDEV_H

#include <limits.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"

#define CHARDEV_RING_BYTES ((size_t)256 << 10)

enum chardev_type {
	CHARDEV_NULL,
	/*
	 * Raw when a terminal. Ctrl-A is the escape key, as in QEMU: Ctrl-A x
	 * ends, h helps, a sends one.
	 */
	CHARDEV_STDIO,
	CHARDEV_PTY,	/* the pty's name is logged, and linked at `path` if that is given */
	CHARDEV_FILE,	/* output only; the file is emptied, and has a limit (base/rotate.h) */
	/*
	 * Listens on `path` (mode 0600); one client at a time, a new one when
	 * it has gone; waits for none.
	 */
	CHARDEV_UNIX,
};

struct chardev_config {
	enum chardev_type type;
	char path[PATH_MAX];	/* "" if none */
	uint64_t limit;		/* bytes of a file, 0: none */
};

struct chardev;

/*
 * Parses "null" ("none"), "stdio", "pty[:LINK]", "file:PATH[,limit=SIZE]",
 * "unix:PATH" (QEMU's ",server=on,wait=off" is accepted and ignored). -EINVAL:
 * says what is allowed.
 */
int chardev_parse(struct chardev_config *config, const char *text, struct err *err);

struct chardev_ops {
	/*
	 * Input has come (main thread). Returns how many bytes were taken; the
	 * rest is offered after chardev_accept_input.
	 */
	size_t (*input)(void *arg, const uint8_t *data, size_t len);
	/* The user asked to end by the escape key (main thread). */
	void (*quit)(void *arg);
	void *arg;
};

/*
 * ops are copied. Errors name the path: -EADDRINUSE: somebody listens there;
 * -EBUSY: stdio is in use; and what the system says. SIGPIPE must be ignored.
 */
int chardev_new(struct chardev **out, struct loop *loop, const struct chardev_config *config,
		const struct chardev_ops *ops, struct err *err);
/* Any thread, never blocks. */
void chardev_write(struct chardev *chardev, const uint8_t *data, size_t len);
/* As if so many bytes had been written and driven out again, with all that waits. Any thread. */
void chardev_skip(struct chardev *chardev, uint64_t len);
/* Any thread: there is room for input again. */
void chardev_accept_input(struct chardev *chardev);
/* Bytes of output that were driven out. Any thread. */
uint64_t chardev_dropped(struct chardev *chardev);
/*
 * Restores the terminal, writes what is left (for at most some 50 ms), removes
 * socket and link. Main thread, not from a callback. Memory goes when the loop
 * has run the closing callbacks: before loop_free returns.
 */
void chardev_free(struct chardev *chardev);

/*
 * Restores the terminal if a CHARDEV_STDIO made it raw. Async-signal-safe: for
 * signal handlers that end the process.
 */
void chardev_restore_terminal(void);

#endif
