// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * One address after the other is tried for the first connection; the other two go where the first succeeded. A timer starts it
 * all, so that callbacks come from the loop only, and then bounds it.
 *
 * A name look-up cannot be taken back from libuv: its request is an object of its own, that outlives the connector.
 */
#include "migrate/connect.h"

#include <errno.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "migrate/socket.h"

#define ADDRS_MAX 16

struct address {
	struct sockaddr_storage addr;
	socklen_t len;
};

struct lookup {
	uv_getaddrinfo_t req;
	struct connector *connector;	/* NULL: nobody is interested any more */
};

struct connector {
	struct loop *loop;
	const struct connector_ops *ops;
	void *arg;
	struct uri uri;
	struct preface preface;
	unsigned int timeout_ms;
	uv_timer_t *timer;
	struct lookup *lookup;
	struct address address[ADDRS_MAX];
	unsigned int naddresses, at;
	int fd[WIRE_CHANNELS];
	unsigned int nfd;	/* connected */
	uv_poll_t *poll;	/* of fd[nfd], while connecting */
};

static void connector_next(struct connector *connector);

static void connector_fail(struct connector *connector, const struct err *err)
{
	connector->ops->failed(connector->arg, err);
}

static void on_handle_closed(uv_handle_t *handle)
{
	free(handle);
}

static void poll_close(struct connector *connector)
{
	if (!connector->poll)
		return;
	uv_poll_stop(connector->poll);
	uv_close((uv_handle_t *)connector->poll, on_handle_closed);
	connector->poll = NULL;
}

static void name_address(const struct connector *connector, char *out, size_t size)
{
	char host[INET6_ADDRSTRLEN + IF_NAMESIZE], port[8];
	const struct address *address = &connector->address[connector->at];

	if (connector->uri.kind == URI_UNIX)
		snprintf(out, size, "unix:%s", connector->uri.path);
	else if (!getnameinfo((const struct sockaddr *)&address->addr, address->len, host, sizeof(host), port,
			      sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV))
		snprintf(out, size, "%s port %s", host, port);
	else
		snprintf(out, size, "tcp:%s:%s", connector->uri.host, connector->uri.port);
}

/* ---- connected ---- */

static int send_prefaces(struct connector *connector, struct err *err)
{
	uint8_t bytes[PREFACE_BYTES];
	int i;

	for (i = 0; i < WIRE_CHANNELS; i++) {
		connector->preface.version = WIRE_MAJOR;
		connector->preface.channel = (enum wire_channel)i;
		preface_encode(&connector->preface, bytes);
		/* A new connection has room for 64 bytes. */
		if (send(connector->fd[i], bytes, sizeof(bytes), MSG_DONTWAIT | MSG_NOSIGNAL) !=
		    (ssize_t)sizeof(bytes))
			return err_errno(err, errno ? -errno : -EIO, "%s connection: sending the preface",
					 wire_channel_name((enum wire_channel)i));
	}
	return 0;
}

static void connector_done(struct connector *connector)
{
	int fd[WIRE_CHANNELS];
	struct err err;

	if (send_prefaces(connector, &err) < 0) {
		connector_fail(connector, &err);
		return;
	}
	memcpy(fd, connector->fd, sizeof(fd));
	connector->nfd = 0;	/* no longer ours to close */
	connector->ops->connected(connector->arg, fd);
}

/* fd[nfd] is connected. */
static void connector_one_done(struct connector *connector)
{
	poll_close(connector);
	connector->nfd++;
	if (connector->nfd == WIRE_CHANNELS)
		connector_done(connector);
	else
		connector_next(connector);
}

/* fd[nfd] was refused, or never was. Another address only while none is connected. */
static void connector_one_failed(struct connector *connector, int code)
{
	char name[320];
	struct err err;

	poll_close(connector);
	if (connector->fd[connector->nfd] >= 0)
		close(connector->fd[connector->nfd]);
	if (!connector->nfd && connector->at + 1 < connector->naddresses) {
		connector->at++;
		connector_next(connector);
		return;
	}
	name_address(connector, name, sizeof(name));
	err_errno(&err, code, "%s connection to %s", wire_channel_name((enum wire_channel)connector->nfd), name);
	connector_fail(connector, &err);
}

static void on_writable(uv_poll_t *poll, int status, int events)
{
	struct connector *connector = poll->data;
	int r = socket_error(connector->fd[connector->nfd]);

	(void)events;
	if (!r && status < 0)
		r = -ECONNREFUSED;
	if (r < 0)
		connector_one_failed(connector, r);
	else
		connector_one_done(connector);
}

