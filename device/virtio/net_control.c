// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * net_control.c - orders of the driver's (5.1.6.5). Frames are not filtered: the
 * driver's MAC table and its modes are accepted, and it gets whatever the back
 * end brings.
 *
 * Lock held, main thread.
 */
#include <linux/if_ether.h>
#include <linux/virtio_net.h>
#include <string.h>

#include "device/virtio/net_internal.h"

static bool control_rx(struct net *net, uint8_t command, const struct vchain *chain)
{
	(void)net;
	/* The modes of CTRL_RX alone; CTRL_RX_EXTRA is not offered. Nothing is filtered. */
	return command <= VIRTIO_NET_CTRL_RX_ALLMULTI &&
	       chain->out_bytes == sizeof(struct virtio_net_ctrl_hdr) + 1;
}

/*
 * One half of the MAC table: its length, 0: wrong. Its entries are not kept,
 * for nothing is filtered.
 */
static uint64_t table_bytes(const struct vchain *chain, uint64_t at)
{
	uint32_t entries;

	if (!vchain_read(chain, at, &entries, sizeof(entries)))
		return 0;
	return sizeof(entries) + (uint64_t)entries * ETH_ALEN;
}

static bool control_mac(struct net *net, uint8_t command, const struct vchain *chain)
{
	uint64_t at = sizeof(struct virtio_net_ctrl_hdr), half;
	uint8_t mac[ETH_ALEN];

	switch (command) {
	case VIRTIO_NET_CTRL_MAC_ADDR_SET:
		if (chain->out_bytes != at + sizeof(mac) ||
		    !vchain_read(chain, at, mac, sizeof(mac)) || !net_mac_is_valid(mac))
			return false;
		memcpy(net->config.mac, mac, sizeof(mac));
		return true;
	case VIRTIO_NET_CTRL_MAC_TABLE_SET:
		half = table_bytes(chain, at);
		at += half;
		if (!half || at > chain->out_bytes)
			return false;
		half = table_bytes(chain, at);
		return half && at + half == chain->out_bytes;
	default:
		return false;
	}
}

static bool control_announce(struct net *net, uint8_t command)
{
	if (command != VIRTIO_NET_CTRL_ANNOUNCE_ACK ||
	    !(net->config.status & VIRTIO_NET_S_ANNOUNCE))
		return false;
	net->config.status &= (uint16_t)~VIRTIO_NET_S_ANNOUNCE;
	return true;
}

static bool control(struct net *net, const struct vchain *chain)
{
	struct virtio_net_ctrl_hdr header;

	vchain_read(chain, 0, &header, sizeof(header));
	switch (header.class) {
	case VIRTIO_NET_CTRL_RX:
		return control_rx(net, header.cmd, chain);
	case VIRTIO_NET_CTRL_MAC:
		return control_mac(net, header.cmd, chain);
	case VIRTIO_NET_CTRL_ANNOUNCE:
		return control_announce(net, header.cmd);
	default:
		return false;
	}
}

void net_control_run(struct net *net, struct vqueue *q)
{
	struct vchain *chain;
	virtio_net_ctrl_ack ack;
	unsigned int n;

	for (n = 0; n < VDEV_TURN_CHAINS && vdev_take(&net->dev, q, &chain); n++) {
		if (chain->out_bytes < sizeof(struct virtio_net_ctrl_hdr) || !chain->in_bytes) {
			vqueue_drop(q, chain);
			vdev_fail(
				&net->dev,
				"queue %u: a command without header or without room for its answer",
				q->index);
			return;
		}
		ack = control(net, chain) ? VIRTIO_NET_OK : VIRTIO_NET_ERR;
		vchain_write(chain, 0, &ack, sizeof(ack));
		vdev_give(&net->dev, q, chain, sizeof(ack));
	}
	if (n == VDEV_TURN_CHAINS)
		vqueue_kick(q);
}
