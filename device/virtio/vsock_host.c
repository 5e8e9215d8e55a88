// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * vsock_host.c - the unix sockets behind virtio's: who listens, who is being
 * greeted, who is called.
 *
 * A greeting is read byte by byte, since what follows its line is the guest's.
 * It is short.
 */
#include "device/virtio/vsock_host.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/accept.h"
#include "base/listening.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/path.h"

#define CID_MIN 3	/* below are the hypervisor's, the loopback's and the host's (5.10.4) */
#define BACKLOG 16
/* How long nobody is let in when nobody can be; see accept_should_rest. */
#define REST_MS 100
/* Of "_<port>". */
#define PORT_CHARS 11

/* A client that has not said yet where to. */
struct greeting {
	uv_poll_t poll;
	struct vsock_host *host;
	int fd;
	unsigned int slot, len;
	char line[VSOCK_LINE_MAX];
};

struct vsock_host {
	unsigned int handles;	/* first: see loop_close_one_of */
	uv_poll_t poll;
	uv_timer_t rest;
	bool rest_reported;
	struct loop *loop;
	struct listening listening;
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	void (*connected)(void *arg, int fd, uint32_t port);
	void *arg;
	struct greeting *greeting[VSOCK_GREETINGS_MAX];
	unsigned int greetings;
};

/* ---- what is written somewhere ---- */

static int parse_u32(const char *text, size_t len, uint32_t *to)
{
	uint64_t value = 0;
	size_t i;

	if (!len || len > 10)
		return -EINVAL;
	for (i = 0; i < len; i++) {
		if (text[i] < '0' || text[i] > '9')
			return -EINVAL;
		value = 10 * value + (uint64_t)(text[i] - '0');
	}
	if (value > UINT32_MAX)
		return -EINVAL;
	*to = (uint32_t)value;
	return 0;
}

static const char connect_word[] = "CONNECT ";

/* Can what has come so far become a greeting? Who says something else is not waited for. */
static bool begins_as_greeting(const char *line, size_t len)
{
	return !memcmp(line, connect_word,
		       len < sizeof(connect_word) - 1 ? len : sizeof(connect_word) - 1);
}

int vsock_connect_parse(const char *line, size_t len, uint32_t *port)
{
	const size_t n = sizeof(connect_word) - 1;

	if (len < n + 1 || !begins_as_greeting(line, len) || line[len - 1] != '\n')
		return -EINVAL;
	return parse_u32(line + n, len - n - 1, port);
}

int vsock_options_parse(struct vsock_options *options, const char *text, struct err *err)
{
	static const char allowed[] = "cid=N,socket=PATH is allowed";
	const char *comma = strchrnul(text, ',');
	const char *path = *comma ? comma + 1 : "";

	if (strncmp(text, "cid=", 4) || strncmp(path, "socket=", 7) || !path[7])
		return err_set(err, -EINVAL, "%s: %s", text, allowed);
	path += 7;
	if (path_option(path))
		return err_set(err, -EINVAL, "%s: option \"%s\" is unknown; %s", text,
			       path_option(path), allowed);
	if (parse_u32(text + 4, (size_t)(comma - text - 4), &options->cid) < 0 ||
	    options->cid < CID_MIN || options->cid == UINT32_MAX)
		return err_set(err, -EINVAL, "%s: %s, N from %d to %u", text, allowed, CID_MIN,
			       UINT32_MAX - 1);
	if (strlen(path) + PORT_CHARS >= sizeof(options->path))
		return err_set(err, -ENAMETOOLONG, "%s: the path is longer than %zu bytes", text,
			       sizeof(options->path) - 1 - PORT_CHARS);
	strcpy(options->path, path);
	return 0;
}

/* ---- greetings ---- */

static void listen_update(struct vsock_host *host);

/* Its descriptor is the caller's. */
static void greeting_end(struct greeting *greeting)
{
	struct vsock_host *host = greeting->host;

	host->greetings--;
	host->greeting[greeting->slot] = host->greeting[host->greetings];
	host->greeting[greeting->slot]->slot = greeting->slot;
	loop_close((uv_handle_t *)&greeting->poll, greeting);
}

