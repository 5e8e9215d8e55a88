// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// See server.h. The socket is made and bound here rather than by libuv: the mode of a unix socket is set before it
// has a name (Linux takes it from the socket's own inode), so that there is no moment at which others may connect.
// It is also listened at here: where there is no descriptor for a client, libuv lets it in and drops it, and where there is no memory
// it asks again and again without coming back to the loop.
#include "control/server.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/accept.h"
#include "base/log.h"

#define SERVER_BACKLOG 16
/* How long nobody is let in when nobody can be; see accept_should_rest. */
#define SERVER_REST_MS 100
#define SPEC_MAX 512

struct server {
	uv_poll_t poll;
	uv_timer_t rest;
	unsigned int handles;	/* of these two, those that the loop has */
	bool rest_told;
	int fd;
	int client;		/* who has been let in, until server_accept takes it; or -1 */
	const char *what;
	char spec[SPEC_MAX];	/* for messages */
	bool is_unix;
	char path[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
	server_on_client on_client;
	void *arg;
};

/* Cuts QEMU's options off `text`. */
static int strip_options(char *text, const char *what, struct err *err)
{
	static const char *const fine[] = { "server", "server=on", "wait=off", "nowait", "nodelay", "nodelay=on" };
	char *option, *save = NULL, *comma = strchr(text, ',');
	size_t i;

	if (!comma)
		return 0;
	*comma = '\0';
	for (option = strtok_r(comma + 1, ",", &save); option; option = strtok_r(NULL, ",", &save)) {
		for (i = 0; i < sizeof(fine) / sizeof(fine[0]); i++)
			if (!strcmp(option, fine[i]))
				break;
		if (i == sizeof(fine) / sizeof(fine[0]))
			return err_set(err, -EINVAL, "%s socket: option '%s' is not known (server=on, wait=off are)",
				       what, option);
	}
	return 0;
}

/* Removes a socket that nobody listens on any more. */
static int remove_stale(const struct sockaddr_un *addr, const char *what, struct err *err)
{
	struct stat st;
	int fd, r;

	if (lstat(addr->sun_path, &st) < 0)
		return errno == ENOENT ? 0 : err_errno(err, -errno, "%s socket %s", what, addr->sun_path);
	if (!S_ISSOCK(st.st_mode))
		return err_set(err, -EEXIST, "%s socket %s: a file of that name exists and is no socket", what,
			       addr->sun_path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_errno(err, -errno, "%s socket %s", what, addr->sun_path);
	r = connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 ? -errno : 0;
	close(fd);
	if (r != -ECONNREFUSED)
		return err_set(err, -EADDRINUSE, "%s socket %s: another process listens there", what,
			       addr->sun_path);
	if (unlink(addr->sun_path) < 0 && errno != ENOENT)
		return err_errno(err, -errno, "%s socket %s: stale, but not to be removed", what, addr->sun_path);
	return 0;
}

/* Returns a bound descriptor. */
static int bind_unix(struct server *server, const char *what, const char *path, struct err *err)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd, r;

	if (!*path || strlen(path) >= sizeof(addr.sun_path))
		return err_set(err, -EINVAL, "%s socket: a path of 1 to %zu bytes is needed", what,
			       sizeof(addr.sun_path) - 1);
	strcpy(addr.sun_path, path);
	r = remove_stale(&addr, what, err);
	if (r < 0)
		return r;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_errno(err, -errno, "%s socket %s", what, path);
	if (fchmod(fd, 0600) < 0 || bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0) {
		r = err_errno(err, -errno, "%s socket %s", what, path);
		close(fd);
		return r;
	}
	strcpy(server->path, path);
	return fd;
}

static int bind_address(const struct addrinfo *ai)
{
	int one = 1, r, fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0) {
		r = -errno;
		close(fd);
		return r;
	}
	return fd;
}

/* text: HOST:PORT, is written to. Returns a bound descriptor. */
static int bind_tcp(const char *what, char *text, struct err *err)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV }, *found, *ai;
	char *colon = strrchr(text, ':'), *host = text;
	int r;

	if (!colon || !colon[1])
		return err_set(err, -EINVAL, "%s socket: tcp:HOST:PORT is needed", what);
	*colon = '\0';
	if (*host == '[' && colon[-1] == ']') {
		colon[-1] = '\0';
		host++;
	}
	r = getaddrinfo(*host ? host : "127.0.0.1", colon + 1, &hints, &found);
	if (r)
		return err_set(err, -EINVAL, "%s socket tcp:%s:%s: %s", what, host, colon + 1, gai_strerror(r));
	r = -EADDRNOTAVAIL;
	for (ai = found; ai && r < 0; ai = ai->ai_next)
		r = bind_address(ai);
	freeaddrinfo(found);
	return r < 0 ? err_errno(err, r, "%s socket tcp:%s:%s", what, host, colon + 1) : r;
}

