// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * chardev_file.c - output to what the kernel cannot poll: files.
 *
 * libuv's threads write them, a piece at a time, and move them away when they
 * have reached their limit. A disk that is full ends nothing: the piece is kept
 * and tried again, the ring keeps the newest meanwhile, and the gap is marked
 * when there is room again.
 */
#include "device/chardev_backend.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

/* On one of libuv's threads; the stream is not looked at elsewhere while it is busy. */
static void file_work(uv_work_t *work)
{
	struct chardev_stream *s = work->data;
	ssize_t n;

	if (s->rotate)
		s->rotated = rotate_make_room(s->rotate, s->write_len);
	do
		n = write(s->fd, s->write_from, s->write_len);
	while (n < 0 && errno == EINTR);
	s->written = n < 0 ? -errno : n;
}

static void report_rotated(struct chardev_stream *s)
{
	if (s->rotated < 0)
		log_warn("console output file %s has reached its limit, and cannot become "
			 "%s.1: %s; it begins anew", s->rotate->path, s->rotate->path,
			 strerror(-s->rotated));
	s->rotated = 0;
}

static void chardev_on_written(uv_work_t *work, int status)
{
	struct chardev_stream *s = work->data;
	struct chardev *c = s->chardev;
	ssize_t n = status < 0 ? status : s->written;

	chardev_get(c);
	if (n > 0)
		chardev_ring_taken(&c->ring, (size_t)n);
	report_rotated(s);
	chardev_stream_done(s);
	/* chardev_free has left the rest to us: all is written before the stream goes. */
	if (c->out == s && n > 0)
		chardev_file_write(s);
	else if (c->out == s && !c->closing)
		chardev_output_waits(c, n ? (int)n : -EIO);
	if (c->out == s && c->closing && !s->busy)
		chardev_stream_close(s);
	chardev_put(c);
}

void chardev_file_write(struct chardev_stream *s)
{
	struct chardev *c = s->chardev;

	if (s->busy)
		return;
	s->write_len = chardev_ring_peek(&c->ring, &s->write_from);
	if (!s->write_len)
		return;
	s->busy = true;
	s->work.data = s;
	chardev_get(c);
	if (uv_queue_work(loop_uv(c->loop), &s->work, file_work, chardev_on_written) < 0)
		chardev_stream_done(s);
}

static int chardev_file_open(struct chardev *c, struct err *err)
{
	struct rotate *rotate = malloc(sizeof(*rotate));
	int r;

	if (!rotate)
		return err_set(err, -ENOMEM, "no memory for a file");
	/* A FIFO that nobody reads is an error and not a wait. */
	r = rotate_open(rotate, c->config.path, c->config.limit, 0600, true, err);
	if (r < 0)
		err_prefix(err, r, "console output file");
	else
		r = chardev_stream_new(&c->out, c, rotate->fd, NULL, err);
	if (r < 0)
		free(rotate);
	else
		c->out->rotate = rotate;
	return r;
}

const struct chardev_backend chardev_file_backend = { .open = chardev_file_open };