static void on_greeting(uv_poll_t *poll, int status, int events)
{
	struct greeting *greeting = poll->data;
	struct vsock_host *host = greeting->host;
	int fd = greeting->fd;
	uint32_t port;
	bool said;
	ssize_t n;

	(void)status;
	(void)events;
	do {
		n = recv(fd, greeting->line + greeting->len, 1, MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		greeting->len += n > 0;
	} while (n > 0 && begins_as_greeting(greeting->line, greeting->len) &&
		 greeting->line[greeting->len - 1] != '\n' && greeting->len < VSOCK_LINE_MAX);
	said = n > 0 && vsock_connect_parse(greeting->line, greeting->len, &port) == 0;
	/* The loop lets go of the descriptor before anybody else has it. */
	greeting_end(greeting);
	if (said)
		host->connected(host->arg, fd, port);
	else
		close(fd);
	listen_update(host);
}

static int host_greeting_new(struct vsock_host *host, int fd)
{
	struct greeting *greeting = calloc(1, sizeof(*greeting));
	int r = greeting ? uv_poll_init(loop_uv(host->loop), &greeting->poll, fd) : -ENOMEM;

	if (r < 0) {
		close(fd);
		free(greeting);
		return r;
	}
	greeting->host = host;
	greeting->fd = fd;
	greeting->slot = host->greetings;
	greeting->poll.data = greeting;
	host->greeting[host->greetings++] = greeting;
	uv_poll_start(&greeting->poll, UV_READABLE, on_greeting);
	return 0;
}

/* ---- listening ---- */

static void host_on_rested(uv_timer_t *timer)
{
	listen_update(timer->data);
}

static void host_on_connection(uv_poll_t *poll, int status, int events)
{
	struct vsock_host *host = poll->data;
	int fd = listening_accept(&host->listening);
	int r = fd < 0 ? fd : host_greeting_new(host, fd);

	(void)status;
	(void)events;
	if (accept_should_rest(r)) {
		if (!host->rest_reported)
			log_warn("%s: no client can be let in: %s; it waits", host->path,
				 strerror(-r));
		host->rest_reported = true;
		uv_timer_start(&host->rest, host_on_rested, REST_MS, 0);
	}
	if (!r)
		host->rest_reported = false;
	listen_update(host);
}

static void listen_update(struct vsock_host *host)
{
	if (host->greetings < VSOCK_GREETINGS_MAX && !uv_is_active((uv_handle_t *)&host->rest))
		uv_poll_start(&host->poll, UV_READABLE, host_on_connection);
	else
		uv_poll_stop(&host->poll);
}

static int listen_open(struct vsock_host *host, struct err *err)
{
	struct address address = { .type = ADDRESS_UNIX };

	_Static_assert(sizeof(address.path) == sizeof(host->path), "one fits into the other");
	strcpy(address.path, host->path);
	return listening_open(&host->listening, &address, 0, BACKLOG, err);
}

int vsock_host_new(struct vsock_host **out, struct loop *loop, const char *path,
		   void (*connected)(void *arg, int fd, uint32_t port), void *arg, struct err *err)
{
	struct vsock_host *host = calloc(1, sizeof(*host));
	int r;

	if (!host)
		return err_set(err, -ENOMEM, "no memory for virtio-vsock");
	host->loop = loop;
	host->connected = connected;
	host->arg = arg;
	snprintf(host->path, sizeof(host->path), "%s", path);
	r = listen_open(host, err);
	if (!r) {
		r = uv_poll_init(loop_uv(loop), &host->poll, host->listening.fd);
		if (r < 0)
			err_errno(err, r, "event loop");
	}
	if (r < 0) {
		listening_close(&host->listening);
		free(host);
		return r;
	}
	uv_timer_init(loop_uv(loop), &host->rest);
	host->poll.data = host->rest.data = host;
	host->handles = 2;
	listen_update(host);
	*out = host;
	return 0;
}

void vsock_host_free(struct vsock_host *host)
{
	if (!host)
		return;
	while (host->greetings) {
		int fd = host->greeting[0]->fd;

		greeting_end(host->greeting[0]);
		close(fd);
	}
	loop_close_one_of((uv_handle_t *)&host->poll, &host->handles);
	loop_close_one_of((uv_handle_t *)&host->rest, &host->handles);
	listening_close(&host->listening);
}

int vsock_host_connect(const struct vsock_host *host, uint32_t port)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd, r;

	r = snprintf(addr.sun_path, sizeof(addr.sun_path), "%s_%" PRIu32, host->path, port);
	if (r < 0 || (size_t)r >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	/* It is done at once, or not at all: the listener's queue may be full. */
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		r = -errno;
		close(fd);
		return r;
	}
	return fd;
}
