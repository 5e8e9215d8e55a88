// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * The poll handle waits for what the connection says. The idle handle is active
 * while there is something to receive that no poll shows, and then all receiving
 * is told by it alone, once a turn.
 */
#include "base/conn_watch.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>

struct conn_watch {
	uv_poll_t poll;
	uv_idle_t idle;
	unsigned int handles; /* of these two, those that the loop has */
	struct conn *conn;
	unsigned int wanted;
	int events; /* what poll is started for, of libuv's */
	int send_events, receive_events, hangup_events;
	bool again; /* asked for by the owner */
	bool freed;
	conn_ready_fn ready;
	void (*closed)(void *arg);
	void *arg;
};

static int events_for(struct conn_watch *watch, unsigned int wanted)
{
	short events = wanted ? conn_events(watch->conn, wanted) : 0;

	return (events & POLLIN ? UV_READABLE : 0) | (events & POLLOUT ? UV_WRITABLE : 0) |
	       (events & POLLRDHUP ? UV_DISCONNECT : 0);
}

static void conn_watch_on_poll(uv_poll_t *poll, int status, int events);
static void on_idle(uv_idle_t *idle);

/* After anything that may have changed what is to be waited for. */
static void watch_arm(struct conn_watch *watch)
{
	int events;

	watch->send_events = events_for(watch, watch->wanted & CONN_SEND);
	watch->receive_events = events_for(watch, watch->wanted & CONN_RECEIVE);
	watch->hangup_events = events_for(watch, watch->wanted & CONN_HANGUP);
	/* The last, which counts. */
	events = events_for(watch, watch->wanted);
	if (events && events != watch->events)
		uv_poll_start(&watch->poll, events, conn_watch_on_poll);
	else if (!events && watch->events)
		uv_poll_stop(&watch->poll);
	watch->events = events;
	if (watch->wanted & CONN_RECEIVE && (watch->again || conn_pending(watch->conn)))
		uv_idle_start(&watch->idle, on_idle);
	else
		uv_idle_stop(&watch->idle);
}

static void watch_call(struct conn_watch *watch, unsigned int ready)
{
	if (ready & CONN_RECEIVE)
		watch->again = false;
	watch->ready(watch->arg, ready);
	if (!watch->freed)
		watch_arm(watch);
}

static void conn_watch_on_poll(uv_poll_t *poll, int status, int events)
{
	struct conn_watch *watch = poll->data;
	unsigned int ready = 0;

	if (status < 0) {
		/* libuv has stopped watching. */
		watch->events = 0;
		ready = watch->wanted | CONN_HANGUP;
	}
	if (events & watch->send_events)
		ready |= CONN_SEND;
	if (events & watch->receive_events)
		ready |= CONN_RECEIVE;
	if (events & watch->hangup_events)
		ready |= CONN_HANGUP;
	if (uv_is_active((uv_handle_t *)&watch->idle))
		ready &= ~CONN_RECEIVE;
	if (ready)
		watch_call(watch, ready);
}

static void on_idle(uv_idle_t *idle)
{
	watch_call(idle->data, CONN_RECEIVE);
}

int conn_watch_new(struct conn_watch **out, struct loop *loop, struct conn *conn,
		   conn_ready_fn ready, void *arg, struct err *err)
{
	struct conn_watch *watch = calloc(1, sizeof(*watch));
	int r = watch ? uv_poll_init(loop_uv(loop), &watch->poll, conn_fd(conn)) : -ENOMEM;

	if (r < 0) {
		free(watch);
		return err_errno(err, r, "watching a connection");
	}
	uv_idle_init(loop_uv(loop), &watch->idle);
	watch->poll.data = watch->idle.data = watch;
	watch->handles = 2;
	watch->conn = conn;
	watch->ready = ready;
	watch->arg = arg;
	*out = watch;
	return 0;
}

void conn_watch_set(struct conn_watch *watch, unsigned int wanted)
{
	watch->wanted = wanted;
	watch_arm(watch);
}

void conn_watch_again(struct conn_watch *watch)
{
	watch->again = true;
	watch_arm(watch);
}

static void conn_watch_on_closed(uv_handle_t *handle)
{
	struct conn_watch *watch = handle->data;

	if (--watch->handles)
		return;
	if (watch->closed)
		watch->closed(watch->arg);
	free(watch);
}

void conn_watch_free(struct conn_watch *watch, void (*closed)(void *arg))
{
	if (!watch)
		return;
	watch->freed = true;
	watch->closed = closed;
	uv_close((uv_handle_t *)&watch->poll, conn_watch_on_closed);
	uv_close((uv_handle_t *)&watch->idle, conn_watch_on_closed);
}
