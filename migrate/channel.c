// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * A callback may close the channel while its frames are being delivered: it is
 * marked closed and freed only when its watch has ended, so that the delivering
 * function can still look at it.
 *
 * The input buffer grows with what has really come, not with what a header
 * promises.
 *
 * A peer may send frames faster than they are carried out: frames of one turn
 * of the loop (base/loop.h) are delivered, the rest of the input is looked at
 * in the next, and nothing is read until then.
 */
#include "migrate/channel.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/conn_watch.h"

#define READ_BYTES ((size_t)256 << 10)
#define QUEUE_MAX ((size_t)256 << 20)

struct channel {
	struct conn *conn;
	struct conn_watch *watch;
	bool over; /* the failure was told: nothing is looked at any more */
	const struct channel_ops *ops;
	void *arg;
	bool closed;
	bool delivering;	/* inside channel_read: not to be entered twice */
	struct buf in;
	struct buf out; /* bytes from out_done on wait for the connection */
	size_t out_done;
	uint64_t taken; /* bytes that the connection has taken */
	struct err failed;	/* of a send, to be reported from the loop */
};

static void channel_fail(struct channel *channel, const struct err *err)
{
	if (channel->closed)
		return;
	channel->over = true;
	conn_watch_set(channel->watch, 0);
	channel->ops->lost(channel->arg, err);
}

/* ---- receiving ---- */

/*
 * Delivers the whole frames of the input. 1: the turn is over and there may be
 * more, 0: all delivered, or -EBADMSG; closed may be set by the callbacks.
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
	got = conn_receive(channel->conn, to, READ_BYTES, CONN_NOWAIT, err);
	if (got < 0)
		return got == -EAGAIN ? 0 : (int)got;
	if (!got)
		return err_set(err, -EPIPE, channel->in.len ?
			       "the peer closed the connection in the middle of a frame" :
			       "the peer closed the connection");
	channel->in.len += (size_t)got;
	return 1;
}

static void channel_read(struct channel *channel)
{
	int64_t until = loop_turn_end();
	struct err err = { 0 };
	int r;

	if (channel->delivering || channel->over)
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
		conn_watch_again(channel->watch);
	if (r < 0)
		channel_fail(channel, channel->failed.code ? &channel->failed : &err);
}

void channel_drain(struct channel *channel)
{
	channel_read(channel);
}

/* ---- sending ---- */

static void channel_watch(struct channel *channel)
{
	unsigned int wanted = CONN_RECEIVE;

	if (channel->out.len > channel->out_done)
		wanted |= CONN_SEND;
	conn_watch_set(channel->watch, channel->over ? 0 : wanted);
	/* To be told from the loop, whatever poll would say of such a connection. */
	if (channel->failed.code)
		conn_watch_again(channel->watch);
}

static void channel_flush(struct channel *channel)
{
	while (channel->out.len > channel->out_done && !channel->failed.code) {
		struct iovec iov = { channel->out.data + channel->out_done,
				     channel->out.len - channel->out_done };
		ssize_t sent = conn_send(channel->conn, &iov, 1, CONN_NOWAIT, &channel->failed);

		/* Whatever it is, it is in `failed`. */
		if (sent < 0)
			break;
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

static void channel_on_ready(void *arg, unsigned int ready)
{
	struct channel *channel = arg;

	/*
	 * An error, or a hang-up: what came before it is still there to be
	 * read, and reading finds out why.
	 */
	if (ready & (CONN_RECEIVE | CONN_HANGUP))
		channel_read(channel);
	if (channel->closed)
		return;
	if (channel->failed.code)
		channel_fail(channel, &channel->failed);
	else if (ready & CONN_SEND)
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

int channel_new(struct channel **out, struct loop *loop, struct conn *conn,
		const struct channel_ops *ops, void *arg, struct err *err)
{
	struct channel *channel = calloc(1, sizeof(*channel));
	int r;

	if (!channel)
		return err_set(err, -ENOMEM, "no memory for a connection");
	r = conn_watch_new(&channel->watch, loop, conn, channel_on_ready, channel, err);
	if (r < 0) {
		free(channel);
		err_prefix(err, r, "control connection");
		return r;
	}
	channel->conn = conn;
	channel->ops = ops;
	channel->arg = arg;
	channel_watch(channel);
	*out = channel;
	return 0;
}

static void channel_on_closed(void *arg)
{
	struct channel *channel = arg;

	buf_fini(&channel->in);
	buf_fini(&channel->out);
	free(channel);
}

void channel_close(struct channel *channel)
{
	if (channel->closed)
		return;
	channel->closed = true;
	conn_watch_free(channel->watch, channel_on_closed);
}
