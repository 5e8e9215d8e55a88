// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * All addresses of the name are tried for the first connection (base/dial.h);
 * the other two go where the first succeeded. A timer starts it all, so that
 * callbacks come from the loop only, and then bounds it.
 */
#include "migrate/connect.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/dial.h"
#include "base/loop.h"
#include "migrate/greeting.h"
#include "migrate/socket.h"

/* How often it is tried anew to be let in. */
#define AGAIN_MAX 4u

struct connector {
	struct loop *loop;
	const struct connector_ops *ops;
	void *arg;
	struct uri uri;
	struct preface preface;
	struct migration_trust trust;
	unsigned int timeout_ms;
	int64_t end_ns;
	uv_timer_t *timer;
	struct dial *dial; /* of conn[nconn], while connecting */
	uv_poll_t *poll;	/* of dial */
	struct sockaddr_storage at;	/* where the first got to */
	socklen_t at_len;
	struct conn *conn[WIRE_CHANNELS];
	unsigned int nconn; /* connected */
	struct greeting *greeting;	/* once all are connected */
	unsigned int again;		/* tried anew */
};

static void connector_next(struct connector *connector);

static void connector_fail(struct connector *connector, const struct err *err)
{
	connector->ops->failed(connector->arg, err);
}

static void connector_dial_end(struct connector *connector)
{
	if (connector->poll) {
		uv_poll_stop(connector->poll);
		loop_close((uv_handle_t *)connector->poll, connector->poll);
	}
	connector->poll = NULL;
	dial_free(connector->dial);
	connector->dial = NULL;
}

/* ---- connected ---- */

static void on_let_in(void *arg)
{
	struct connector *connector = arg;
	struct conn *conn[WIRE_CHANNELS];

	greeting_free(connector->greeting);
	connector->greeting = NULL;
	memcpy(conn, connector->conn, sizeof(conn));
	connector->nconn = 0; /* no longer ours to free */
	connector->ops->connected(connector->arg, conn);
}

static void conns_free(struct connector *connector)
{
	unsigned int i;

	for (i = 0; i < connector->nconn; i++)
		conn_free(connector->conn[i]);
	connector->nconn = 0;
}

/*
 * Closed without a word, a connection has most likely made way for others that
 * connect (listen.c): they come and go, so it is tried anew.
 */
static void on_not_let_in(void *arg, const struct err *err)
{
	struct connector *connector = arg;

	if (err->code != -EPIPE || connector->uri.type == URI_FD || connector->again >= AGAIN_MAX) {
		connector_fail(connector, err);
		return;
	}
	connector->again++;
	greeting_free(connector->greeting);
	connector->greeting = NULL;
	conns_free(connector);
	connector_next(connector);
}

static const struct greeting_ops greeting_ops = {
	.done = on_let_in,
	.failed = on_not_let_in,
};

static void connector_done(struct connector *connector)
{
	struct err err;

	if (greeting_new(&connector->greeting, connector->loop, connector->conn,
			 &connector->preface, &connector->trust.secret, &greeting_ops, connector,
			 &err) < 0)
		connector_fail(connector, &err);
}

/* Takes over the socket of conn[nconn]. */
static int connector_add(struct connector *connector, int fd, struct err *err)
{
	int r = socket_to_conn(&connector->conn[connector->nconn], fd,
			       connector->nconn == WIRE_BULK, false, connector->trust.wrapper, err);

	if (!r)
		connector->nconn++;
	return r;
}

static void connector_one_failed(struct connector *connector, struct err *err)
{
	connector_dial_end(connector);
	err_prefix(err, err->code, "%s connection",
		   wire_channel_name((enum wire_channel)connector->nconn));
	connector_fail(connector, err);
}

static void on_dial(uv_poll_t *poll, int status, int events)
{
	struct connector *connector = poll->data;
	struct err err;
	int r = dial_step(connector->dial, &err);

	(void)status;
	(void)events;
	if (r == -EINPROGRESS)
		return;
	if (r < 0) {
		connector_one_failed(connector, &err);
		return;
	}
	if (!connector->nconn) {
		connector->at_len = sizeof(connector->at);
		if (getpeername(r, (struct sockaddr *)&connector->at, &connector->at_len) < 0)
			connector->at_len = 0; /* gone already: the next finds out */
	}
	if (connector_add(connector, r, &err) < 0) {
		connector_one_failed(connector, &err);
		return;
	}
	connector_dial_end(connector);
	if (connector->nconn == WIRE_CHANNELS)
		connector_done(connector);
	else
		connector_next(connector);
}

