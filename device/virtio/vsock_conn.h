/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * One connection of virtio's sockets: its unix socket, what is kept for it,
 * credit both ways (virtio 1.2, section 5.10.6.3), and what it has to say to
 * the guest next.
 *
 *   CALLING --the guest responds--> OPEN --the host's side has ended--> CLOSING
 *   --the guest's reset, or time--> gone
 *                                   |  +--the guest's side has, all is written, or anything is wrong--> REFUSED --reset sent--> gone
 *                                   +--the guest's reset, some of it is not written yet--> DRAINING --> gone
 *   any but a call that the guest has not heard of --the driver resets the
 *   device--> DEAD --the main thread comes round--> gone
 *
 * Bytes from the guest are written to the socket; what it does not take is
 * kept, up to the credit that the guest is given. Bytes to the guest are read
 * straight into its buffers.
 *
 * The device's lock guards all of it; main thread, but for DEAD.
 */
#ifndef POSTERN_DEVICE_VIRTIO_VSOCK_CONN_H
#define POSTERN_DEVICE_VIRTIO_VSOCK_CONN_H

#include <linux/virtio_vsock.h>

#include "base/loop.h"
#include "device/virtio/queue.h"

#define VSOCK_CONNS_MAX 256u
/* Of one connection, from the guest. */
#define VSOCK_BUFFER_BYTES 65536u

enum {
	VSOCK_RCV = VIRTIO_VSOCK_SHUTDOWN_RCV,
	VSOCK_SEND = VIRTIO_VSOCK_SHUTDOWN_SEND,
	VSOCK_BOTH = VSOCK_RCV | VSOCK_SEND,
};

enum vsock_state {
	VSOCK_CALLING,
	VSOCK_OPEN,
	VSOCK_CLOSING,
	VSOCK_REFUSED,
	VSOCK_DRAINING,
	VSOCK_DEAD
};

struct vsock_conn_poll;
struct vsock_conn;

struct vsock_table {
	struct loop *loop;
	struct vsock_conn *conn[VSOCK_CONNS_MAX];
	unsigned int n;
	/*
	 * A connection's socket is ready (uv_poll_event), or has an error
	 * (status < 0). Device's lock not held.
	 */
	void (*ready)(struct vsock_conn *conn, int status, int events);
};

struct vsock_conn {
	struct vsock_table *table;
	unsigned int slot;
	enum vsock_state state;
	uint32_t host_port, guest_port;
	/*
	 * The socket; -1: closed. The handle goes with the descriptor, since
	 * the loop knows it by its number.
	 */
	int fd;
	struct vsock_conn_poll *poll;
	bool readable;			/* as far as is known; not polled for then */
	/* From the guest: what the socket has not taken. */
	uint8_t *buffer;
	uint32_t at, len;
	uint32_t came, gone, reported;	/* bytes: from the guest; to the socket; of those, what the guest knows */
	/* To the guest: its room. */
	uint32_t peer_alloc, peer_gone, sent;
	bool asked;			/* it was asked for credit */
	bool request, response, credit;	/* packets to be sent */
	uint32_t guest_ended, host_ended, host_end_sent;	/* VSOCK_RCV, VSOCK_SEND: what no longer happens there */
	int64_t linger_ns;		/* CLOSING, and CALLING with its request not sent yet: until when it waits for the guest */
};

/* fd, non-blocking, is the connection's from now on, or closed: NULL. */
struct vsock_conn *vsock_conn_new(struct vsock_table *table, int fd, enum vsock_state state);
/* Its socket is closed, and its place in the table another's. */
void vsock_conn_free(struct vsock_conn *c);
/* REFUSED: its socket is closed, all that is left to do is to tell the guest. */
void vsock_conn_refuse(struct vsock_conn *c);
/* CLOSING: its socket is closed, the guest has been told. */
void vsock_conn_linger(struct vsock_conn *c, int64_t until_ns);
/* After whatever happened to it: polls its socket for what is wanted now. */
void vsock_conn_update(struct vsock_conn *c);
/* The loop has let go of the socket: polls it anew. */
void vsock_conn_unpolled(struct vsock_conn *c);
/* The one that packets of these ports are of; NULL: none. */
struct vsock_conn *vsock_conn_find(const struct vsock_table *table, uint32_t host_port,
				   uint32_t guest_port);

/* Has the other side of the socket closed it, in both directions? */
bool vsock_conn_is_closed(const struct vsock_conn *c);
/* len bytes of a packet's chain, behind the header, for the socket. */
void vsock_conn_receive(struct vsock_conn *c, const struct vchain *chain, uint32_t len);
/* Writes what is kept. True: the connection is no more. */
bool vsock_conn_flush(struct vsock_conn *c);
/*
 * The guest sends no more: ends the socket, if all it sent is written. True:
 * the connection is no more.
 */
bool vsock_conn_finish(struct vsock_conn *c);

/* What it has to say to the guest next (VIRTIO_VSOCK_OP_), 0: nothing. */
uint16_t vsock_conn_next_op(struct vsock_conn *c);
/* For OP_RW: the socket's bytes into the chain, behind its header; how many. */
uint32_t vsock_conn_read(struct vsock_conn *c, const struct vchain *chain);

#endif
