// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// See vsock_conn.h.
#include "device/virtio/vsock_conn.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/loop.h"

/* The guest is told of new credit when so much has come together. */
#define CREDIT_STEP (VSOCK_BUFFER_BYTES / 4)
#define PACKET_MAX 65536u

struct vsock_conn_poll {
	uv_poll_t poll;
	struct vsock_conn *conn;
	int events;
};

/* ---- a connection's socket ---- */

static void conn_hang_up(struct vsock_conn *c)
{
	if (c->fd < 0)
		return;
	loop_close((uv_handle_t *)&c->poll->poll, c->poll);
	c->poll = NULL;
	close(c->fd);
	c->fd = -1;
	c->readable = false;
	free(c->buffer);
	c->buffer = NULL;
	c->len = 0;
}

void vsock_conn_free(struct vsock_conn *c)
{
	struct vsock_table *table = c->table;

	conn_hang_up(c);
	table->n--;
	table->conn[c->slot] = table->conn[table->n];
	table->conn[c->slot]->slot = c->slot;
	free(c);
}

void vsock_conn_refuse(struct vsock_conn *c)
{
	conn_hang_up(c);
	c->state = VSOCK_REFUSED;
}

void vsock_conn_linger(struct vsock_conn *c, int64_t until_ns)
{
	conn_hang_up(c);
	c->state = VSOCK_CLOSING;
	c->linger_ns = until_ns;
}

static void vsock_conn_on_poll(uv_poll_t *poll, int status, int events)
{
	struct vsock_conn *c = ((struct vsock_conn_poll *)poll->data)->conn;

	c->table->ready(c, status, events);
}

void vsock_conn_unpolled(struct vsock_conn *c)
{
	c->poll->events = 0;
}

/* What its socket is polled for follows from its state. */
void vsock_conn_update(struct vsock_conn *c)
{
	int events = 0;

	if (c->fd < 0 || c->state == VSOCK_DEAD)
		return;
	if (c->state == VSOCK_CALLING && !c->readable)
		events = UV_DISCONNECT;
	if (c->state == VSOCK_OPEN && !c->readable && !(c->guest_ended & VSOCK_RCV) &&
	    !(c->host_ended & VSOCK_SEND))
		events = UV_READABLE;
	if (c->len)
		events |= UV_WRITABLE;
	if (events == c->poll->events)
		return;
	c->poll->events = events;
	if (events)
		uv_poll_start(&c->poll->poll, events, vsock_conn_on_poll);
	else
		uv_poll_stop(&c->poll->poll);
}

struct vsock_conn *vsock_conn_new(struct vsock_table *table, int fd, enum vsock_state state)
{
	struct vsock_conn *c = calloc(1, sizeof(*c));
	struct vsock_conn_poll *poll = calloc(1, sizeof(*poll));

	if (!c || !poll || table->n == VSOCK_CONNS_MAX ||
	    uv_poll_init(loop_uv(table->loop), &poll->poll, fd) < 0) {
		close(fd);
		free(poll);
		free(c);
		return NULL;
	}
	poll->poll.data = poll;
	poll->conn = c;
	c->table = table;
	c->fd = fd;
	c->poll = poll;
	c->state = state;
	c->slot = table->n;
	table->conn[table->n++] = c;
	return c;
}

struct vsock_conn *vsock_conn_find(const struct vsock_table *table, uint32_t host_port,
				   uint32_t guest_port)
{
	struct vsock_conn *c;
	unsigned int i;

	for (i = 0; i < table->n; i++) {
		c = table->conn[i];
		if (c->host_port == host_port && c->guest_port == guest_port &&
		    c->state != VSOCK_DRAINING && c->state != VSOCK_DEAD)
			return c;
	}
	return NULL;
}

/* ---- from the guest to the socket ---- */

/* So many bytes need no room any more. */
static void conn_gone(struct vsock_conn *c, uint32_t n)
{
	c->gone += n;
	c->credit |= c->gone - c->reported >= CREDIT_STEP;
}

/* The socket takes no more, ever. */
static void conn_break(struct vsock_conn *c)
{
	conn_gone(c, c->len);
	c->len = 0;
	c->host_ended |= VSOCK_RCV;
}

bool vsock_conn_finish(struct vsock_conn *c)
{
	if (c->len)
		return false;
	if (c->state == VSOCK_DRAINING) {
		vsock_conn_free(c);
		return true;
	}
	if (c->guest_ended == VSOCK_BOTH)
		vsock_conn_refuse(c);
	else if (c->guest_ended & VSOCK_SEND)
		shutdown(c->fd, SHUT_WR);
	return false;
}

bool vsock_conn_flush(struct vsock_conn *c)
{
	ssize_t n;

	if (!c->len)
		return false;
	n = send(c->fd, c->buffer + c->at, c->len, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n < 0) {
		conn_break(c);
	} else {
		c->at += (uint32_t)n;
		c->len -= (uint32_t)n;
		conn_gone(c, (uint32_t)n);
	}
	if (c->len)
		return false;
	free(c->buffer);
	c->buffer = NULL;
	return vsock_conn_finish(c);
}

