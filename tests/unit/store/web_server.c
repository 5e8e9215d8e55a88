// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "web_server.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECTIONS 256u

struct web_server {
	int fd;
	unsigned int port;
	web_server_answer *answer;
	void *arg;
	pthread_t thread;
	pthread_mutex_t lock;
	bool stop;
	unsigned int connections, requests;
	struct {
		pthread_t thread;
		int fd;			/* -1: closed */
	} of[CONNECTIONS];
};

static void need(bool ok, const char *what)
{
	if (ok)
		return;
	perror(what);
	abort();
}

bool web_client_send(struct web_client *client, const void *data, size_t n)
{
	const char *at = data;
	ssize_t sent;

	for (; n && !client->closed; at += sent, n -= (size_t)sent) {
		sent = send(client->fd, at, n, MSG_NOSIGNAL);
		if (sent < 0)
			return false;
	}
	return !client->closed;
}

bool web_client_say(struct web_client *client, const char *format, ...)
{
	char text[8192];
	va_list ap;
	int n;

	va_start(ap, format);
	n = vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	need(n >= 0 && (size_t)n < sizeof(text), "text");
	return web_client_send(client, text, (size_t)n);
}

void web_client_close(struct web_client *client, bool reset)
{
	struct linger linger = { 1, 0 };

	if (reset)
		setsockopt(client->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	client->closed = true;
}

void web_client_hang(struct web_client *client)
{
	char byte;

	while (recv(client->fd, &byte, 1, 0) > 0)
		;
	client->closed = true;
}

bool web_client_field(const struct web_client *client, const char *name, char *out, size_t size)
{
	const char *line = client->head, *end;
	size_t n = strlen(name);

	for (; (end = strchr(line, '\n')); line = end + 1) {
		if (strncasecmp(line, name, n) || line[n] != ':')
			continue;
		for (line += n + 1; *line == ' '; line++)
			;
		snprintf(out, size, "%.*s", (int)(end - line), line);
		return true;
	}
	return false;
}

bool web_client_range(const struct web_client *client, uint64_t *first, uint64_t *last)
{
	char text[64];

	return web_client_field(client, "Range", text, sizeof(text)) &&
	       sscanf(text, "bytes=%" SCNu64 "-%" SCNu64, first, last) == 2;
}

bool web_client_is(const struct web_client *client, const char *method, const char *path)
{
	size_t n = strlen(method);

	return !strncmp(client->head, method, n) && client->head[n] == ' ' &&
	       !strncmp(client->head + n + 1, path, strlen(path)) &&
	       client->head[n + 1 + strlen(path)] == ' ';
}

/* ---- reading ---- */

/* Byte by byte, so that nothing of the body is taken. */
static bool read_head(struct web_client *client)
{
	size_t n = 0;

	while (n + 1 < sizeof(client->head)) {
		if (recv(client->fd, client->head + n, 1, 0) != 1)
			return false;
		if (client->head[n] == '\r')
			continue;
		client->head[++n] = 0;
		if (n > 1 && client->head[n - 1] == '\n' && client->head[n - 2] == '\n')
			return true;
	}
	return false;
}

static bool read_body(struct web_client *client)
{
	char text[64];
	ssize_t n;
	size_t have = 0;

	client->body_len = 0;
	if (!web_client_field(client, "Content-Length", text, sizeof(text)))
		return true;
	client->body_len = strtoull(text, NULL, 10);
	client->body = malloc(client->body_len + 1);
	need(client->body, "malloc");
	if (web_client_field(client, "Expect", text, sizeof(text)))
		web_client_say(client, "HTTP/1.1 100 Continue\r\n\r\n");
	for (; have < client->body_len; have += (size_t)n) {
		n = recv(client->fd, client->body + have, client->body_len - have, 0);
		if (n <= 0)
			return false;
	}
	return true;
}

static void serve(struct web_client *client)
{
	struct web_server *server = client->server;

	while (!client->closed && read_head(client) && read_body(client)) {
		pthread_mutex_lock(&server->lock);
		client->number = server->requests++;
		pthread_mutex_unlock(&server->lock);
		server->answer(client, server->arg);
		free(client->body);
		client->body = NULL;
	}
	free(client->body);
}

static void *client_main(void *arg)
{
	struct web_client *client = arg;
	struct web_server *server = client->server;

	serve(client);
	pthread_mutex_lock(&server->lock);
	server->of[client->connection].fd = -1;
	close(client->fd);
	pthread_mutex_unlock(&server->lock);
	free(client);
	return NULL;
}

static void *accept_main(void *arg)
{
	struct web_server *server = arg;
	struct web_client *client;
	unsigned int i;
	int fd;

	while ((fd = accept4(server->fd, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
		client = calloc(1, sizeof(*client));
		need(client && server->connections < CONNECTIONS, "a connection");
		client->server = server;
		client->fd = fd;
		pthread_mutex_lock(&server->lock);
		i = client->connection = server->connections++;
		server->of[i].fd = fd;
		need(!pthread_create(&server->of[i].thread, NULL, client_main, client), "a thread");
		if (server->stop)
			shutdown(fd, SHUT_RDWR);
		pthread_mutex_unlock(&server->lock);
	}
	return NULL;
}

struct web_server *web_server_new(unsigned int port, web_server_answer *answer, void *arg)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	struct web_server *server = calloc(1, sizeof(*server));
	socklen_t len = sizeof(at);
	int on = 1;

	need(server, "calloc");
	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	server->answer = answer;
	server->arg = arg;
	pthread_mutex_init(&server->lock, NULL);
	server->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(server->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	need(!bind(server->fd, (struct sockaddr *)&at, sizeof(at)) && !listen(server->fd, 64),
	     "listen");
	need(!getsockname(server->fd, (struct sockaddr *)&at, &len), "getsockname");
	server->port = ntohs(at.sin_port);
	need(!pthread_create(&server->thread, NULL, accept_main, server), "a thread");
	return server;
}

void web_server_free(struct web_server *server)
{
	unsigned int i;

	pthread_mutex_lock(&server->lock);
	server->stop = true;
	for (i = 0; i < server->connections; i++)
		if (server->of[i].fd >= 0)
			shutdown(server->of[i].fd, SHUT_RDWR);
	pthread_mutex_unlock(&server->lock);
	shutdown(server->fd, SHUT_RDWR);
	pthread_join(server->thread, NULL);
	for (i = 0; i < server->connections; i++)
		pthread_join(server->of[i].thread, NULL);
	close(server->fd);
	pthread_mutex_destroy(&server->lock);
	free(server);
}

unsigned int web_server_port(const struct web_server *server)
{
	return server->port;
}

unsigned int web_server_connections(struct web_server *server)
{
	unsigned int n;

	pthread_mutex_lock(&server->lock);
	n = server->connections;
	pthread_mutex_unlock(&server->lock);
	return n;
}

unsigned int web_server_requests(struct web_server *server)
{
	unsigned int n;

	pthread_mutex_lock(&server->lock);
	n = server->requests;
	pthread_mutex_unlock(&server->lock);
	return n;
}
