// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * net_rx.c - from the back end to the driver. A frame is read into the one
 * buffer there is for it, and goes on into as many of the driver's chains as it
 * needs. When there are not enough of them, or a page of one is missing, those
 * taken are put back, the frame stays, and nothing is read from the back end
 * until the queue's eventfd counts: the driver has added some, or the page is
 * in. So no chain is ever in flight, and a reset, a stop, a migration need not
 * wait for the network.
 *
 * Lock held, main thread.
 */
#include <endian.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/virtio_net.h>

#include "device/virtio/net_internal.h"

#define TAG_BYTES 4		/* of IEEE 802.1Q */
/* Frames that have waited in the back end since before the guest came. */
#define STALE_MAX 1024

/*
 * What the driver was told is the most that comes, but in segments (5.1.4.1);
 * with a tag, if the frame has one.
 */
static bool is_within_mtu(const struct net *net, const struct virtio_net_hdr_v1 *header, size_t len)
{
	const struct ethhdr *eth = (const struct ethhdr *)(const void *)(header + 1);
	bool tagged = len >= NET_HEADER_BYTES + ETH_HLEN && (eth->h_proto == htobe16(ETH_P_8021Q) ||
							     eth->h_proto == htobe16(ETH_P_8021AD));

	return !vdev_has(&net->dev, VIRTIO_NET_F_MTU) ||
	       (header->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) != VIRTIO_NET_HDR_GSO_NONE ||
	       len <= NET_HEADER_BYTES + ETH_HLEN + (tagged ? TAG_BYTES : 0) + net->config.mtu;
}

/*
 * Is the frame as the driver can take it? One from before offloads were set
 * otherwise may not be.
 */
static bool frame_is_agreed(const struct net *net, struct virtio_net_hdr_v1 *header, size_t len)
{
	if (!is_within_mtu(net, header, len))
		return false;
	if (!vdev_has(&net->dev, VIRTIO_NET_F_GUEST_CSUM)) {
		if (header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
			return false;
		header->flags = 0;
	}
	return header->gso_type == VIRTIO_NET_HDR_GSO_NONE ||
	       net_gso_is_agreed(net, header->gso_type, true);
}

static void unpop_all(struct vqueue *q, struct vchain *const *chain, unsigned int n)
{
	while (n--)
		vqueue_unpop(q, chain[n]);
}

static void scatter(struct net *net, struct vqueue *q, struct vchain *const *chain, unsigned int n)
{
	struct virtio_net_hdr_v1 *header = (struct virtio_net_hdr_v1 *)(void *)net->frame;
	size_t at = 0, part;
	unsigned int i;

	header->num_buffers = (uint16_t)n;
	for (i = 0; i < n; i++, at += part) {
		part = net->frame_len - at;
		if (part > chain[i]->in_bytes)
			part = (size_t)chain[i]->in_bytes;
		vchain_write(chain[i], 0, net->frame + at, part);
		chain[i]->written = (uint32_t)part;
	}
	vdev_give_all(&net->dev, q, chain, n);
}

void net_rx_drop(struct net *net)
{
	net->stats.received_dropped++;
	net->frame_len = 0;
}

/* Gets rid of the frame, one way or another. False: not now; the queue's eventfd tells when. */
static bool net_rx_deliver(struct net *net, struct vqueue *q)
{
	unsigned int n, most = vdev_has(&net->dev, VIRTIO_NET_F_MRG_RXBUF) ? q->size : 1;
	struct vchain *chain[VQUEUE_SIZE_MAX];
	uint64_t room = 0;

	for (n = 0; room < net->frame_len; n++) {
		if (n == most) {
			unpop_all(q, chain, n);
			net_rx_drop(net);
			return true;
		}
		if (!vdev_take(&net->dev, q, &chain[n])) {
			unpop_all(q, chain, n);
			return false;
		}
		if (chain[n]->n_out || chain[n]->in_bytes < NET_HEADER_BYTES) {
			unpop_all(q, chain, n + 1);
			vdev_fail(
				&net->dev,
				"queue %u: a buffer for frames that is readable, or has no room for a header",
				q->index);
			return false;
		}
		room += chain[n]->in_bytes;
	}
	scatter(net, q, chain, n);
	net->frame_len = 0;
	net->stats.received++;
	return true;
}

/* Reads a frame; false: there is none. */
static bool frame_read(struct net *net)
{
	ssize_t r = net_backend_receive(net->backend, net->frame);

	if (r == -EPIPE && net->config.status & VIRTIO_NET_S_LINK_UP)
		net_link_down(net);
	net->reading = r == -EAGAIN;
	if (r < 0)
		return false;
	net->frame_len = (size_t)r;
	if (!frame_is_agreed(net, (struct virtio_net_hdr_v1 *)(void *)net->frame, net->frame_len))
		net_rx_drop(net);
	return true;
}

void net_rx_run(struct net *net)
{
	struct vqueue *q = &net->dev.queue[RX];
	unsigned int n;

	net->reading = false;
	for (n = 0; n < VDEV_TURN_CHAINS && vdev_may_run(&net->dev, q); n++) {
		if (!net->frame_len && !frame_read(net))
			return;
		if (net->frame_len && !net_rx_deliver(net, q))
			return;
	}
	if (n == VDEV_TURN_CHAINS)
		vqueue_kick(q);
}

void net_rx_drop_stale(struct net *net)
{
	unsigned int n;

	for (n = 0; n < STALE_MAX && frame_read(net); n++)
		if (net->frame_len)
			net_rx_drop(net);
}
