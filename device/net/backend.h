/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Where a guest's frames go to and come from: a tap device, passt, or what a
 * descriptor is. Nothing here waits.
 *
 * A frame has a struct virtio_net_hdr_v1 in front; a back end that knows none
 * (`header`) gives one of zeroes and ignores ours. Where the far side does not
 * take a frame, or, being a stream, only a part of it, the back end keeps the
 * rest, of one frame, and takes no other until net_backend_flush has brought
 * that out: the caller polls `fd` for it. What has `gone` never comes back.
 *
 * Main thread, but for set_offloads: any, with the device's lock.
 */
#ifndef POSTERN_DEVICE_NET_BACKEND_H
#define POSTERN_DEVICE_NET_BACKEND_H

#include <linux/virtio_net.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/loop.h"
#include "device/net/config.h"

#define NET_HEADER_BYTES sizeof(struct virtio_net_hdr_v1)
#define NET_FRAME_MIN 14u
/* 64 KiB, which is what segmentation offload makes, and an Ethernet header with tags. */
#define NET_FRAME_MAX ((64u << 10) + 32)

/* Of one frame, with its header: what a queue's chain can have. */
#define NET_PARTS_MAX 258u

/* Of IPv4 (RFC 791), and what virtio can say (virtio 1.2, 5.1.4.1). */
#define NET_MTU_MIN 68
#define NET_MTU_MAX 65535

/* What a back end can do with frames that are larger, or less finished, than the wire's. */
enum { NET_OFFLOAD_CSUM = 1, NET_OFFLOAD_TSO4 = 2, NET_OFFLOAD_TSO6 = 4, NET_OFFLOAD_ECN = 8 };

struct helper;
struct net_backend;

struct net_backend_ops {
	/*
	 * As writev and read, of whole frames or, with `stream`, of bytes.
	 * Negative errno; 0 of read: gone.
	 */
	ssize_t (*write)(struct net_backend *b, const struct iovec *iov, unsigned int n);
	ssize_t (*read)(struct net_backend *b, void *to, size_t room);
	/* Each of these may be NULL. */
	void (*set_offloads)(struct net_backend *b, unsigned int offloads);
	void (*gone)(struct net_backend *b);	/* just now */
	void (*close)(struct net_backend *b);	/* fd is closed already */
};

struct net_backend {
	const struct net_backend_ops *ops;
	int fd;
	bool header;			/* frames carry one */
	bool stream;			/* each frame is preceded by its length, 4 bytes, big-endian */
	bool gone;
	unsigned int offloads;		/* that it can do */
	unsigned int mtu;		/* of what is behind it, without the Ethernet header; 0: not known */
	struct helper *helper;		/* passt's, NULL: none */
	char name[48];
	uint8_t *rest;			/* [rest_at, rest_len) is not written yet */
	size_t rest_at, rest_len;
	uint8_t *in;			/* a stream's bytes that are no whole frame yet: [in_at, in_len) */
	size_t in_at, in_len;
};

/*
 * Opens what config, with a MAC address, says; the error names it, and what
 * helps. A passt of our own is waited for, until it works or has said why it
 * does not; a signal ends that (-EINTR). loop may be NULL: then one that ends
 * is not reaped before net_backend_close.
 */
int net_backend_open(struct net_backend **out, struct loop *loop, const struct net_config *config,
		     struct err *err);
/*
 * For who fills one himself (fd -1 if it has none): its buffers. On an error
 * too it is to be closed.
 */
int net_backend_init(struct net_backend *b, struct err *err);
/* Frees b, which is calloc's; NULL is allowed. */
void net_backend_close(struct net_backend *b);

/*
 * A frame of `len` bytes without its header: iov[1] to iov[n - 1]; iov[0] is
 * the back end's to use. 0: it is on its way, or kept. -EAGAIN: it was not
 * taken, another one is kept. -EPIPE: gone. Another error: this frame is
 * refused; -EACCES: over a stream, to the host's loopback (frame.h).
 */
int net_backend_send(struct net_backend *b, struct virtio_net_hdr_v1 *header, struct iovec *iov,
		     unsigned int n, size_t len);
/* Is a frame kept, so that no other is taken? */
bool net_backend_is_blocked(const struct net_backend *b);
/* fd is writable: what is kept goes out, as far as that goes. 0, -EAGAIN or -EPIPE. */
int net_backend_flush(struct net_backend *b);
/*
 * A frame with its header, NET_HEADER_BYTES + NET_FRAME_MAX bytes at most;
 * returns its length. -EAGAIN: none. -EPIPE: gone.
 */
ssize_t net_backend_receive(struct net_backend *b, uint8_t *to);
/* The far side has closed, and what it sent before is not wanted: it has gone. */
void net_backend_hang_up(struct net_backend *b);
/* What the guest can be given (NET_OFFLOAD_), from now on. */
void net_backend_set_offloads(struct net_backend *b, unsigned int offloads);

/* ---- tap.c, passt.c: for backend.c; fd is b's, also on an error ---- */

int net_tap_open(struct net_backend *b, const char *name, struct err *err);
/* fd is a tap, or a socket of packets or of passt's stream. */
int net_fd_open(struct net_backend *b, int fd, struct err *err);
int net_passt_open(struct net_backend *b, struct loop *loop, const struct net_config *config,
		   struct err *err);
/* A connected stream socket. */
int net_stream_open(struct net_backend *b, int fd, struct err *err);

#endif
