/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A web server for tests, that does what it is told to: well-formed or not, at once or never. Each
 * connection has its own thread, and each request is answered by the test's function, on it.
 */
#ifndef POSTERN_TESTS_UNIT_STORE_WEB_SERVER_H
#define POSTERN_TESTS_UNIT_STORE_WEB_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct web_server;

/* A request, and whom to answer. */
struct web_client {
	struct web_server *server;
	int fd;
	unsigned int connection;	/* from 0 on */
	unsigned int number;		/* of the request, over all connections, from 0 on */
	char head[16384];		/* "GET /path HTTP/1.1", and fields, each line ended by \n */
	uint8_t *body;
	size_t body_len;
	bool closed;			/* by the function: no further request */
};

typedef void web_server_answer(struct web_client *client, void *arg);

/* On a port of the loopback; port 0: any that is free. Aborts where it cannot. */
struct web_server *web_server_new(unsigned int port, web_server_answer *answer, void *arg);
/* Ends all connections and waits for their threads. */
void web_server_free(struct web_server *server);
unsigned int web_server_port(const struct web_server *server);
unsigned int web_server_connections(struct web_server *server);
unsigned int web_server_requests(struct web_server *server);

/* For the function. Whatever is sent to a client that has gone is dropped: false. */
bool web_client_send(struct web_client *client, const void *data, size_t n);
bool web_client_say(struct web_client *client, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
/* Closes; with `reset`, so that the other side gets ECONNRESET. */
void web_client_close(struct web_client *client, bool reset);
/* Says no more, until the other side or the server ends. */
void web_client_hang(struct web_client *client);
/* The value of a field, up to its line's end, copied; false: it has none. */
bool web_client_field(const struct web_client *client, const char *name, char *out, size_t size);
/* Its range; false: it asks for none. */
bool web_client_range(const struct web_client *client, uint64_t *first, uint64_t *last);
bool web_client_is(const struct web_client *client, const char *method, const char *path);

#endif
