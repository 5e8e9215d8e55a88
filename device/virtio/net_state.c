// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * net_state.c - what a migration takes along of a network device, and what the
 * back end at the destination must have for it.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/if_ether.h>
#include <linux/virtio_net.h>
#include <string.h>

#include "base/proto.h"
#include "device/virtio/net_internal.h"
#include "net.pb-c.h"

int net_state_save(void *arg, struct buf *out, struct err *err)
{
	Postern__Device__NetState msg = POSTERN__DEVICE__NET_STATE__INIT;
	struct net *net = arg;
	uint8_t *to;

	msg.mac.data = net->config.mac;
	msg.permanent.data = net->mac;
	msg.mac.len = msg.permanent.len = ETH_ALEN;
	if (net->dev.status & VIRTIO_CONFIG_S_FEATURES_OK)
		msg.offloads = net_offloads_accepted(net);
	if (net->dev.status & VIRTIO_CONFIG_S_FEATURES_OK &&
	    net->dev.accepted & BIT(VIRTIO_NET_F_MTU))
		msg.mtu = net->config.mtu;
	to = buf_reserve(out, postern__device__net_state__get_packed_size(&msg));
	if (!to)
		return err_set(err, -ENOMEM, "no memory for the state of %s", net->dev.name);
	out->len += postern__device__net_state__pack(&msg, to);
	return 0;
}

static int net_state_check(const struct net *net, const Postern__Device__NetState *msg,
			   struct err *err)
{
	uint64_t lacks = msg->offloads & ~net->dev.offered;

	if (msg->mac.len != ETH_ALEN || !net_mac_is_valid(msg->mac.data) ||
	    msg->permanent.len != ETH_ALEN || !net_mac_is_valid(msg->permanent.data))
		return err_set(err, -EINVAL, "no MAC address of one station");
	if (msg->mtu && (msg->mtu < NET_MTU_MIN || msg->mtu > NET_MTU_MAX))
		return err_set(err, -EINVAL, "an MTU of %u", msg->mtu);
	/* What it sends would be dropped on the way, and nobody told. */
	if (msg->mtu && net->backend->mtu && net->backend->mtu < msg->mtu)
		return err_set(
			err, -EINVAL,
			"the guest was told of an MTU of %u, %s here has %u: ip link set dev NAME mtu %u",
			msg->mtu, net->backend->name, net->backend->mtu, msg->mtu);
	if (lacks)
		return err_set(
			err, -EINVAL,
			"the guest uses checksum and segmentation offloads (features 0x%" PRIx64
			") that %s here does not "
			"have; a tap has them",
			lacks, net->backend->name);
	return 0;
}

/*
 * The driver that has been told of one is not told of another (5.1.4.1), here
 * or after a reset; who says that it has, and of none, had any.
 */
static void mtu_take(struct net *net, uint32_t mtu)
{
	if (mtu)
		net->config.mtu = (uint16_t)mtu;
	else if (net->dev.accepted & BIT(VIRTIO_NET_F_MTU) && !net->config.mtu)
		net->config.mtu = NET_MTU_MAX;
}

int net_state_load(void *arg, const uint8_t *data, size_t len, bool apply, struct err *err)
{
	Postern__Device__NetState *msg = proto_unpack(&postern__device__net_state__descriptor, data,
						      len, PROTO_FIELDS_MAX, err);
	struct net *net = arg;
	int r;

	if (!msg)
		return -EINVAL;
	r = net_state_check(net, msg, err);
	if (!r && apply) {
		memcpy(net->config.mac, msg->mac.data, ETH_ALEN);
		memcpy(net->mac, msg->permanent.data, ETH_ALEN);
		mtu_take(net, msg->mtu);
		net->arrived = true;
	}
	postern__device__net_state__free_unpacked(msg, NULL);
	return r;
}
