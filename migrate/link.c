// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Life. Each side sends a Ping every fifth of its own timeout, and answers a
 * Ping with a Pong, so that each hears something at the pace that it needs
 * itself. Anything received on any connection counts. A main thread that was
 * itself held up must not blame the peer for it: when the timer comes late, the
 * peer gets that time on top.
 *
 * Threads report a failure through loop_post, with a reference: the report may
 * still be queued when the link has long been cut. Before it is believed, what
 * the control connection holds is delivered: a peer that ends in good order
 * says so there, and its word is better than "connection reset".
 */
#include "migrate/link.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/loop.h"
#include "migrate/channel.h"

#define PINGS_PER_TIMEOUT 5

struct link {
	_Atomic unsigned int refs;
	struct loop *loop;
	struct conn *conn[WIRE_CHANNELS];
	struct channel *channel;
	uv_timer_t *tick;
	unsigned int timeout_ms;
	int64_t ticked_ns;
	_Atomic int64_t heard_ns;
	const struct link_ops *ops;
	void *arg;
	uint64_t said;		/* where, in the bytes sent on control, the last message ends that is to be answered */
	bool cut;
	bool lost;		/* told the owner */
};

static void link_put(struct link *link)
{
	if (atomic_fetch_sub(&link->refs, 1) == 1)
		free(link);
}

/* The owner may free the link meanwhile: the caller holds a reference. */
static void link_lost(struct link *link, const struct err *err)
{
	if (link->cut || link->lost)
		return;
	link->lost = true;
	link->ops->lost(link->arg, err);
}

/* ---- the control connection ---- */

static void link_on_abort(struct link *link, const Postern__Wire__Abort *abort_message)
{
	char text[PEER_TEXT_BYTES];
	struct err err;

	err_set(&err, -ECONNABORTED, "the peer ended it: %s",
		message_peer_text(text, abort_message->reason));
	link_lost(link, &err);
}

/*
 * Source and destination take turns: each message that is neither heartbeat nor
 * Abort answers the last one that was sent, and cannot be more than a guess
 * while part of that has not left.
 */
static void link_deliver(struct link *link, wire_message *message)
{
	struct err err;

	if (channel_taken(link->channel) >= link->said) {
		link->ops->message(link->arg, message);
		return;
	}
	err_set(&err, -EBADMSG,
		"control connection: a %s message that came before what it answers was sent",
		message_name(message->body_case));
	link_lost(link, &err);
}

static void link_on_message(struct link *link, const struct frame *frame, const uint8_t *payload)
{
	Postern__Wire__Pong pong = POSTERN__WIRE__PONG__INIT;
	wire_message *message;
	struct err err;

	if (frame_check_message(frame, payload, &err) < 0) {
		err_prefix(&err, err.code, "control connection");
		link_lost(link, &err);
		return;
	}
	message = message_unpack(payload, frame->payload_bytes, &err);
	if (!message) {
		err_prefix(&err, err.code,
			   "control connection: a message of %u bytes that cannot be read",
			   frame->payload_bytes);
		link_lost(link, &err);
		return;
	}
	switch (message->body_case) {
	case WIRE(PING):
		/* While something waits to be sent, that something is the answer. */
		if (!channel_queued(link->channel))
			link_send(link, WIRE(PONG), &pong);
		break;
	case WIRE(PONG):
		break;
	case WIRE(ABORT):
		link_on_abort(link, message->abort);
		break;
	case WIRE(_NOT_SET):
		log_debug("migration: skipped a message that this version does not know");
		break;
	default:
		link_deliver(link, message);
	}
	message_free(message);
}

static void link_on_frame(void *arg, const struct frame *frame, const uint8_t *payload)
{
	struct link *link = arg;
	struct err err;

	atomic_fetch_add(&link->refs, 1);
	/* Only a time stamp: it orders nothing. */
	atomic_store_explicit(&link->heard_ns, clock_now_ns(), memory_order_relaxed);
	if (link->cut || link->lost) {
		/* Nothing more is delivered. */
	} else if (frame->type == FRAME_MESSAGE) {
		link_on_message(link, frame, payload);
	} else if (frame->type == FRAME_PAGES || frame->type == FRAME_ZERO) {
		link->ops->pages(link->arg, frame, payload);
	} else {
		err_set(&err, -EBADMSG, "control connection: %s frame, which does not belong there",
			frame_type_name(frame->type));
		link_lost(link, &err);
	}
	link_put(link);
}

static void link_on_channel_lost(void *arg, const struct err *why)
{
	struct link *link = arg;
	struct err err = *why;

	err_prefix(&err, err.code, "control connection");
	atomic_fetch_add(&link->refs, 1);
	link_lost(link, &err);
	link_put(link);
}

static void link_on_channel_drained(void *arg)
{
	struct link *link = arg;

	atomic_fetch_add(&link->refs, 1);
	if (!link->cut && !link->lost && link->ops->drained)
		link->ops->drained(link->arg);
	link_put(link);
}

static const struct channel_ops channel_ops = {
	.frame = link_on_frame,
	.lost = link_on_channel_lost,
	.drained = link_on_channel_drained,
};

void link_send(struct link *link, wire_body body, const void *content)
{
	struct buf buf = { 0 };
	struct err err;

	if (link->cut)
		return;
	if (message_pack(&buf, body, content) < 0) {
		err_set(&err, -ENOMEM, "no memory for a message");
		link_fail(link, &err);
	} else {
		channel_send_message(link->channel, buf.data, buf.len);
		/* BootData is not answered, but for the first that is wrong, at once. */
		if (body != WIRE(PING) && body != WIRE(PONG) && body != WIRE(BOOT_DATA))
			link->said = channel_taken(link->channel) + channel_queued(link->channel);
	}
	buf_fini(&buf);
}

