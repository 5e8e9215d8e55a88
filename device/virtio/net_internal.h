/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What the files of virtio-net share, and nobody else sees. Everything here is
 * guarded by the device's lock.
 */
#ifndef POSTERN_DEVICE_VIRTIO_NET_INTERNAL_H
#define POSTERN_DEVICE_VIRTIO_NET_INTERNAL_H

#include <linux/if_ether.h>
#include <linux/virtio_net.h>

#include "base/loop.h"
#include "device/virtio/net.h"

#define BIT(n) (UINT64_C(1) << (n))
#define ANNOUNCE_ROUNDS 5

enum { RX, TX, CONTROL, QUEUES };

/* The back end in the main loop; freed once the loop has let go of both handles. */
struct net_watch {
	unsigned int handles;	/* first: see loop_close_one_of */
	uv_poll_t poll;
	uv_timer_t timer;
	struct net *net;
	int events;
};

struct net {
	struct vdev dev;
	struct net_backend *backend;
	struct virtio_net_config config;
	uint8_t mac[ETH_ALEN];		/* after a reset: the driver may set another */
	uint8_t own_mac[ETH_ALEN]; /* this machine's, whatever was loaded */
	bool asked_mac; /* that one, by the user */
	struct net_watch *watch;	/* NULL: no loop */
	unsigned int offloads;		/* that the back end is set to */
	bool reading;			/* a frame is wanted as soon as there is one */
	bool arrived;			/* loaded, and not started yet */
	unsigned int announce;		/* rounds to come */
	struct net_stats stats;
	size_t frame_len;		/* 0: none is there */
	uint8_t frame[NET_HEADER_BYTES + NET_FRAME_MAX];
};

/* ---- net.c ---- */

/* The link is down from now on, and the driver told. */
void net_link_down(struct net *net);
/* The back end is polled for what can be done with it now, and for its end. */
void net_poll_update(struct net *net);

/* ---- net_offload.c ---- */

/*
 * Segmentation of this type: has the driver accepted to send, or to be given,
 * such frames?
 */
bool net_gso_is_agreed(const struct net *net, unsigned int type, bool given);
/* Sets the back end to what the driver has accepted. */
void net_offloads_update(struct net *net);
/* Of the accepted features those that need a back end with offloads. */
uint64_t net_offloads_accepted(const struct net *net);
/* What is offered on this back end. */
uint64_t net_features(const struct net *net);

/* ---- net_rx.c ---- */

/* Receives as long as there are frames and room for them, for one turn. */
void net_rx_run(struct net *net);
/* The frame that is there is lost, and counted. */
void net_rx_drop(struct net *net);
/* What came here while the guest was elsewhere. */
void net_rx_drop_stale(struct net *net);

/* ---- net_tx.c, net_control.c ---- */

/* Sends what the driver has made ready, for one turn. */
void net_tx_run(struct net *net);
/* Carries out the driver's orders, for one turn. */
void net_control_run(struct net *net, struct vqueue *q);

/* ---- net_announce.c ---- */

/* The next round, if there is one to come (net->announce); the timer brings the others. */
void net_announce(struct net *net);

/* ---- net_state.c; see struct vdev_ops ---- */

int net_state_save(void *arg, struct buf *out, struct err *err);
int net_state_load(void *arg, const uint8_t *data, size_t len, bool apply, struct err *err);

#endif