/* Bytes of the chain, behind its header, straight to the socket; how many it took. */
static uint32_t conn_write(struct vsock_conn *c, const struct vchain *chain, uint32_t len)
{
	struct iovec iov[VQUEUE_SIZE_MAX];
	struct msghdr msg = { .msg_iov = iov };
	ssize_t n;

	msg.msg_iovlen = vchain_iovec(chain, false, sizeof(struct virtio_vsock_hdr), len, iov);
	n = sendmsg(c->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n < 0 && errno != EAGAIN && errno != EINTR)
		conn_break(c);
	return n < 0 ? 0 : (uint32_t)n;
}

void vsock_conn_receive(struct vsock_conn *c, const struct vchain *chain, uint32_t len)
{
	uint32_t wrote = 0;

	/* More than it was given credit for. */
	if (len > VSOCK_BUFFER_BYTES - (c->came - c->gone) || c->guest_ended & VSOCK_SEND) {
		vsock_conn_refuse(c);
		return;
	}
	c->came += len;
	if (!c->len && !(c->host_ended & VSOCK_RCV))
		wrote = conn_write(c, chain, len);
	if (c->host_ended & VSOCK_RCV)
		wrote = len;
	conn_gone(c, wrote);
	len -= wrote;
	if (!len)
		return;
	if (!c->buffer)
		c->buffer = malloc(VSOCK_BUFFER_BYTES);
	if (!c->buffer) {
		vsock_conn_refuse(c);
		return;
	}
	if (!c->len || c->at + c->len + len > VSOCK_BUFFER_BYTES) {
		memmove(c->buffer, c->buffer + (c->len ? c->at : 0), c->len);
		c->at = 0;
	}
	vchain_read(chain, sizeof(struct virtio_vsock_hdr) + wrote, c->buffer + c->at + c->len,
		    len);
	c->len += len;
}

/* ---- from the socket to the guest ---- */

/* The guest's room. A guest whose numbers make no sense has none. */
static uint32_t conn_room(const struct vsock_conn *c)
{
	uint32_t used = c->sent - c->peer_gone;

	return used < c->peer_alloc ? c->peer_alloc - used : 0;
}

bool vsock_conn_is_closed(const struct vsock_conn *c)
{
	struct pollfd pfd = { .fd = c->fd };

	return poll(&pfd, 1, 0) > 0 && pfd.revents & (POLLHUP | POLLERR);
}

/* The socket has nothing more to read: ended in one direction, or gone. */
static void conn_ended(struct vsock_conn *c)
{
	c->host_ended |= VSOCK_SEND;
	if (vsock_conn_is_closed(c))
		conn_break(c);
}

/* Is there something to read, really? */
static bool conn_peek(struct vsock_conn *c)
{
	uint8_t byte;
	ssize_t n = recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);

	if (n > 0)
		return true;
	c->readable = false;
	if (n == 0 || (errno != EAGAIN && errno != EINTR))
		conn_ended(c);
	return false;
}

/*
 * What it has to say next, 0: nothing. What is to be read comes before the word
 * that there is no more.
 */
uint16_t vsock_conn_next_op(struct vsock_conn *c)
{
	if (c->state == VSOCK_DEAD)
		return 0;
	if (c->state == VSOCK_REFUSED)
		return VIRTIO_VSOCK_OP_RST;
	if (c->request)
		return VIRTIO_VSOCK_OP_REQUEST;
	if (c->response)
		return VIRTIO_VSOCK_OP_RESPONSE;
	if (c->state == VSOCK_OPEN && c->readable && !(c->guest_ended & VSOCK_RCV) &&
	    !(c->host_ended & VSOCK_SEND)) {
		if (!conn_room(c) && !c->asked)
			return VIRTIO_VSOCK_OP_CREDIT_REQUEST;
		if (conn_room(c) && conn_peek(c))
			return VIRTIO_VSOCK_OP_RW;
	}
	if (c->state == VSOCK_OPEN && c->host_ended & ~c->host_end_sent)
		return VIRTIO_VSOCK_OP_SHUTDOWN;
	return c->state == VSOCK_OPEN && c->credit ? VIRTIO_VSOCK_OP_CREDIT_UPDATE : 0;
}

/* The socket's bytes into the chain, behind its header; how many. */
uint32_t vsock_conn_read(struct vsock_conn *c, const struct vchain *chain)
{
	struct iovec iov[VQUEUE_SIZE_MAX];
	struct msghdr msg = { .msg_iov = iov };
	uint64_t len = chain->in_bytes - sizeof(struct virtio_vsock_hdr);
	ssize_t n;

	if (len > PACKET_MAX)
		len = PACKET_MAX;
	if (len > conn_room(c))
		len = conn_room(c);
	msg.msg_iovlen = vchain_iovec(chain, true, sizeof(struct virtio_vsock_hdr), len, iov);
	n = len ? recvmsg(c->fd, &msg, MSG_DONTWAIT) : 0;
	/* There was something a moment ago, and nobody else reads it. */
	return n < 0 ? 0 : (uint32_t)n;
}