void link_send_pages(struct link *link, gfn_t first, uint32_t n, const uint8_t *pages)
{
	if (!link->cut)
		channel_send_pages(link->channel, first, n, pages);
}

void link_send_zero(struct link *link, gfn_t first, uint32_t n)
{
	if (!link->cut)
		channel_send_zero(link->channel, first, n);
}

size_t link_queued(const struct link *link)
{
	return link->cut ? 0 : channel_queued(link->channel);
}

uint64_t link_unsent(const struct link *link)
{
	uint64_t bytes = link_queued(link);
	int i;

	for (i = 0; i < WIRE_CHANNELS && !link->cut; i++)
		bytes += conn_unsent(link->conn[i]);
	return bytes;
}

/* ---- failures reported by threads ---- */

struct link_report {
	struct link *link;
	struct err err;
};

static void link_on_report(void *arg)
{
	struct link_report *report = arg;
	struct link *link = report->link;

	if (!link->cut && !link->lost)
		channel_drain(link->channel);
	link_lost(link, &report->err);
	link_put(link);
	free(report);
}

void link_fail(struct link *link, const struct err *err)
{
	struct link_report *report = malloc(sizeof(*report));

	if (!report)
		abort();	/* as loop_post does */
	atomic_fetch_add(&link->refs, 1);
	*report = (struct link_report){ .link = link, .err = *err };
	loop_post(link->loop, link_on_report, report);
}

static void link_on_thread_lost(void *arg, const struct err *err)
{
	link_fail(arg, err);
}

/* ---- life ---- */

static int64_t tick_ns(const struct link *link)
{
	return (int64_t)link->timeout_ms * NS_PER_MS / PINGS_PER_TIMEOUT;
}

static void link_on_tick(uv_timer_t *timer)
{
	Postern__Wire__Ping ping = POSTERN__WIRE__PING__INIT;
	struct link *link = timer->data;
	int64_t now = clock_now_ns(), late = now - link->ticked_ns - tick_ns(link), silent;
	struct err err;

	link->ticked_ns = now;
	if (late > tick_ns(link))
		atomic_fetch_add_explicit(&link->heard_ns, late, memory_order_relaxed);
	silent = now - atomic_load_explicit(&link->heard_ns, memory_order_relaxed);
	if (silent >= (int64_t)link->timeout_ms * NS_PER_MS) {
		err_set(&err, -ETIMEDOUT, "nothing heard from the peer for %" PRId64 " ms",
			silent / NS_PER_MS);
		atomic_fetch_add(&link->refs, 1);
		link_lost(link, &err);
		link_put(link);
		return;
	}
	if (!channel_queued(link->channel))
		link_send(link, WIRE(PING), &ping);
}

void link_set_timeout(struct link *link, unsigned int timeout_ms)
{
	uint64_t ms = timeout_ms / PINGS_PER_TIMEOUT;

	link->timeout_ms = timeout_ms;
	link->ticked_ns = clock_now_ns();
	/*
	 * Up to now the peer was asked at the old pace, and may have been
	 * silent for longer than the new one allows.
	 */
	atomic_store_explicit(&link->heard_ns, link->ticked_ns, memory_order_relaxed);
	if (!link->cut)
		uv_timer_start(link->tick, link_on_tick, ms, ms);
}

static void free_conns(struct conn *const conn[WIRE_CHANNELS])
{
	unsigned int i;

	for (i = 0; i < WIRE_CHANNELS; i++)
		conn_free(conn[i]);
}

int link_new(struct link **out, struct loop *loop, struct conn *const conn[WIRE_CHANNELS],
	     unsigned int timeout_ms, const struct link_ops *ops, void *arg, struct err *err)
{
	struct link *link = calloc(1, sizeof(*link));
	int r = -ENOMEM;

	if (!link)
		goto err_conns;
	link->tick = calloc(1, sizeof(*link->tick));
	if (!link->tick)
		goto err_link;
	link->refs = 1;
	link->loop = loop;
	link->ops = ops;
	link->arg = arg;
	link->heard_ns = clock_now_ns();
	memcpy(link->conn, conn, sizeof(link->conn));
	r = channel_new(&link->channel, loop, conn[WIRE_CONTROL], &channel_ops, link, err);
	if (r < 0)
		goto err_tick;
	uv_timer_init(loop_uv(loop), link->tick);
	link->tick->data = link;
	link_set_timeout(link, timeout_ms);
	*out = link;
	return 0;

err_tick:
	free(link->tick);
err_link:
	free(link);
err_conns:
	free_conns(conn);
	return r == -ENOMEM ? err_set(err, r, "no memory for the migration's connections") : r;
}

void link_cut(struct link *link, const char *reason)
{
	Postern__Wire__Abort message = POSTERN__WIRE__ABORT__INIT;
	int i;

	if (link->cut)
		return;
	if (reason) {
		message.reason = (char *)(uintptr_t)reason;
		link_send(link, WIRE(ABORT), &message);
	}
	link->cut = true;
	channel_close(link->channel);
	uv_timer_stop(link->tick);
	loop_close((uv_handle_t *)link->tick, link->tick);
	for (i = 0; i < WIRE_CHANNELS; i++)
		conn_shutdown(link->conn[i]);
}

void link_free(struct link *link)
{
	if (!link)
		return;
	link_cut(link, NULL);
	free_conns(link->conn);
	link_put(link);
}

void link_pair(struct link *link, struct stream_pair *pair)
{
	*pair = (struct stream_pair){
		.urgent = link->conn[WIRE_URGENT],
		.bulk = link->conn[WIRE_BULK],
		.heard_ns = &link->heard_ns,
		.lost = link_on_thread_lost,
		.arg = link,
	};
}
