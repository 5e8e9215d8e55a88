// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * net_tx.c - from the driver to the back end. A frame goes from pinned guest
 * memory to the back end in one system call. What that does not take it keeps a
 * copy of, one frame at most, and the queue rests until the back end is
 * writable.
 *
 * Lock held, main thread.
 */
#include <errno.h>
#include <linux/virtio_net.h>

#include "device/virtio/net_internal.h"

static bool header_is_right(const struct net *net, struct virtio_net_hdr_v1 *header, size_t len)
{
	bool csum = header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM;

	if (csum && (!vdev_has(&net->dev, VIRTIO_NET_F_CSUM) ||
		     (size_t)header->csum_start + header->csum_offset + 2 > len))
		return false;
	if (header->gso_type != VIRTIO_NET_HDR_GSO_NONE &&
	    (!csum || !header->gso_size || header->hdr_len > len ||
	     !net_gso_is_agreed(net, header->gso_type, false)))
		return false;
	/* No more of it than was looked at. */
	*header = (struct virtio_net_hdr_v1){
		.flags = csum ? VIRTIO_NET_HDR_F_NEEDS_CSUM : 0,
		.gso_type = header->gso_type,
		.gso_size = header->gso_size,
		.hdr_len = header->gso_type ? header->hdr_len : 0,
		.csum_start = csum ? header->csum_start : 0,
		.csum_offset = csum ? header->csum_offset : 0,
	};
	return true;
}

/* True: the chain is to be given back. */
static bool transmit(struct net *net, struct vqueue *q, struct vchain *chain)
{
	struct iovec iov[VQUEUE_SIZE_MAX + 1];
	struct virtio_net_hdr_v1 header;
	uint64_t len;
	unsigned int n;
	int r = -EINVAL;

	if (chain->n_in || !vchain_read(chain, 0, &header, sizeof(header))) {
		vqueue_drop(q, chain);
		vdev_fail(&net->dev, "queue %u: a frame without header, or with a writable buffer",
			  q->index);
		return false;
	}
	len = chain->out_bytes - sizeof(header);
	if (len <= NET_FRAME_MAX && header_is_right(net, &header, (size_t)len)) {
		n = vchain_iovec(chain, false, sizeof(header), len, iov + 1);
		r = net_backend_send(net->backend, &header, iov, n + 1, (size_t)len);
	}
	if (r < 0)
		net->stats.sent_dropped++;
	else
		net->stats.sent++;
	if (r == -EPIPE && net->config.status & VIRTIO_NET_S_LINK_UP)
		net_link_down(net);
	return true;
}

void net_tx_run(struct net *net)
{
	struct vqueue *q = &net->dev.queue[TX];
	struct vchain *chain;
	unsigned int n;

	for (n = 0; n < VDEV_TURN_CHAINS; n++) {
		if (net_backend_is_blocked(net->backend) || !vdev_take(&net->dev, q, &chain))
			return;
		if (!transmit(net, q, chain))
			return;
		vdev_give(&net->dev, q, chain, 0);
	}
	vqueue_kick(q);
}
