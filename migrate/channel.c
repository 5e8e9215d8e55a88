// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * A callback may close the channel while its frames are being delivered: it is marked closed and freed only by libuv's
 * close callback, so that the delivering function can still look at it.
 *
 * The input buffer grows with what has really come, not with what a header promises.
 *
 * A peer may send frames faster than they are carried out: frames of one turn of the loop (base/loop.h) are delivered, the rest of the
 * input is looked at in the next, and nothing is read until then.
 */
#include "migrate/channel.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/buf.h"
#include "migrate/socket.h"

#define READ_BYTES ((size_t)256 << 10)
#define QUEUE_MAX ((size_t)256 << 20)

struct channel {
	uv_poll_t poll;
	uv_idle_t more;		/* active: the input has frames that are to be delivered in the next turn */
	unsigned int handles;	/* of these two, those that the loop has */
	int fd;
	const struct channel_ops *ops;
	void *arg;
	bool closed;
	bool delivering;	/* inside channel_read: not to be entered twice */
	struct buf in;
	struct buf out;		/* bytes from out_done on wait for the socket */
	size_t out_done;
	uint64_t taken;		/* bytes that the socket has taken */
	struct err failed;	/* of a send, to be reported from the loop */
};

static void channel_fail(struct channel *channel, const struct err *err)
{
	if (channel->closed)
		return;
	uv_poll_stop(&channel->poll);
	uv_idle_stop(&channel->more);
	channel->ops->lost(channel->arg, err);
}

/* ---- receiving ---- */

/*
 * Delivers the whole frames of the input. 1: the turn is over and there may be more, 0: all delivered, or -EBADMSG; closed may be set
 * by the callbacks.
 */
static int channel_deliver(struct channel *channel, int64_t until_ns, struct err *err)
{
	size_t at = 0;
	int r = 0;

	while (!channel->closed && !r && channel->in.len - at >= FRAME_BYTES) {
		struct frame frame;

		r = frame_decode(&frame, channel->in.data + at, err);
		if (r < 0)
			return r;
		if (channel->in.len - at - FRAME_BYTES < frame.payload_bytes)
			break;
		channel->ops->frame(channel->arg, &frame, channel->in.data + at + FRAME_BYTES);
		at += FRAME_BYTES + frame.payload_bytes;
		r = clock_now_ns() >= until_ns;
	}
	buf_consume(&channel->in, at);
	return r;
}

/* One read. 1: there may be more, 0: nothing there, or why the connection is no more. */
static int channel_receive(struct channel *channel, struct err *err)
{
	uint8_t *to = buf_reserve(&channel->in, READ_BYTES);
	ssize_t got;

	if (!to)
		return err_set(err, -ENOMEM, "no memory to receive a message");
	do
		got = recv(channel->fd, to, READ_BYTES, MSG_DONTWAIT);
	while (got < 0 && errno == EINTR);
	if (got < 0)
		return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : err_errno(err, -errno, "receive");
	if (!got)
		return err_set(err, -EPIPE, channel->in.len ?
			       "the peer closed the connection in the middle of a frame" :
			       "the peer closed the connection");
	channel->in.len += (size_t)got;
	return 1;
}

static void channel_on_more(uv_idle_t *more);

static void channel_read(struct channel *channel)
{
	int64_t until = loop_turn_end();
	struct err err = { 0 };
	int r;

	if (channel->delivering)
		return;
	channel->delivering = true;
	/* What is left of the turn before comes first. */
	r = channel_deliver(channel, until, &err);
	while (!r && !channel->closed) {
		r = channel_receive(channel, &err);
		if (r <= 0)
			break;
		r = channel_deliver(channel, until, &err);
		if (!r && clock_now_ns() >= until)
			break;
	}
	channel->delivering = false;
	if (channel->closed)
		return;
	if (r > 0)
		uv_idle_start(&channel->more, channel_on_more);
	else
		uv_idle_stop(&channel->more);
	if (r < 0)
		channel_fail(channel, channel->failed.code ? &channel->failed : &err);
}

static void channel_on_more(uv_idle_t *more)
{
	channel_read(more->data);
}

void channel_drain(struct channel *channel)
{
	channel_read(channel);
}

/* ---- sending ---- */

static void channel_on_event(uv_poll_t *poll, int status, int events);

static void channel_watch(struct channel *channel)
{
	int events = UV_READABLE;

	if (channel->out.len > channel->out_done || channel->failed.code)
		events |= UV_WRITABLE;
	uv_poll_start(&channel->poll, events, channel_on_event);
}

