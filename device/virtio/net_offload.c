// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * net_offload.c - checksums and segmentation: what the back end can do, the
 * driver has agreed to, and the back end is set to.
 */
#include <linux/virtio_net.h>

#include "device/virtio/net_internal.h"

/*
 * What the back end must be able to do, for each feature; first what the guest
 * sends, then what it is given.
 */
static const struct {
	unsigned int feature, offload;
	bool given;
} offload_features[] = {
	{ VIRTIO_NET_F_CSUM, NET_OFFLOAD_CSUM, false },
	{ VIRTIO_NET_F_HOST_TSO4, NET_OFFLOAD_TSO4, false },
	{ VIRTIO_NET_F_HOST_TSO6, NET_OFFLOAD_TSO6, false },
	{ VIRTIO_NET_F_HOST_ECN, NET_OFFLOAD_ECN, false },
	{ VIRTIO_NET_F_GUEST_CSUM, NET_OFFLOAD_CSUM, true },
	{ VIRTIO_NET_F_GUEST_TSO4, NET_OFFLOAD_TSO4, true },
	{ VIRTIO_NET_F_GUEST_TSO6, NET_OFFLOAD_TSO6, true },
	{ VIRTIO_NET_F_GUEST_ECN, NET_OFFLOAD_ECN, true },
};
#define OFFLOAD_FEATURES (sizeof(offload_features) / sizeof(offload_features[0]))

bool net_gso_is_agreed(const struct net *net, unsigned int type, bool given)
{
	static const unsigned int need[2][3] = {
		{ VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_ECN },
		{ VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_ECN },
	};

	if (type & VIRTIO_NET_HDR_GSO_ECN && !vdev_has(&net->dev, need[given][2]))
		return false;
	switch (type & ~(unsigned int)VIRTIO_NET_HDR_GSO_ECN) {
	case VIRTIO_NET_HDR_GSO_TCPV4:
		return vdev_has(&net->dev, need[given][0]);
	case VIRTIO_NET_HDR_GSO_TCPV6:
		return vdev_has(&net->dev, need[given][1]);
	default:
		return false;
	}
}

void net_offloads_update(struct net *net)
{
	unsigned int i, offloads = 0;

	for (i = 0; i < OFFLOAD_FEATURES; i++)
		if (offload_features[i].given && vdev_has(&net->dev, offload_features[i].feature))
			offloads |= offload_features[i].offload;
	if (offloads != net->offloads)
		net_backend_set_offloads(net->backend, offloads);
	net->offloads = offloads;
}

uint64_t net_offloads_accepted(const struct net *net)
{
	uint64_t mask = 0;
	unsigned int i;

	for (i = 0; i < OFFLOAD_FEATURES; i++)
		mask |= BIT(offload_features[i].feature);
	return net->dev.accepted & mask;
}

uint64_t net_features(const struct net *net)
{
	uint64_t value = BIT(VIRTIO_NET_F_MAC) | BIT(VIRTIO_NET_F_STATUS) |
			 BIT(VIRTIO_NET_F_MRG_RXBUF) | BIT(VIRTIO_NET_F_CTRL_VQ) |
			 BIT(VIRTIO_NET_F_CTRL_RX) | BIT(VIRTIO_NET_F_CTRL_MAC_ADDR) |
			 BIT(VIRTIO_NET_F_GUEST_ANNOUNCE);
	unsigned int i;

	if (net->backend->mtu)
		value |= BIT(VIRTIO_NET_F_MTU);
	for (i = 0; i < OFFLOAD_FEATURES; i++)
		if (net->backend->offloads & offload_features[i].offload)
			value |= BIT(offload_features[i].feature);
	return value;
}
