// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * net_announce.c - after a migration the network has to learn where the guest is
 * now (5.1.6.5.4): we broadcast a RARP frame with its address, and the driver is
 * asked to announce itself (GUEST_ANNOUNCE); both some times, for there may be
 * nobody to listen yet.
 *
 * Main thread.
 */
#include <endian.h>
#include <linux/if_arp.h>
#include <linux/if_ether.h>
#include <linux/virtio_net.h>
#include <string.h>

#include "device/virtio/net_internal.h"

#define ANNOUNCE_FIRST_MS 50
#define ANNOUNCE_STEP_MS 100

static void announce_on_timer(uv_timer_t *timer);

/*
 * A reverse ARP request, who has this MAC's address, as hosts have long sent it
 * for guests: switches learn from it.
 */
static void rarp_send(struct net *net)
{
	struct {
		struct ethhdr eth;
		struct arphdr arp;
		uint8_t sender[ETH_ALEN], sender_ip[4], target[ETH_ALEN], target_ip[4];
		uint8_t padding[18];
	} __attribute__((packed)) frame = {
		.eth = { .h_proto = htobe16(ETH_P_RARP) },
		.arp = { .ar_hrd = htobe16(ARPHRD_ETHER),
			 .ar_pro = htobe16(ETH_P_IP),
			 .ar_hln = ETH_ALEN,
			 .ar_pln = 4,
			 .ar_op = htobe16(ARPOP_RREQUEST) },
	};
	struct iovec iov[2] = { { 0 }, { &frame, sizeof(frame) } };
	struct virtio_net_hdr_v1 header = { 0 };

	_Static_assert(sizeof(frame) == ETH_ZLEN, "the shortest frame there is");
	memset(frame.eth.h_dest, 0xff, ETH_ALEN);
	memcpy(frame.eth.h_source, net->config.mac, ETH_ALEN);
	memcpy(frame.sender, net->config.mac, ETH_ALEN);
	memcpy(frame.target, net->config.mac, ETH_ALEN);
	/* One that is not taken now is not worth waiting: there are more. */
	net_backend_send(net->backend, &header, iov, 2, sizeof(frame));
}

void net_announce(struct net *net)
{
	if (!net->announce || !net->dev.running)
		return;
	net->announce--;
	net->stats.announced++;
	rarp_send(net);
	if (vdev_has(&net->dev, VIRTIO_NET_F_GUEST_ANNOUNCE) &&
	    vdev_has(&net->dev, VIRTIO_NET_F_CTRL_VQ)) {
		net->config.status |= VIRTIO_NET_S_ANNOUNCE;
		vdev_config_changed(&net->dev);
	}
	if (net->watch && net->announce)
		uv_timer_start(&net->watch->timer, announce_on_timer,
			       ANNOUNCE_FIRST_MS +
				       ANNOUNCE_STEP_MS * (ANNOUNCE_ROUNDS - 1 - net->announce),
			       0);
	net_poll_update(net);
}

static void announce_on_timer(uv_timer_t *timer)
{
	struct net *net = ((struct net_watch *)timer->data)->net;

	vdev_lock(&net->dev);
	net_announce(net);
	vdev_unlock(&net->dev);
}