/* Begins to connect fd[nfd]. */
static void connector_next(struct connector *connector)
{
	const struct address *address = &connector->address[connector->at];
	int fd = socket(address->addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), r;

	connector->fd[connector->nfd] = fd;
	if (fd < 0) {
		connector_one_failed(connector, -errno);
		return;
	}
	if (!connect(fd, (const struct sockaddr *)&address->addr, address->len)) {
		connector_one_done(connector);
		return;
	}
	if (errno != EINPROGRESS) {
		connector_one_failed(connector, -errno);
		return;
	}
	connector->poll = calloc(1, sizeof(*connector->poll));
	r = connector->poll ? uv_poll_init(loop_uv(connector->loop), connector->poll, fd) : -ENOMEM;
	if (r < 0) {
		free(connector->poll);
		connector->poll = NULL;
		connector_one_failed(connector, r);
		return;
	}
	connector->poll->data = connector;
	uv_poll_start(connector->poll, UV_WRITABLE, on_writable);
}

/* ---- start ---- */

static void on_resolved(uv_getaddrinfo_t *req, int status, struct addrinfo *list)
{
	struct lookup *lookup = req->data;
	struct connector *connector = lookup->connector;
	struct addrinfo *ai;
	struct err err;

	if (connector) {
		connector->lookup = NULL;
		for (ai = list; ai && status >= 0 && connector->naddresses < ADDRS_MAX; ai = ai->ai_next) {
			struct address *address = &connector->address[connector->naddresses];

			if (ai->ai_addrlen > sizeof(address->addr))
				continue;
			memcpy(&address->addr, ai->ai_addr, ai->ai_addrlen);
			address->len = ai->ai_addrlen;
			connector->naddresses++;
		}
	}
	uv_freeaddrinfo(list);
	free(lookup);
	if (!connector)
		return;
	if (connector->naddresses) {
		connector_next(connector);
		return;
	}
	err_set(&err, -EHOSTUNREACH, "looking up '%s': %s", connector->uri.host,
		status < 0 ? uv_strerror(status) : "no address");
	connector_fail(connector, &err);
}

static int connector_resolve(struct connector *connector, struct err *err)
{
	struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM,
				  .ai_flags = AI_NUMERICSERV };
	struct lookup *lookup = calloc(1, sizeof(*lookup));
	const char *host = *connector->uri.host ? connector->uri.host : "localhost";
	int r;

	if (!lookup)
		return err_set(err, -ENOMEM, "no memory to look up '%s'", host);
	lookup->connector = connector;
	lookup->req.data = lookup;
	r = uv_getaddrinfo(loop_uv(connector->loop), &lookup->req, on_resolved, host, connector->uri.port,
			   &hints);
	if (r < 0) {
		free(lookup);
		return err_errno(err, r, "looking up '%s'", host);
	}
	connector->lookup = lookup;
	return 0;
}

static void on_timeout(uv_timer_t *timer)
{
	struct connector *connector = timer->data;
	struct err err;

	err_set(&err, -ETIMEDOUT, "no connection within %u ms", connector->timeout_ms);
	connector_fail(connector, &err);
}

static void on_start(uv_timer_t *timer)
{
	struct connector *connector = timer->data;
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct err err;

	uv_timer_start(timer, on_timeout, connector->timeout_ms, 0);
	switch (connector->uri.kind) {
	case URI_FD:
		connector_done(connector);
		return;
	case URI_UNIX:
		memcpy(addr.sun_path, connector->uri.path, strlen(connector->uri.path) + 1);
		memcpy(&connector->address[0].addr, &addr, sizeof(addr));
		connector->address[0].len = sizeof(addr);
		connector->naddresses = 1;
		connector_next(connector);
		return;
	default:
		if (connector_resolve(connector, &err) < 0)
			connector_fail(connector, &err);
	}
}

static int check_uri(const struct uri *uri, struct err *err)
{
	int i, r;

	if (uri->kind == URI_TCP && !strcmp(uri->port, "0"))
		return err_set(err, -EINVAL, "port 0 cannot be connected to");
	if (uri->kind != URI_FD)
		return 0;
	if (uri->nfd != WIRE_CHANNELS)
		return err_set(err, -EINVAL, "to migrate to descriptors takes three: fd:CONTROL,URGENT,BULK");
	for (i = 0; i < WIRE_CHANNELS; i++) {
		r = socket_check(uri->fd[i], false, err);
		if (r < 0)
			return r;
	}
	return 0;
}

int connector_new(struct connector **out, struct loop *loop, const struct uri *uri,
		  const struct preface *preface, unsigned int timeout_ms, const struct connector_ops *ops,
		  void *arg, struct err *err)
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
	connector->timeout_ms = timeout_ms;
	connector->ops = ops;
	connector->arg = arg;
	if (uri->kind == URI_FD) {
		memcpy(connector->fd, uri->fd, sizeof(connector->fd));
		connector->nfd = WIRE_CHANNELS;
	}
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
	if (connector->lookup)
		connector->lookup->connector = NULL;
	uv_timer_stop(connector->timer);
	uv_close((uv_handle_t *)connector->timer, on_handle_closed);
	if (connector->poll) {
		poll_close(connector);
		close(connector->fd[connector->nfd]);
	}
	for (i = 0; i < connector->nfd; i++)
		close(connector->fd[i]);
	free(connector);
}