static int bind_spec(struct server *server, const char *what, const char *spec, struct err *err)
{
	char text[SPEC_MAX];
	int r;

	if (strlen(spec) >= sizeof(text))
		return err_set(err, -EINVAL, "%s socket: address too long", what);
	strcpy(text, spec);
	r = strip_options(text, what, err);
	if (r < 0)
		return r;
	if (!strncmp(text, "unix:", 5)) {
		server->is_unix = true;
		return bind_unix(server, what, text + 5, err);
	}
	if (!strncmp(text, "tcp:", 4))
		return bind_tcp(what, text + 4, err);
	return err_set(err, -EINVAL, "%s socket '%s': unix:PATH or tcp:HOST:PORT is needed", what, spec);
}

static void on_knock(uv_poll_t *poll, int status, int events);

static void on_rested(uv_timer_t *timer)
{
	struct server *server = timer->data;

	uv_poll_start(&server->poll, UV_READABLE, on_knock);
}

static void on_knock(uv_poll_t *poll, int status, int events)
{
	struct server *server = poll->data;
	int r;

	(void)status;
	(void)events;
	server->client = accept4(server->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	r = server->client < 0 ? -errno : 0;
	if (accept_should_rest(r)) {
		if (!server->rest_told)
			log_warn("%s socket %s: no client can be let in: %s; it waits", server->what, server->spec, strerror(-r));
		server->rest_told = true;
		uv_poll_stop(poll);
		uv_timer_start(&server->rest, on_rested, SERVER_REST_MS, 0);
	}
	if (r < 0)
		return;
	server->rest_told = false;
	server->on_client(server, server->arg);
	if (server->client >= 0)
		close(server->client);
	server->client = -1;
}

static void on_closed(uv_handle_t *handle)
{
	struct server *server = handle->data;

	if (!--server->handles)
		free(server);
}

static void log_address(int fd, bool is_unix, const char *what, const char *path)
{
	struct sockaddr_storage addr;
	socklen_t len = sizeof(addr);
	char host[NI_MAXHOST], port[NI_MAXSERV];

	if (is_unix)
		log_info("%s: listens on unix:%s", what, path);
	else if (!getsockname(fd, (struct sockaddr *)&addr, &len) &&
		 !getnameinfo((struct sockaddr *)&addr, len, host, sizeof(host), port, sizeof(port),
			      NI_NUMERICHOST | NI_NUMERICSERV))
		log_info("%s: listens on tcp:%s:%s", what, host, port);
}

int server_new(struct server **out, uv_loop_t *loop, const char *what, const char *spec,
	       server_on_client on_client, void *arg, struct err *err)
{
	struct server *server = calloc(1, sizeof(*server));
	int fd, r;

	if (!server)
		return err_set(err, -ENOMEM, "%s socket: no memory", what);
	fd = bind_spec(server, what, spec, err);
	if (fd < 0) {
		free(server);
		return fd;
	}
	r = listen(fd, SERVER_BACKLOG) < 0 ? -errno : uv_poll_init(loop, &server->poll, fd);
	if (r < 0) {
		close(fd);
		if (server->is_unix)
			unlink(server->path);
		free(server);
		return err_errno(err, r, "%s socket '%s'", what, spec);
	}
	uv_timer_init(loop, &server->rest);
	server->poll.data = server->rest.data = server;
	server->handles = 2;
	server->fd = fd;
	server->client = -1;
	server->what = what;
	snprintf(server->spec, sizeof(server->spec), "%s", spec);
	server->on_client = on_client;
	server->arg = arg;
	uv_poll_start(&server->poll, UV_READABLE, on_knock);
	log_address(fd, server->is_unix, what, server->path);
	*out = server;
	return 0;
}

int server_accept(struct server *server, union server_stream *stream)
{
	uv_loop_t *loop = server->poll.loop;
	int r = server->is_unix ? uv_pipe_init(loop, &stream->pipe, 0) : uv_tcp_init(loop, &stream->tcp);

	if (r == 0)
		r = server->is_unix ? uv_pipe_open(&stream->pipe, server->client) : uv_tcp_open(&stream->tcp, server->client);
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
	if (server->is_unix)
		unlink(server->path);
	uv_close((uv_handle_t *)&server->poll, on_closed);
	uv_close((uv_handle_t *)&server->rest, on_closed);
	close(server->fd);
}
