// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// See server.h. It is listened at here rather than by libuv: where there is no
// descriptor for a client, libuv lets it in and drops it, and where there is no
// memory it asks again and again without coming back to the loop.
#include "control/server.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/accept.h"
#include "base/clock.h"
#include "base/listening.h"
#include "base/log.h"
#include "base/loop.h"

#define SERVER_BACKLOG 16
/* How long nobody is let in when nobody can be; see accept_should_rest. */
#define SERVER_REST_MS 100
#define SPEC_MAX 512
/* For a name's look-up. */
#define PATIENCE_NS (10 * NS_PER_SEC)

struct server {
	unsigned int handles;	/* first: see loop_close_one_of */
	uv_poll_t poll;
	uv_timer_t rest;
	bool rest_reported;
	struct listening listening;
	int client;		/* who has been let in, until server_accept takes it; or -1 */
	const char *what;
	char spec[SPEC_MAX];	/* for messages */
	bool is_unix;
	server_on_client on_client;
	void *arg;
};

/* Cuts QEMU's options off `text`. */
static int strip_options(char *text, const char *what, struct err *err)
{
	static const char *const fine[] = { "server", "server=on", "wait=off",
					    "nowait", "nodelay",   "nodelay=on" };
	char *option, *save = NULL, *comma = strchr(text, ',');
	size_t i;

	if (!comma)
		return 0;
	*comma = '\0';
	for (option = strtok_r(comma + 1, ",", &save); option;
	     option = strtok_r(NULL, ",", &save)) {
		for (i = 0; i < sizeof(fine) / sizeof(fine[0]); i++)
			if (!strcmp(option, fine[i]))
				break;
		if (i == sizeof(fine) / sizeof(fine[0]))
			return err_set(
				err, -EINVAL,
				"%s socket: option '%s' is not known (server=on, wait=off are)",
				what, option);
	}
	return 0;
}

/* Opens server->listening. */
static int listen_at(struct server *server, const char *what, const char *spec, struct err *err)
{
	struct address address;
	char text[SPEC_MAX];
	int r;

	if (strlen(spec) >= sizeof(text))
		return err_set(err, -EINVAL, "%s socket: address too long", what);
	strcpy(text, spec);
	r = strip_options(text, what, err);
	if (r < 0)
		return r;
	r = address_parse(&address, text, err);
	if (!r)
		r = listening_open(&server->listening, &address, PATIENCE_NS, SERVER_BACKLOG, err);
	if (r < 0)
		return err_prefix(err, r, "%s socket", what);
	server->is_unix = address.type == ADDRESS_UNIX;
	return 0;
}

static void server_on_connection(uv_poll_t *poll, int status, int events);

static void server_on_rested(uv_timer_t *timer)
{
	struct server *server = timer->data;

	uv_poll_start(&server->poll, UV_READABLE, server_on_connection);
}

static void server_on_connection(uv_poll_t *poll, int status, int events)
{
	struct server *server = poll->data;
	int r;

	(void)status;
	(void)events;
	server->client = listening_accept(&server->listening);
	r = server->client < 0 ? server->client : 0;
	if (accept_should_rest(r)) {
		if (!server->rest_reported)
			log_warn("%s socket %s: no client can be let in: %s; it waits",
				 server->what, server->spec, strerror(-r));
		server->rest_reported = true;
		uv_poll_stop(poll);
		uv_timer_start(&server->rest, server_on_rested, SERVER_REST_MS, 0);
	}
	if (r < 0)
		return;
	server->rest_reported = false;
	server->on_client(server, server->arg);
	if (server->client >= 0)
		close(server->client);
	server->client = -1;
}

static void log_addresses(const struct server *server)
{
	char text[SOCKADDR_TEXT_BYTES];
	unsigned int i;

	for (i = 0; i < server->listening.n; i++) {
		listening_print(&server->listening, i, text);
		log_info("%s: listens at %s", server->what, text);
	}
}

int server_new(struct server **out, uv_loop_t *loop, const char *what, const char *spec,
	       server_on_client on_client, void *arg, struct err *err)
{
	struct server *server = calloc(1, sizeof(*server));
	int r;

	if (!server)
		return err_set(err, -ENOMEM, "%s socket: no memory", what);
	r = listen_at(server, what, spec, err);
	if (r < 0) {
		free(server);
		return r;
	}
	r = uv_poll_init(loop, &server->poll, server->listening.fd);
	if (r < 0) {
		listening_close(&server->listening);
		free(server);
		return err_errno(err, r, "%s socket '%s'", what, spec);
	}
	uv_timer_init(loop, &server->rest);
	server->poll.data = server->rest.data = server;
	server->handles = 2;
	server->client = -1;
	server->what = what;
	snprintf(server->spec, sizeof(server->spec), "%s", spec);
	server->on_client = on_client;
	server->arg = arg;
	uv_poll_start(&server->poll, UV_READABLE, server_on_connection);
	log_addresses(server);
	*out = server;
	return 0;
}

int server_accept(struct server *server, union server_stream *stream, bool descriptors)
{
	uv_loop_t *loop = server->poll.loop;
	int r = server->is_unix ? uv_pipe_init(loop, &stream->pipe, descriptors) :
				  uv_tcp_init(loop, &stream->tcp);

	if (r == 0)
		r = server->is_unix ? uv_pipe_open(&stream->pipe, server->client) :
				      uv_tcp_open(&stream->tcp, server->client);
	if (r < 0)
		return r;
	/* It is the stream's. */
	server->client = -1;
	if (!server->is_unix)
		uv_tcp_nodelay(&stream->tcp, 1);
	return 0;
}

void server_free(struct server *server)
{
	if (!server)
		return;
	loop_close_one_of((uv_handle_t *)&server->poll, &server->handles);
	loop_close_one_of((uv_handle_t *)&server->rest, &server->handles);
	listening_close(&server->listening);
}
