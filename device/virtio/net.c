// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * net.c - virtio-net (virtio 1.2, section 5.1): one pair of queues and a control queue, on a back end (device/net/).
 *
 * Received: a frame is read into the one buffer there is for it, and goes on into as many of the driver's chains as it needs. When there are
 * not enough of them, or a page of one is missing, those taken are put back, the frame stays, and nothing is read from the back end
 * until the queue's eventfd counts: the driver has added some, or the page is in. So no chain is ever in hand, and a reset, a
 * stop, a migration need not wait for the network.
 *
 * Sent: a frame goes from pinned guest memory to the back end in one system call. What that does not take it keeps a copy of, one frame
 * at most, and the queue rests until the back end is writable.
 *
 * Frames are not filtered: the driver's MAC table and its modes are accepted, and it gets whatever the back end brings.
 *
 * After a migration the network has to learn where the guest is now: we broadcast a RARP frame with its address, and the driver is
 * asked to announce itself (GUEST_ANNOUNCE); both some times, for there may be nobody to listen yet.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/if_arp.h>
#include <linux/if_ether.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/loop.h"
#include "base/proto.h"
#include "device/virtio/kind.h"
#include "device/virtio/net.h"
#include "net.pb-c.h"

#define BIT(n) (UINT64_C(1) << (n))
#define QUEUE_SIZE 256
#define TAG_BYTES 4		/* of IEEE 802.1Q */
#define ANNOUNCE_ROUNDS 5
#define ANNOUNCE_FIRST_MS 50
#define ANNOUNCE_STEP_MS 100
/* Frames that have waited in the back end since before the guest came. */
#define STALE_MAX 1024

enum { RX, TX, CONTROL, QUEUES };

/* What the back end must be able to do, for each feature; first what the guest sends, then what it is given. */
static const struct {
	unsigned int feature, offload;
	bool given;
} offload_features[] = {
	{ VIRTIO_NET_F_CSUM, NET_OFFLOAD_CSUM, false },		{ VIRTIO_NET_F_HOST_TSO4, NET_OFFLOAD_TSO4, false },
	{ VIRTIO_NET_F_HOST_TSO6, NET_OFFLOAD_TSO6, false },	{ VIRTIO_NET_F_HOST_ECN, NET_OFFLOAD_ECN, false },
	{ VIRTIO_NET_F_GUEST_CSUM, NET_OFFLOAD_CSUM, true },	{ VIRTIO_NET_F_GUEST_TSO4, NET_OFFLOAD_TSO4, true },
	{ VIRTIO_NET_F_GUEST_TSO6, NET_OFFLOAD_TSO6, true },	{ VIRTIO_NET_F_GUEST_ECN, NET_OFFLOAD_ECN, true },
};
#define OFFLOAD_FEATURES (sizeof(offload_features) / sizeof(offload_features[0]))

struct net_watch;

struct net {
	struct vdev dev;
	struct net_backend *backend;
	struct virtio_net_config config;
	uint8_t mac[ETH_ALEN];		/* after a reset: the driver may set another */
	bool asked_mac;			/* by the user */
	struct net_watch *watch;	/* NULL: no loop */
	unsigned int offloads;		/* that the back end is set to */
	bool reading;			/* a frame is wanted as soon as there is one */
	bool arrived;			/* loaded, and not started yet */
	unsigned int announce;		/* rounds to come */
	struct net_stats stats;
	size_t frame_len;		/* 0: none is there */
	uint8_t frame[NET_HEADER_BYTES + NET_FRAME_MAX];
};

/* The back end in the main loop; freed once the loop has let go of both handles. */
struct net_watch {
	unsigned int handles;	/* first: see loop_close_one_of */
	uv_poll_t poll;
	uv_timer_t timer;
	struct net *net;
	int events;
};

/* ---- to the driver; lock held, main thread ---- */

/* Segmentation of this type: what a driver must have accepted to send, or to be given, such a frame. 0: there is none. */
static bool gso_is_agreed(const struct net *net, unsigned int type, bool given)
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

