// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * chardev.c - character back ends: the way of output, the buffer of input, and
 * their life.
 *
 * A writer (a vCPU, mostly) appends to the ring (chardev_ring.h) and wakes the
 * main loop; many bytes share a wake-up. The main loop writes what the far side
 * takes.
 *
 * Input is read into a buffer and offered to the receiver. What the receiver
 * refuses stays, and reading stops when the buffer is full, until
 * chardev_accept_input: back pressure reaches the far side.
 */
#include "device/chardev_backend.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/path.h"
#include "base/size.h"

/* How long chardev_free tries to get rid of the rest. */
#define FLUSH_NS (50 * NS_PER_MS)
/* What the system has no memory for is tried again after that. */
#define AGAIN_MS 100

static const char allowed[] =
	"allowed are null, stdio, pty, pty:LINK, file:PATH[,limit=SIZE] and unix:PATH";

/* QEMU's options of a listening socket; what they ask for is how it is anyway. */
static int parse_unix_options(char *path, const char *text, struct err *err)
{
	static const char *const known[] = { "server=on", "server", "wait=off", "nowait" };
	char *save, *word, *comma = strchr(path, ',');
	size_t i;

	if (!comma)
		return 0;
	*comma = '\0';
	for (word = strtok_r(comma + 1, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
		for (i = 0; i < sizeof(known) / sizeof(known[0]); i++)
			if (!strcmp(word, known[i]))
				break;
		if (i == sizeof(known) / sizeof(known[0]))
			return err_set(err, -EINVAL,
				       "\"%s\": option \"%s\" is unknown; allowed are server=on and wait=off",
				       text, word);
	}
	return 0;
}

int chardev_parse(struct chardev_config *config, const char *text, struct err *err)
{
	static const struct {
		const char *word;
		enum chardev_type type;
		enum { PATH_NONE, PATH_MAY, PATH_MUST } path;
	} types[] = {
		{ "null", CHARDEV_NULL, PATH_NONE },	{ "none", CHARDEV_NULL, PATH_NONE },
		{ "stdio", CHARDEV_STDIO, PATH_NONE },	{ "pty", CHARDEV_PTY, PATH_MAY },
		{ "file", CHARDEV_FILE, PATH_MUST },	{ "unix", CHARDEV_UNIX, PATH_MUST },
	};
	const char *colon = strchrnul(text, ':');
	const char *path = *colon ? colon + 1 : "";
	size_t i;

	memset(config, 0, sizeof(*config));
	for (i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		if (strlen(types[i].word) == (size_t)(colon - text) &&
		    !memcmp(types[i].word, text, (size_t)(colon - text)))
			break;
	if (i == sizeof(types) / sizeof(types[0]))
		return err_set(err, -EINVAL, "\"%s\" is no character device; %s", text, allowed);
	if (types[i].path == PATH_NONE && *colon)
		return err_set(err, -EINVAL, "\"%s\": %s takes no path; %s", text, types[i].word,
			       allowed);
	if (*colon ? !*path : types[i].path == PATH_MUST)
		return err_set(err, -EINVAL, "\"%s\" lacks its path; %s", text, allowed);
	if (strlen(path) >= sizeof(config->path))
		return err_set(err, -ENAMETOOLONG, "the path of %s is longer than %zu bytes",
			       types[i].word, sizeof(config->path) - 1);
	config->type = types[i].type;
	if (config->type == CHARDEV_FILE)
		return size_parse_limited(config->path, sizeof(config->path), &config->limit, path,
					  err);
	strcpy(config->path, path);
	if (config->type == CHARDEV_PTY && path_option(path))
		return err_set(err, -EINVAL, "\"%s\": option \"%s\" is unknown; %s", text,
			       path_option(path), allowed);
	if (config->type != CHARDEV_UNIX)
		return 0;
	if (parse_unix_options(config->path, text, err) < 0)
		return -EINVAL;
	return *config->path ? 0 :
			       err_set(err, -EINVAL, "\"%s\" lacks its path; %s", text, allowed);
}

void chardev_get(struct chardev *c)
{
	c->refs++;
}

void chardev_put(struct chardev *c)
{
	if (--c->refs)
		return;
	chardev_ring_fini(&c->ring);
	free(c);
}

/* ---- the ring ---- */

void chardev_write(struct chardev *c, const uint8_t *data, size_t len)
{
	if (c->config.type == CHARDEV_NULL)
		return;
	chardev_ring_put(&c->ring, data, len);
	uv_async_send(&c->wake);
}

void chardev_skip(struct chardev *c, uint64_t len)
{
	if (c->config.type == CHARDEV_NULL)
		return;
	chardev_ring_lose(&c->ring, len);
	uv_async_send(&c->wake);
}

uint64_t chardev_dropped(struct chardev *c)
{
	return chardev_ring_dropped(&c->ring);
}

/* ---- streams ---- */

static void stream_lost(struct chardev_stream *s, int error)
{
	struct chardev *c = s->chardev;

	if (c->backend->lost) {
		c->backend->lost(c, s);
		return;
	}
	if (s == c->out && error)
		log_warn("console output ends: %s", strerror(-error));
	chardev_stream_close(s);
}

/* One piece of output to a polled stream. Returns bytes taken, or a negative errno. */
static ssize_t chardev_stream_write(struct chardev_stream *s)
{
	struct chardev *c = s->chardev;
	const uint8_t *data;
	size_t len = chardev_ring_peek(&c->ring, &data);
	ssize_t n;

	if (!len)
		return 0;
	do
		n = write(s->fd, data, len);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	chardev_ring_taken(&c->ring, (size_t)n);
	return n;
}

static void stream_drop(struct chardev_stream *s)
{
	free(s->rotate);
	free(s);
}

/* The request refers to the stream, the stream to the chardev. */
void chardev_stream_done(struct chardev_stream *s)
{
	struct chardev *c = s->chardev;

	s->busy = false;
	if (s->closing) {
		close(s->fd);
		stream_drop(s);
	}
	chardev_put(c);
}

void chardev_output_waits(struct chardev *c, int error)
{
	if (!c->trouble_reported)
		log_warn("console output%s%s waits: %s; of what comes, the newest %zu KiB are kept",
			 *c->config.path ? " to " : "", c->config.path, strerror(-error),
			 CHARDEV_RING_BYTES >> 10);
	c->trouble_reported = true;
	c->stalled = c->rests = true;
	chardev_try_again(c);
}

static void output_failed(struct chardev *c, int error)
{
	bool gone = error == -EPIPE || error == -ECONNRESET;

	if (c->in == c->out && gone) {
		c->out = NULL;	/* what it sent before it went is still to be read; the end of that closes it */
		return;
	}
	if (c->in != c->out && error != -ENOBUFS && error != -ENOMEM) {
		stream_lost(c->out, error);
		return;
	}
	chardev_output_waits(c, error);
}

static void output_move(struct chardev *c)
{
	unsigned int pieces;
	ssize_t n = 1;

	if (!c->out || c->stalled)
		return;
	if (!c->out->polled) {
		chardev_file_write(c->out);
		return;
	}
	/*
	 * Not for ever: others want the loop too. Rather "stalled", and on when
	 * the loop comes round.
	 */
	for (pieces = 0; pieces < 8 && n > 0; pieces++)
		n = chardev_stream_write(c->out);
	if (n >= 0)
		c->trouble_reported = false;
	if (n == -EAGAIN || n > 0)
		c->stalled = true;
	else if (n < 0)
		output_failed(c, (int)n);
}

static void input_offer(struct chardev *c)
{
	size_t taken;

	if (!c->input_len || c->blocked || c->closing)
		return;
	taken = c->ops.input ? c->ops.input(c->ops.arg, c->input, c->input_len) : c->input_len;
	c->blocked = taken < c->input_len;
	c->input_len -= taken;
	memmove(c->input, c->input + taken, c->input_len);
}

static void input_came(struct chardev *c, size_t n)
{
	if (c->backend->filter)
		n = c->backend->filter(c, c->input + c->input_len, n);
	c->input_len += n;
	input_offer(c);
}

static void on_file_read(uv_fs_t *request)
{
	struct chardev_stream *s = request->data;
	struct chardev *c = s->chardev;
	ssize_t n = request->result;

	chardev_get(c);
	uv_fs_req_cleanup(request);
	chardev_stream_done(s);
	if (c->in == s && !c->closing) {
		if (n > 0)
			input_came(c, (size_t)n);
		else
			stream_lost(s, (int)n);
		chardev_update(c);
	}
	chardev_put(c);
}

static void file_read(struct chardev_stream *s)
{
	struct chardev *c = s->chardev;
	uv_buf_t buf;

	/* Not while something waits: a request may write to the buffer's end at any time. */
	if (s->busy || c->input_len || c->closing)
		return;
	buf = uv_buf_init((char *)c->input, sizeof(c->input));
	s->busy = true;
	s->request.data = s;
	chardev_get(c);
	if (uv_fs_read(loop_uv(c->loop), &s->request, s->fd, &buf, 1, -1, on_file_read) < 0)
		chardev_stream_done(s);
}

static void chardev_stream_read(struct chardev_stream *s)
{
	struct chardev *c = s->chardev;
	size_t room = sizeof(c->input) - c->input_len;
	ssize_t n;

	if (!room)
		return;
	do
		n = read(s->fd, c->input + c->input_len, room);
	while (n < 0 && errno == EINTR);
	if (n > 0)
		input_came(c, (size_t)n);
	else if (n == 0 || errno != EAGAIN)
		stream_lost(s, n ? -errno : 0);
}

static void chardev_on_ready(struct chardev_stream *s, int events)
{
	struct chardev *c = s->chardev;

	if (c->in == s && events & UV_READABLE)
		chardev_stream_read(s);
	else if (c->in == s && events & UV_DISCONNECT && c->input_len == sizeof(c->input))
		stream_lost(s, 0);
	if (c->out == s && events & UV_WRITABLE && !c->rests)
		c->stalled = false;
	chardev_update(c);
}

static void chardev_on_poll(uv_poll_t *poll, int status, int events)
{
	struct chardev_stream *s = poll->data;

	/*
	 * An error shows again, with its reason, at the read or write. libuv
	 * has stopped polling for it: that is to begin anew.
	 */
	if (status < 0) {
		events = s->events;
		s->events = 0;
	}
	s->ready(s, events);
}

void chardev_stream_poll(struct chardev_stream *s, int events)
{
	if (!s->polled || s->events == events)
		return;
	s->events = events;
	if (events)
		uv_poll_start(&s->poll, events, chardev_on_poll);
	else
		uv_poll_stop(&s->poll);
}

void chardev_update(struct chardev *c)
{
	int in = 0, out;

	if (c->closing)
		return;
	output_move(c);
	if (!c->drop_reported && chardev_dropped(c)) {
		c->drop_reported = true;
		log_warn("console output is lost: nobody takes it; of what comes, the newest "
			 "%zu KiB are kept", CHARDEV_RING_BYTES >> 10);
	}
	if (c->in && !c->in->polled)
		file_read(c->in);
	/* While the buffer is full only the far side's going matters, so that another may come. */
	if (c->in)
		in = c->input_len < sizeof(c->input) ? UV_READABLE : UV_DISCONNECT;
	out = c->stalled && !c->rests ? UV_WRITABLE : 0;
	if (c->in && c->in == c->out) {
		chardev_stream_poll(c->in, in | out);
		return;
	}
	if (c->in)
		chardev_stream_poll(c->in, in);
	if (c->out)
		chardev_stream_poll(c->out, out);
}

static void on_stream_closed(uv_handle_t *handle)
{
	struct chardev_stream *s = handle->data;
	struct chardev *c = s->chardev;

	stream_drop(s);
	chardev_put(c);
}

int chardev_stream_new(struct chardev_stream **out, struct chardev *c, int fd,
		       void (*ready)(struct chardev_stream *stream, int events), struct err *err)
{
	struct chardev_stream *s = calloc(1, sizeof(*s));
	int r;

	if (!s) {
		close(fd);
		return err_set(err, -ENOMEM, "no memory for a stream");
	}
	s->chardev = c;
	s->fd = fd;
	s->restore_flags = -1;
	s->ready = ready ? ready : chardev_on_ready;
	r = uv_poll_init(loop_uv(c->loop), &s->poll, fd);
	if (r < 0 && r != -EPERM) {
		close(fd);
		free(s);
		return err_errno(err, r, "event loop");
	}
	s->polled = r == 0;
	s->poll.data = s;
	if (s->polled)
		chardev_get(c);
	*out = s;
	return 0;
}

void chardev_stream_close(struct chardev_stream *s)
{
	struct chardev *c = s->chardev;

	if (c->in == s)
		c->in = NULL;
	if (c->out == s) {
		c->out = NULL;
		c->stalled = c->rests = false;
	}
	if (c->listener == s)
		c->listener = NULL;
	s->closing = true;
	if (s->busy)
		return;
	if (s->restore_flags >= 0)
		fcntl(s->fd, F_SETFL, s->restore_flags);
	if (s->polled)
		uv_close((uv_handle_t *)&s->poll, on_stream_closed);
	close(s->fd);
	if (!s->polled)
		stream_drop(s);
}

/* ---- life ---- */

static void chardev_on_wake(uv_async_t *wake)
{
	struct chardev *c = wake->data;

	if (atomic_exchange(&c->accept, false)) {
		c->blocked = false;
		input_offer(c);
	}
	chardev_update(c);
}

void chardev_accept_input(struct chardev *c)
{
	atomic_store(&c->accept, true);
	uv_async_send(&c->wake);
}

static void chardev_on_again(uv_timer_t *timer)
{
	struct chardev *c = timer->data;

	if (c->rests)
		c->stalled = c->rests = false;
	if (c->backend->again)
		c->backend->again(c);
	chardev_update(c);
}

void chardev_try_again(struct chardev *c)
{
	if (!c->closing)
		uv_timer_start(&c->again, chardev_on_again, AGAIN_MS, 0);
}

void chardev_path_made(struct chardev *c)
{
	c->made_path = lstat(c->config.path, &c->made) == 0;
}

void chardev_path_remove(struct chardev *c)
{
	if (c->made_path)
		path_remove(c->config.path, &c->made);
	c->made_path = false;
}

static int null_open(struct chardev *c, struct err *err)
{
	(void)c;
	(void)err;
	return 0;
}

static const struct chardev_backend null_backend = { .open = null_open };

static void on_handle_closed(uv_handle_t *handle)
{
	chardev_put(handle->data);
}

int chardev_new(struct chardev **out, struct loop *loop, const struct chardev_config *config,
		const struct chardev_ops *ops, struct err *err)
{
	static const struct chardev_backend *const backends[] = {
		[CHARDEV_NULL] = &null_backend,		[CHARDEV_STDIO] = &chardev_stdio_backend,
		[CHARDEV_PTY] = &chardev_pty_backend,	[CHARDEV_FILE] = &chardev_file_backend,
		[CHARDEV_UNIX] = &chardev_unix_backend,
	};
	struct chardev *c = calloc(1, sizeof(*c));
	int r;

	if (!c || chardev_ring_init(&c->ring) < 0) {
		free(c);
		return err_set(err, -ENOMEM, "no memory for a character device");
	}
	c->loop = loop;
	c->ops = *ops;
	c->config = *config;
	c->backend = backends[config->type];
	c->slave = c->listening.fd = -1;
	c->refs = 1;
	r = uv_async_init(loop_uv(loop), &c->wake, chardev_on_wake);
	if (r < 0) {
		chardev_put(c);
		return err_errno(err, r, "event loop");
	}
	c->wake.data = c;
	chardev_get(c);
	uv_timer_init(loop_uv(loop), &c->again);
	c->again.data = c;
	chardev_get(c);
	r = c->backend->open(c, err);
	if (r < 0) {
		chardev_free(c);
		return r;
	}
	chardev_update(c);
	*out = c;
	return 0;
}

/* What a polled stream takes within FLUSH_NS. */
static void chardev_flush(struct chardev *c)
{
	int64_t until = clock_now_ns() + FLUSH_NS, left;
	struct pollfd pfd = { .fd = c->out->fd, .events = POLLOUT };
	ssize_t n;

	for (;;) {
		n = chardev_stream_write(c->out);
		left = (until - clock_now_ns()) / NS_PER_MS;
		if (n == 0 || (n < 0 && n != -EAGAIN) || left <= 0)
			return;
		if (n < 0)
			poll(&pfd, 1, (int)left);
	}
}

void chardev_free(struct chardev *c)
{
	if (!c)
		return;
	if (c->out && c->out->polled)
		chardev_flush(c);
	else if (c->out)
		chardev_file_write(c->out);
	c->closing = true;
	if (c->backend->close)
		c->backend->close(c);
	if (c->in)
		chardev_stream_close(c->in);
	/* A file is closed by chardev_file.c, when everything is in it. */
	if (c->out && (c->out->polled || !c->out->busy))
		chardev_stream_close(c->out);
	if (chardev_dropped(c))
		log_warn("%" PRIu64 " bytes of console output were lost", chardev_dropped(c));
	uv_close((uv_handle_t *)&c->wake, on_handle_closed);
	uv_close((uv_handle_t *)&c->again, on_handle_closed);
	chardev_put(c);
}
