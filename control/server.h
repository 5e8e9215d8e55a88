/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A listening control socket, unix or TCP, on the loop. Main thread only.
 */
#ifndef POSTERN_CONTROL_SERVER_H
#define POSTERN_CONTROL_SERVER_H

#include <stdbool.h>
#include <uv.h>

#include "base/err.h"

/* Room for one connection of either kind. */
union server_stream {
	uv_handle_t handle;
	uv_stream_t stream;
	uv_tcp_t tcp;
	uv_pipe_t pipe;
};

struct server;

/* A client waits to be let in: server_accept is to be called once, or it is sent away. */
typedef void (*server_on_client)(struct server *server, void *arg);

/*
 * spec: an address (base/address.h), with QEMU's ",server=on,wait=off"
 * accepted; base/listening.h says at what it listens. `what` ("QMP", "gdb") is
 * for messages and stays valid. A name is looked up here, for some seconds at
 * most: before the loop runs. While the system has no descriptor for another
 * client, or no memory for its socket, clients wait.
 */
int server_new(struct server **out, uv_loop_t *loop, const char *what, const char *spec,
	       server_on_client on_client, void *arg, struct err *err);
/*
 * Initialises *stream and accepts into it. descriptors: of a unix socket they
 * are received as well (uv_pipe_pending_count). 0 or a negative errno; in either
 * case the caller closes stream->handle.
 */
int server_accept(struct server *server, union server_stream *stream, bool descriptors);
/* Stops listening, unlinks the socket. The memory goes when the loop has run. NULL is allowed. */
void server_free(struct server *server);

#endif