/* What the driver was told is the most that comes, but in segments (5.1.4.1); with a tag, if the frame has one. */
static bool is_within_mtu(const struct net *net, const struct virtio_net_hdr_v1 *header, size_t len)
{
	const struct ethhdr *eth = (const struct ethhdr *)(const void *)(header + 1);
	bool tagged = len >= NET_HEADER_BYTES + ETH_HLEN && (eth->h_proto == htobe16(ETH_P_8021Q) || eth->h_proto == htobe16(ETH_P_8021AD));

	return !vdev_has(&net->dev, VIRTIO_NET_F_MTU) || (header->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) != VIRTIO_NET_HDR_GSO_NONE ||
	       len <= NET_HEADER_BYTES + ETH_HLEN + (tagged ? TAG_BYTES : 0) + net->config.mtu;
}

/* Is the frame as the driver can take it? One from before offloads were set otherwise may not be. */
static bool frame_is_agreed(const struct net *net, struct virtio_net_hdr_v1 *header, size_t len)
{
	if (!is_within_mtu(net, header, len))
		return false;
	if (!vdev_has(&net->dev, VIRTIO_NET_F_GUEST_CSUM)) {
		if (header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
			return false;
		header->flags = 0;
	}
	return header->gso_type == VIRTIO_NET_HDR_GSO_NONE || gso_is_agreed(net, header->gso_type, true);
}

static void untake(struct vqueue *q, struct vchain *const *chain, unsigned int n)
{
	while (n--)
		vqueue_untake(q, chain[n]);
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

static void frame_drop(struct net *net)
{
	net->stats.received_dropped++;
	net->frame_len = 0;
}

/* Gets rid of the frame, one way or another. False: not now; the queue's eventfd tells when. */
static bool deliver(struct net *net, struct vqueue *q)
{
	unsigned int n, most = vdev_has(&net->dev, VIRTIO_NET_F_MRG_RXBUF) ? q->size : 1;
	struct vchain *chain[VQUEUE_SIZE_MAX];
	uint64_t room = 0;

	for (n = 0; room < net->frame_len; n++) {
		if (n == most) {
			untake(q, chain, n);
			frame_drop(net);
			return true;
		}
		if (!vdev_take(&net->dev, q, &chain[n])) {
			untake(q, chain, n);
			return false;
		}
		if (chain[n]->n_out || chain[n]->in_bytes < NET_HEADER_BYTES) {
			untake(q, chain, n + 1);
			vdev_fail(&net->dev, "queue %u: a buffer for frames that is readable, or has no room for a header", q->index);
			return false;
		}
		room += chain[n]->in_bytes;
	}
	scatter(net, q, chain, n);
	net->frame_len = 0;
	net->stats.received++;
	return true;
}

static void offloads_update(struct net *net)
{
	unsigned int i, offloads = 0;

	for (i = 0; i < OFFLOAD_FEATURES; i++)
		if (offload_features[i].given && vdev_has(&net->dev, offload_features[i].feature))
			offloads |= offload_features[i].offload;
	if (offloads != net->offloads)
		net_backend_set_offloads(net->backend, offloads);
	net->offloads = offloads;
}

static void link_down(struct net *net)
{
	net->config.status &= (uint16_t)~VIRTIO_NET_S_LINK_UP;
	vdev_config_changed(&net->dev);
}

/* Reads a frame; false: there is none. */
static bool frame_read(struct net *net)
{
	ssize_t r = net_backend_receive(net->backend, net->frame);

	if (r == -EPIPE && net->config.status & VIRTIO_NET_S_LINK_UP)
		link_down(net);
	net->reading = r == -EAGAIN;
	if (r < 0)
		return false;
	net->frame_len = (size_t)r;
	if (!frame_is_agreed(net, (struct virtio_net_hdr_v1 *)(void *)net->frame, net->frame_len))
		frame_drop(net);
	return true;
}

static void receive(struct net *net)
{
	struct vqueue *q = &net->dev.queue[RX];
	unsigned int n;

	net->reading = false;
	for (n = 0; n < VDEV_TURN_CHAINS && vdev_may_run(&net->dev, q); n++) {
		if (!net->frame_len && !frame_read(net))
			return;
		if (net->frame_len && !deliver(net, q))
			return;
	}
	if (n == VDEV_TURN_CHAINS)
		vqueue_kick(q);
}

/* ---- from the driver ---- */

static bool header_is_right(const struct net *net, struct virtio_net_hdr_v1 *header, size_t len)
{
	bool csum = header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM;

	if (csum && (!vdev_has(&net->dev, VIRTIO_NET_F_CSUM) || (size_t)header->csum_start + header->csum_offset + 2 > len))
		return false;
	if (header->gso_type != VIRTIO_NET_HDR_GSO_NONE &&
	    (!csum || !header->gso_size || header->hdr_len > len || !gso_is_agreed(net, header->gso_type, false)))
		return false;
	/* No more of it than was looked at. */
	*header = (struct virtio_net_hdr_v1){
		.flags = csum ? VIRTIO_NET_HDR_F_NEEDS_CSUM : 0, .gso_type = header->gso_type, .gso_size = header->gso_size,
		.hdr_len = header->gso_type ? header->hdr_len : 0, .csum_start = csum ? header->csum_start : 0,
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
		vdev_fail(&net->dev, "queue %u: a frame without header, or with a writable buffer", q->index);
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
		link_down(net);
	return true;
}

static void send_all(struct net *net)
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

/* ---- control (5.1.6.5) ---- */

static bool control_rx(struct net *net, uint8_t command, const struct vchain *chain)
{
	(void)net;
	/* The modes of CTRL_RX alone; CTRL_RX_EXTRA is not offered. Nothing is filtered. */
	return command <= VIRTIO_NET_CTRL_RX_ALLMULTI && chain->out_bytes == sizeof(struct virtio_net_ctrl_hdr) + 1;
}

/* One half of the MAC table: its length, 0: wrong. Its entries are not kept, for nothing is filtered. */
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
		if (chain->out_bytes != at + sizeof(mac) || !vchain_read(chain, at, mac, sizeof(mac)) || !net_mac_is_valid(mac))
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
	if (command != VIRTIO_NET_CTRL_ANNOUNCE_ACK || !(net->config.status & VIRTIO_NET_S_ANNOUNCE))
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

static void control_all(struct net *net, struct vqueue *q)
{
	struct vchain *chain;
	virtio_net_ctrl_ack ack;
	unsigned int n;

	for (n = 0; n < VDEV_TURN_CHAINS && vdev_take(&net->dev, q, &chain); n++) {
		if (chain->out_bytes < sizeof(struct virtio_net_ctrl_hdr) || !chain->in_bytes) {
			vqueue_drop(q, chain);
			vdev_fail(&net->dev, "queue %u: a command without header or without room for its answer", q->index);
			return;
		}
		ack = control(net, chain) ? VIRTIO_NET_OK : VIRTIO_NET_ERR;
		vchain_write(chain, 0, &ack, sizeof(ack));
		vdev_give(&net->dev, q, chain, sizeof(ack));
	}
	if (n == VDEV_TURN_CHAINS)
		vqueue_kick(q);
}

/* ---- the loop; lock held ---- */

static void on_poll(uv_poll_t *handle, int status, int events);
static void on_timer(uv_timer_t *timer);

/* The back end is polled for what can be done with it now, and for its end. */
static void poll_update(struct net *net)
{
	struct net_watch *watch = net->watch;
	int events = 0;

	if (!watch)
		return;
	if (!net->backend->gone)
		events = UV_DISCONNECT;
	if (events && net->dev.running)
		events |= (net->reading ? UV_READABLE : 0) | (net_backend_is_blocked(net->backend) ? UV_WRITABLE : 0);
	if (events == watch->events)
		return;
	watch->events = events;
	if (events)
		uv_poll_start(&watch->poll, events, on_poll);
	else
		uv_poll_stop(&watch->poll);
}

static void on_queue(void *arg, struct vqueue *q)
{
	struct net *net = arg;

	offloads_update(net);
	if (q->index == RX)
		receive(net);
	else if (q->index == TX)
		send_all(net);
	else
		control_all(net, q);
	poll_update(net);
}

/* Has it an error that reading has not taken away? */
static bool poll_fails(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, 0) < 0 || p.revents & (POLLERR | POLLNVAL);
}

static void on_poll(uv_poll_t *handle, int status, int events)
{
	struct net_watch *watch = handle->data;
	struct net *net = watch->net;

	vdev_lock(&net->dev);
	/* The loop has stopped to poll then; why shows in what reading says. */
	if (status < 0)
		watch->events = 0;
	if (status < 0 || events & UV_WRITABLE) {
		if (net_backend_flush(net->backend) == -EPIPE && net->config.status & VIRTIO_NET_S_LINK_UP)
			link_down(net);
		send_all(net);
	}
	if (status < 0 || events & UV_READABLE)
		receive(net);
	if (events & UV_DISCONNECT && !(events & UV_READABLE) && !net->backend->gone) {
		net_backend_hang_up(net->backend);
		link_down(net);
	}
	/* It still says neither: not to be asked again and again. */
	if (status < 0 && !net->backend->gone && poll_fails(net->backend->fd)) {
		log_warn("%s: %s cannot be polled (%s): the guest's link is down", net->dev.name, net->backend->name, uv_strerror(status));
		net->backend->gone = true;
		link_down(net);
	}
	poll_update(net);
	vdev_unlock(&net->dev);
}

static int watch_new(struct net *net, struct err *err)
{
	struct net_watch *watch = calloc(1, sizeof(*watch));
	int r;

	if (!watch)
		return err_set(err, -ENOMEM, "no memory for a network device");
	r = uv_poll_init(loop_uv(net->dev.env.loop), &watch->poll, net->backend->fd);
	if (r < 0) {
		free(watch);
		return err_errno(err, r, "%s: event loop", net->backend->name);
	}
	uv_timer_init(loop_uv(net->dev.env.loop), &watch->timer);
	watch->poll.data = watch->timer.data = watch;
	watch->handles = 2;
	watch->net = net;
	net->watch = watch;
	return 0;
}

/* ---- announcing (5.1.6.5.4) ---- */

/* A reverse ARP request, who has this MAC's address, as hosts have long sent it for guests: switches learn from it. */
static void rarp_send(struct net *net)
{
	struct {
		struct ethhdr eth;
		struct arphdr arp;
		uint8_t sender[ETH_ALEN], sender_ip[4], target[ETH_ALEN], target_ip[4];
		uint8_t padding[18];
	} __attribute__((packed)) frame = {
		.eth = { .h_proto = htobe16(ETH_P_RARP) },
		.arp = { .ar_hrd = htobe16(ARPHRD_ETHER), .ar_pro = htobe16(ETH_P_IP), .ar_hln = ETH_ALEN, .ar_pln = 4,
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

static void announce(struct net *net)
{
	if (!net->announce || !net->dev.running)
		return;
	net->announce--;
	net->stats.announced++;
	rarp_send(net);
	if (vdev_has(&net->dev, VIRTIO_NET_F_GUEST_ANNOUNCE) && vdev_has(&net->dev, VIRTIO_NET_F_CTRL_VQ)) {
		net->config.status |= VIRTIO_NET_S_ANNOUNCE;
		vdev_config_changed(&net->dev);
	}
	if (net->watch && net->announce)
		uv_timer_start(&net->watch->timer, on_timer,
			       ANNOUNCE_FIRST_MS + ANNOUNCE_STEP_MS * (ANNOUNCE_ROUNDS - 1 - net->announce), 0);
	poll_update(net);
}

static void on_timer(uv_timer_t *timer)
{
	struct net *net = ((struct net_watch *)timer->data)->net;

	vdev_lock(&net->dev);
	announce(net);
	vdev_unlock(&net->dev);
}

/* What came here while the guest was elsewhere. */
static void stale_drop(struct net *net)
{
	unsigned int n;

	for (n = 0; n < STALE_MAX && frame_read(net); n++)
		if (net->frame_len)
			frame_drop(net);
}

static void net_start(void *arg)
{
	struct net *net = arg;

	if (net->arrived) {
		net->arrived = false;
		offloads_update(net);
		stale_drop(net);
		if (vdev_has(&net->dev, VIRTIO_NET_F_MAC))
			net->announce = ANNOUNCE_ROUNDS;
	}
	announce(net);
	/* A queue that is kicked looks for frames itself. */
	poll_update(net);
}

static void net_stop(void *arg)
{
	struct net *net = arg;

	if (net->watch)
		uv_timer_stop(&net->watch->timer);
	poll_update(net);
}

/* Any thread: the loop is left alone, it finds out. */
static void net_reset(void *arg)
{
	struct net *net = arg;

	if (net->frame_len)
		frame_drop(net);
	net->announce = 0;
	memcpy(net->config.mac, net->mac, ETH_ALEN);
	net->config.status &= (uint16_t)~VIRTIO_NET_S_ANNOUNCE;
	offloads_update(net);
}

/* ---- state ---- */

static uint64_t offloads_accepted(const struct net *net)
{
	uint64_t mask = 0;
	unsigned int i;

	for (i = 0; i < OFFLOAD_FEATURES; i++)
		mask |= BIT(offload_features[i].feature);
	return net->dev.accepted & mask;
}

static int net_save(void *arg, struct buf *out, struct err *err)
{
	Postern__Device__NetState msg = POSTERN__DEVICE__NET_STATE__INIT;
	struct net *net = arg;
	uint8_t *to;

	msg.mac.data = net->config.mac;
	msg.permanent.data = net->mac;
	msg.mac.len = msg.permanent.len = ETH_ALEN;
	if (net->dev.status & VIRTIO_CONFIG_S_FEATURES_OK)
		msg.offloads = offloads_accepted(net);
	if (net->dev.status & VIRTIO_CONFIG_S_FEATURES_OK && net->dev.accepted & BIT(VIRTIO_NET_F_MTU))
		msg.mtu = net->config.mtu;
	to = buf_reserve(out, postern__device__net_state__get_packed_size(&msg));
	if (!to)
		return err_set(err, -ENOMEM, "no memory for the state of %s", net->dev.name);
	out->len += postern__device__net_state__pack(&msg, to);
	return 0;
}

static int state_check(const struct net *net, const Postern__Device__NetState *msg, struct err *err)
{
	uint64_t lacks = msg->offloads & ~net->dev.offered;

	if (msg->mac.len != ETH_ALEN || !net_mac_is_valid(msg->mac.data) || msg->permanent.len != ETH_ALEN ||
	    !net_mac_is_valid(msg->permanent.data))
		return err_set(err, -EINVAL, "no MAC address of one station");
	if (msg->mtu && (msg->mtu < NET_MTU_MIN || msg->mtu > NET_MTU_MAX))
		return err_set(err, -EINVAL, "an MTU of %u", msg->mtu);
	/* What it sends would be dropped on the way, and nobody told. */
	if (msg->mtu && net->backend->mtu && net->backend->mtu < msg->mtu)
		return err_set(err, -EINVAL, "the guest was told of an MTU of %u, %s here has %u: ip link set dev NAME mtu %u", msg->mtu,
			       net->backend->name, net->backend->mtu, msg->mtu);
	if (lacks)
		return err_set(err, -EINVAL, "the guest uses checksum and segmentation offloads (features 0x%" PRIx64 ") that %s here does not "
					     "have; a tap has them", lacks, net->backend->name);
	return 0;
}

/* The driver that has been told of one is not told of another (5.1.4.1), here or after a reset; who says that it has, and of none, had any. */
static void mtu_take(struct net *net, uint32_t mtu)
{
	if (mtu)
		net->config.mtu = (uint16_t)mtu;
	else if (net->dev.accepted & BIT(VIRTIO_NET_F_MTU) && !net->config.mtu)
		net->config.mtu = NET_MTU_MAX;
}

static int net_load(void *arg, const uint8_t *data, size_t len, bool apply, struct err *err)
{
	Postern__Device__NetState *msg = proto_unpack(&postern__device__net_state__descriptor, data, len, PROTO_FIELDS_MAX, err);
	struct net *net = arg;
	int r;

	if (!msg)
		return -EINVAL;
	r = state_check(net, msg, err);
	if (!r && apply) {
		if (net->asked_mac && memcmp(net->mac, msg->permanent.data, ETH_ALEN))
			log_warn("%s: the guest keeps the MAC address that it had at the source, not that of --net", net->dev.name);
		memcpy(net->config.mac, msg->mac.data, ETH_ALEN);
		memcpy(net->mac, msg->permanent.data, ETH_ALEN);
		mtu_take(net, msg->mtu);
		net->arrived = true;
	}
	postern__device__net_state__free_unpacked(msg, NULL);
	return r;
}

/* ---- life ---- */

void net_stats_get(struct vdev *dev, struct net_stats *to)
{
	struct net *net = dev->arg;

	vdev_lock(dev);
	*to = net->stats;
	vdev_unlock(dev);
}

static void net_free(void *arg)
{
	struct net *net = arg;

	if (net->frame_len)
		frame_drop(net);
	if (net->stats.received_dropped || net->stats.sent_dropped)
		log_info("%s: %" PRIu64 " frames received, %" PRIu64 " lost; %" PRIu64 " sent, %" PRIu64 " lost", net->dev.name,
			 net->stats.received, net->stats.received_dropped, net->stats.sent, net->stats.sent_dropped);
	if (net->watch) {
		loop_close_one_of((uv_handle_t *)&net->watch->poll, &net->watch->handles);
		loop_close_one_of((uv_handle_t *)&net->watch->timer, &net->watch->handles);
	}
	net_backend_close(net->backend);
	vdev_fini(&net->dev);
	free(net);
}

static const struct vdev_ops net_ops = {
	.name = "virtio-net",
	.version = 1,
	.type = VIRTIO_ID_NET,
	.pci_class = 0x020000,
	.queue = on_queue,
	.free = net_free,
	.reset = net_reset,
	.start = net_start,
	.stop = net_stop,
	.save = net_save,
	.load = net_load,
};

static uint64_t features(const struct net *net)
{
	uint64_t value = BIT(VIRTIO_NET_F_MAC) | BIT(VIRTIO_NET_F_STATUS) | BIT(VIRTIO_NET_F_MRG_RXBUF) | BIT(VIRTIO_NET_F_CTRL_VQ) |
			 BIT(VIRTIO_NET_F_CTRL_RX) | BIT(VIRTIO_NET_F_CTRL_MAC_ADDR) | BIT(VIRTIO_NET_F_GUEST_ANNOUNCE);
	unsigned int i;

	if (net->backend->mtu)
		value |= BIT(VIRTIO_NET_F_MTU);
	for (i = 0; i < OFFLOAD_FEATURES; i++)
		if (net->backend->offloads & offload_features[i].offload)
			value |= BIT(offload_features[i].feature);
	return value;
}

static int net_check(const char *text, struct err *err)
{
	struct net_config config;

	return net_config_parse(&config, text, err);
}

int net_new(struct vdev **out, const struct vdev_env *env, struct net_backend *backend, const struct net_config *given,
	    unsigned int number, struct err *err)
{
	struct vdev_config config = {
		.number = number, .queues = QUEUES, .queue_size = QUEUE_SIZE,
		.config_len = offsetof(struct virtio_net_config, mtu) + sizeof(uint16_t),
		/* Known or not, what is behind it takes what it took there. */
		.arriving = BIT(VIRTIO_NET_F_MTU),
	};
	struct net *net = calloc(1, sizeof(*net));
	int r;

	if (!net) {
		net_backend_close(backend);
		return err_set(err, -ENOMEM, "no memory for a network device");
	}
	net->backend = backend;
	net->asked_mac = given->has_mac;
	memcpy(net->mac, given->mac, ETH_ALEN);
	memcpy(net->config.mac, given->mac, ETH_ALEN);
	net->config.status = VIRTIO_NET_S_LINK_UP;
	net->config.max_virtqueue_pairs = 1;
	net->config.mtu = (uint16_t)backend->mtu;
	config.features = features(net);
	config.config = &net->config;
	r = vdev_init(&net->dev, &net_ops, net, env, &config, err);
	if (!r && env->loop)
		r = watch_new(net, err);
	if (r < 0) {
		net_free(net);
		return r;
	}
	poll_update(net);
	*out = &net->dev;
	return 0;
}

static int net_make(struct vdev **out, const struct vdev_env *env, const char *text, unsigned int number, struct err *err)
{
	struct net_backend *backend;
	struct net_config config;
	int r;

	r = net_config_parse(&config, text, err);
	if (!r && !config.has_mac)
		net_mac_make(config.mac, env->machine, text, number);
	if (!r)
		r = net_backend_open(&backend, env->loop, &config, err);
	if (r < 0)
		return r;
	return net_new(out, env, backend, &config, number, err);
}

const struct virtio_kind net_kind = { .option = "net", .max = 8, .check = net_check, .make = net_make };