static int connector_dial_begin(struct connector *connector, struct err *err)
{
	int left_ms = (int)((connector->end_ns - clock_now_ns()) / NS_PER_MS);
	int r;

	if (left_ms < 0)
		left_ms = 0;
	/* A unix socket's peer has the name that we know. */
	if (connector->nconn && connector->uri.type == URI_TCP)
		r = dial_new_at(&connector->dial, &connector->at, connector->at_len, left_ms, err);
	else
		r = dial_new(&connector->dial, &connector->uri.address, NULL, left_ms, err);
	if (r < 0)
		return r;
	connector->poll = calloc(1, sizeof(*connector->poll));
	r = -ENOMEM;
	if (connector->poll)
		r = uv_poll_init(loop_uv(connector->loop), connector->poll,
				 dial_fd(connector->dial));
	if (r < 0) {
		free(connector->poll);
		connector->poll = NULL;
		return err_errno(err, r, "event loop");
	}
	connector->poll->data = connector;
	uv_poll_start(connector->poll, UV_READABLE, on_dial);
	return 0;
}

/* Begins to connect conn[nconn]. */
static void connector_next(struct connector *connector)
{
	struct err err;

	if (connector_dial_begin(connector, &err) < 0)
		connector_one_failed(connector, &err);
}

/* ---- start ---- */

static void on_timeout(uv_timer_t *timer)
{
	struct connector *connector = timer->data;
	struct err err;

	if (connector->dial) {
		dial_time_out(connector->dial, &err);
		connector_one_failed(connector, &err);
		return;
	}
	greeting_why(connector->greeting, &err);
	err_prefix(&err, err.code, "within %u ms", connector->timeout_ms);
	connector_fail(connector, &err);
}

/* Three descriptors were given. */
static void connector_adopt(struct connector *connector)
{
	struct err err;
	int fd;

	while (connector->nconn < WIRE_CHANNELS) {
		fd = connector->uri.fd[connector->nconn];
		connector->uri.fd[connector->nconn] = -1;
		if (connector_add(connector, fd, &err) < 0) {
			connector_one_failed(connector, &err);
			return;
		}
	}
	connector_done(connector);
}

static void on_start(uv_timer_t *timer)
{
	struct connector *connector = timer->data;

	connector->end_ns = clock_now_ns() + connector->timeout_ms * NS_PER_MS;
	uv_timer_start(timer, on_timeout, connector->timeout_ms, 0);
	if (connector->uri.type == URI_FD)
		connector_adopt(connector);
	else
		connector_next(connector);
}

static int check_uri(const struct uri *uri, struct err *err)
{
	int i, r;

	if (uri->type != URI_FD)
		return dial_check(&uri->address, err);
	if (uri->nfd != WIRE_CHANNELS)
		return err_set(err, -EINVAL,
			       "to migrate to descriptors takes three: fd:CONTROL,URGENT,BULK");
	for (i = 0; i < WIRE_CHANNELS; i++) {
		r = socket_check(uri->fd[i], false, err);
		if (r < 0)
			return r;
	}
	return 0;
}

int connector_new(struct connector **out, struct loop *loop, const struct uri *uri,
		  const struct preface *preface, const struct migration_trust *trust,
		  unsigned int timeout_ms, const struct connector_ops *ops, void *arg,
		  struct err *err)
{
	struct connector *connector;
	int r = check_uri(uri, err);

	if (r < 0)
		return r;
	connector = calloc(1, sizeof(*connector));
	if (!connector || !(connector->timer = calloc(1, sizeof(*connector->timer)))) {
		free(connector);
		return err_set(err, -ENOMEM, "no memory to connect");
	}
	connector->loop = loop;
	connector->uri = *uri;
	connector->preface = *preface;
	connector->trust = *trust;
	connector->timeout_ms = timeout_ms;
	connector->ops = ops;
	connector->arg = arg;
	uv_timer_init(loop_uv(loop), connector->timer);
	connector->timer->data = connector;
	uv_timer_start(connector->timer, on_start, 0, 0);
	*out = connector;
	return 0;
}

void connector_free(struct connector *connector)
{
	unsigned int i;

	if (!connector)
		return;
	uv_timer_stop(connector->timer);
	loop_close((uv_handle_t *)connector->timer, connector->timer);
	connector_dial_end(connector);
	greeting_free(connector->greeting);
	conns_free(connector);
	/* Not begun with yet. */
	for (i = 0; connector->uri.type == URI_FD && i < WIRE_CHANNELS; i++)
		if (connector->uri.fd[i] >= 0)
			close(connector->uri.fd[i]);
	secret_wipe(&connector->trust.secret);
	free(connector);
}