static void channel_flush(struct channel *channel)
{
	while (channel->out.len > channel->out_done && !channel->failed.code) {
		ssize_t sent = send(channel->fd, channel->out.data + channel->out_done,
				    channel->out.len - channel->out_done, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (sent < 0) {
			if (errno == EINTR)
				continue;
			if (errno != EAGAIN && errno != EWOULDBLOCK)
				err_errno(&channel->failed, -errno, "send");
			break;
		}
		channel->out_done += (size_t)sent;
		channel->taken += (size_t)sent;
	}
	/* Only now and then: moving the rest costs. */
	if (channel->out_done == channel->out.len || channel->out_done > channel->out.len / 2) {
		buf_consume(&channel->out, channel->out_done);
		channel->out_done = 0;
	}
	channel_watch(channel);
}

static void channel_write(struct channel *channel)
{
	bool waits = channel_queued(channel);

	channel_flush(channel);
	if (waits && !channel_queued(channel) && !channel->failed.code && channel->ops->drained)
		channel->ops->drained(channel->arg);
}

static void channel_on_event(uv_poll_t *poll, int status, int events)
{
	struct channel *channel = poll->data;

	/* An error, or a hang-up: what came before it is still there to be read, and reading finds out why. */
	if (status < 0)
		events = UV_READABLE;
	if (events & UV_READABLE && !uv_is_active((uv_handle_t *)&channel->more))
		channel_read(channel);
	if (channel->closed)
		return;
	if (channel->failed.code)
		channel_fail(channel, &channel->failed);
	else if (status < 0)
		/* libuv has stopped watching; look again, the read has either failed by now or will. */
		channel_watch(channel);
	else if (events & UV_WRITABLE)
		channel_write(channel);
}

/* Room for a frame of `len` bytes, or NULL: the failure will be reported. */
static uint8_t *channel_reserve(struct channel *channel, size_t len)
{
	uint8_t *to = NULL;

	if (channel->closed || channel->failed.code)
		return NULL;
	if (channel->out.len - channel->out_done + len > QUEUE_MAX)
		err_set(&channel->failed, -ENOBUFS, "the peer does not take what it is sent");
	else if (!(to = buf_reserve(&channel->out, len)))
		err_set(&channel->failed, -ENOMEM, "no memory for a message");
	if (!to)
		channel_watch(channel);
	return to;
}

void channel_send_message(struct channel *channel, const void *data, size_t len)
{
	uint8_t *to = channel_reserve(channel, FRAME_BYTES + len);

	if (!to)
		return;
	if (frame_encode_message(to, data, len) < 0) {
		err_set(&channel->failed, -EMSGSIZE, "a message of %zu bytes is too large", len);
		channel_watch(channel);
		return;
	}
	memcpy(to + FRAME_BYTES, data, len);
	channel->out.len += FRAME_BYTES + len;
	channel_flush(channel);
}

void channel_send_pages(struct channel *channel, gfn_t first, uint32_t n, const uint8_t *pages)
{
	size_t head = FRAME_BYTES + FRAME_SUMS_BYTES(n);
	uint8_t *to = channel_reserve(channel, head + n * PAGE_BYTES);

	if (!to)
		return;
	/* Copy first: what is summed is then what is sent. */
	memcpy(to + head, pages, n * PAGE_BYTES);
	frame_encode_pages(to, first, n, to + head);
	channel->out.len += head + n * PAGE_BYTES;
	channel_flush(channel);
}

void channel_send_zero(struct channel *channel, gfn_t first, uint32_t n)
{
	struct frame frame = { .type = FRAME_ZERO, .count = n, .gfn = first };
	uint8_t *to = channel_reserve(channel, FRAME_BYTES);

	if (!to)
		return;
	frame_encode(&frame, to);
	channel->out.len += FRAME_BYTES;
	channel_flush(channel);
}

size_t channel_queued(const struct channel *channel)
{
	return channel->out.len - channel->out_done;
}

uint64_t channel_taken(const struct channel *channel)
{
	return channel->taken;
}

/* ---- life ---- */

int channel_new(struct channel **out, struct loop *loop, int fd, const struct channel_ops *ops, void *arg,
		struct err *err)
{
	struct channel *channel = calloc(1, sizeof(*channel));
	int r;

	if (!channel)
		return err_set(err, -ENOMEM, "no memory for a connection");
	r = socket_set_blocking(fd, false);
	if (!r)
		r = uv_poll_init(loop_uv(loop), &channel->poll, fd);
	if (r < 0) {
		free(channel);
		return err_errno(err, r, "control connection");
	}
	uv_idle_init(loop_uv(loop), &channel->more);
	channel->poll.data = channel->more.data = channel;
	channel->handles = 2;
	channel->fd = fd;
	channel->ops = ops;
	channel->arg = arg;
	channel_watch(channel);
	*out = channel;
	return 0;
}

static void channel_on_closed(uv_handle_t *handle)
{
	struct channel *channel = handle->data;

	if (--channel->handles)
		return;
	buf_fini(&channel->in);
	buf_fini(&channel->out);
	free(channel);
}

void channel_close(struct channel *channel)
{
	if (channel->closed)
		return;
	channel->closed = true;
	uv_poll_stop(&channel->poll);
	uv_close((uv_handle_t *)&channel->poll, channel_on_closed);
	uv_close((uv_handle_t *)&channel->more, channel_on_closed);
}
