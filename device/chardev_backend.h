/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What the chardev_*.c files share; nobody else includes this.
 *
 * A chardev has up to two streams, one that input comes from and one that
 * output goes to; they may be the same. A stream owns a file descriptor, which
 * is either polled by the loop (terminals, pipes, sockets) or, when the kernel
 * cannot poll it (files), read and written by libuv's worker threads. All of
 * this is the main thread's; only the ring is shared.
 */
#ifndef POSTERN_DEVICE_CHARDEV_BACKEND_H
#define POSTERN_DEVICE_CHARDEV_BACKEND_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <uv.h>

#include "base/listening.h"
#include "base/rotate.h"
#include "device/chardev.h"
#include "device/chardev_ring.h"

#define CHARDEV_INPUT_BYTES 4096

struct chardev_stream {
	uv_poll_t poll;
	struct chardev *chardev;
	int fd;
	int events;		/* that are polled for */
	int restore_flags;	/* of a descriptor that is shared with others: put back at the end; -1: not */
	bool polled;		/* else a file */
	bool busy;		/* a file's request is under way */
	bool closing;
	/* Who is told, main thread. */
	void (*ready)(struct chardev_stream *stream, int events);
	uv_fs_t request;
	/* chardev_file.c: a file that is written. While busy, all of it is a thread's. */
	uv_work_t work;
	struct rotate *rotate;	/* one of our own; NULL: standard output */
	int rotated;		/* what rotate_make_room said */
	const uint8_t *write_from;
	size_t write_len;
	ssize_t written;	/* bytes, or a negative errno */
};

struct chardev_backend {
	int (*open)(struct chardev *chardev, struct err *err);
	void (*close)(struct chardev *chardev);
	/* The far side has gone. May be NULL: input ends, or output. */
	void (*lost)(struct chardev *chardev, struct chardev_stream *stream);
	/* After chardev_try_again. May be NULL. */
	void (*again)(struct chardev *chardev);
	/* Looks at fresh input, in place; returns how many bytes are left of it. May be NULL. */
	size_t (*filter)(struct chardev *chardev, uint8_t *data, size_t len);
};

struct chardev {
	struct loop *loop;
	struct chardev_ops ops;
	struct chardev_config config;
	const struct chardev_backend *backend;
	unsigned int refs;		/* its owner, each handle, each request under way; main thread */
	bool closing;

	struct chardev_ring ring;	/* its taker is whoever writes to `out` */
	bool drop_reported;

	uv_async_t wake;
	atomic_bool accept;		/* the receiver has room again */

	struct chardev_stream *in, *out;
	bool stalled;			/* `out` takes no more for now */
	bool rests;			/* stalled, and not for want of room: until `again` */
	bool trouble_reported;
	uv_timer_t again;		/* tries anew what the system had no memory for */
	bool blocked;			/* the receiver takes no more for now */
	uint8_t input[CHARDEV_INPUT_BYTES];
	size_t input_len;

	/* chardev_unix.c */
	struct chardev_stream *listener;
	struct listening listening;	/* its file */
	bool refusal_reported;		/* that nobody can be let in */
	/* chardev_pty.c: what was made at config.path, so that nothing else is removed */
	struct stat made;
	bool made_path;
	int slave;			/* chardev_pty.c */
	/* chardev_stdio.c */
	bool escape;
	uv_signal_t cont;
};

extern const struct chardev_backend chardev_stdio_backend;
extern const struct chardev_backend chardev_unix_backend;
extern const struct chardev_backend chardev_pty_backend;
extern const struct chardev_backend chardev_file_backend;

/*
 * A stream on fd, which it owns from now on (also on an error). ready NULL: the
 * ordinary one, which moves input and output.
 */
int chardev_stream_new(struct chardev_stream **out, struct chardev *chardev, int fd,
		       void (*ready)(struct chardev_stream *stream, int events), struct err *err);
/* Closes it; chardev->in, out and listener that point there become NULL. */
void chardev_stream_close(struct chardev_stream *stream);
/* Polls for these uv_poll_events, 0: for none. */
void chardev_stream_poll(struct chardev_stream *stream, int events);
/* A request on it has ended: what was to be closed meanwhile is closed now. */
void chardev_stream_done(struct chardev_stream *stream);
/* Writes what waits in the ring, if it is not at it already. */
void chardev_file_write(struct chardev_stream *stream);
/*
 * What is written cannot be had now, for a reason that may go away: it is tried
 * again (logged once).
 */
void chardev_output_waits(struct chardev *chardev, int error);
/* in or out have changed: polls for what is wanted now, and moves what can be moved. */
void chardev_update(struct chardev *chardev);
/* ... after a moment. */
void chardev_try_again(struct chardev *chardev);
void chardev_get(struct chardev *chardev);
void chardev_put(struct chardev *chardev);
/* Remembers what lies at config.path as made by us / removes it if it is still that. */
void chardev_path_made(struct chardev *chardev);
void chardev_path_remove(struct chardev *chardev);

#endif
