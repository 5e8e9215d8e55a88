/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The host's side of virtio sockets: unix sockets, by the convention that other
 * VMMs have.
 *
 * Who wants to reach port P of the guest connects to PATH and writes "CONNECT
 * P\n"; once the guest has accepted, it reads "OK <port>\n" (vsock.c writes
 * that), and from then on the guest's bytes. Who wants to be reached by the
 * guest at port P listens at PATH_P.
 *
 * All of it on the main thread.
 */
#ifndef POSTERN_DEVICE_VIRTIO_VSOCK_HOST_H
#define POSTERN_DEVICE_VIRTIO_VSOCK_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/un.h>

#include "base/err.h"
#include "base/loop.h"

/* Clients that have connected and not said yet where to. More wait in the socket's queue. */
#define VSOCK_GREETINGS_MAX 16
/* The longest first line, with its end. */
#define VSOCK_LINE_MAX 32

struct vsock_options {
	uint32_t cid;
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

/* "cid=N,socket=PATH". -EINVAL: says what is allowed. */
int vsock_options_parse(struct vsock_options *options, const char *text, struct err *err);
/* The port of "CONNECT <port>\n", of len bytes with its end. -EINVAL. */
int vsock_connect_parse(const char *line, size_t len, uint32_t *port);

struct vsock_host;

/*
 * Listens at path (mode 0600; a socket that nobody answers at is replaced).
 * connected: a client has said which port; fd, non-blocking, is the callee's
 * from now on. -EADDRINUSE, and what the system says; errors name the path.
 */
int vsock_host_new(struct vsock_host **out, struct loop *loop, const char *path,
		   void (*connected)(void *arg, int fd, uint32_t port), void *arg, struct err *err);
/* Removes the socket. Memory goes when the loop has run the closing callbacks. */
void vsock_host_free(struct vsock_host *host);
/* A connection to PATH_port, non-blocking, or a negative errno. Never waits. */
int vsock_host_connect(const struct vsock_host *host, uint32_t port);

#endif
