// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * net.c - virtio-net (virtio 1.2, section 5.1): one pair of queues and a control
 * queue, on a back end (device/net/). Here is its life, and its place in the
 * main loop; what goes through each queue is in files of its own:
 *
 *   net_rx.c, net_tx.c   frames, to the driver and from it
 *   net_control.c        the driver's orders
 *   net_offload.c        what driver and back end have agreed on
 *   net_announce.c       telling the network where the guest is now
 *   net_state.c          what a migration takes along
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/if_ether.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "device/virtio/type.h"
#include "device/virtio/net_internal.h"

#define QUEUE_SIZE 256

void net_link_down(struct net *net)
{
	net->config.status &= (uint16_t)~VIRTIO_NET_S_LINK_UP;
	vdev_config_changed(&net->dev);
}

/* ---- the loop; lock held ---- */

static void net_on_poll(uv_poll_t *handle, int status, int events);

void net_poll_update(struct net *net)
{
	struct net_watch *watch = net->watch;
	int events = 0;

	if (!watch)
		return;
	if (!net->backend->gone)
		events = UV_DISCONNECT;
	if (events && net->dev.running)
		events |= (net->reading ? UV_READABLE : 0) |
			  (net_backend_is_blocked(net->backend) ? UV_WRITABLE : 0);
	if (events == watch->events)
		return;
	watch->events = events;
	if (events)
		uv_poll_start(&watch->poll, events, net_on_poll);
	else
		uv_poll_stop(&watch->poll);
}

static void net_on_queue(void *arg, struct vqueue *q)
{
	struct net *net = arg;

	net_offloads_update(net);
	if (q->index == RX)
		net_rx_run(net);
	else if (q->index == TX)
		net_tx_run(net);
	else
		net_control_run(net, q);
	net_poll_update(net);
}

/* Has it an error that reading has not taken away? */
static bool poll_fails(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, 0) < 0 || p.revents & (POLLERR | POLLNVAL);
}

static void net_on_poll(uv_poll_t *handle, int status, int events)
{
	struct net_watch *watch = handle->data;
	struct net *net = watch->net;

	vdev_lock(&net->dev);
	/* The loop has stopped to poll then; why shows in what reading says. */
	if (status < 0)
		watch->events = 0;
	if (status < 0 || events & UV_WRITABLE) {
		if (net_backend_flush(net->backend) == -EPIPE &&
		    net->config.status & VIRTIO_NET_S_LINK_UP)
			net_link_down(net);
		net_tx_run(net);
	}
	if (status < 0 || events & UV_READABLE)
		net_rx_run(net);
	if (events & UV_DISCONNECT && !(events & UV_READABLE) && !net->backend->gone) {
		net_backend_hang_up(net->backend);
		net_link_down(net);
	}
	/* It still says neither: not to be asked again and again. */
	if (status < 0 && !net->backend->gone && poll_fails(net->backend->fd)) {
		log_warn("%s: %s cannot be polled (%s): the guest's link is down", net->dev.name,
			 net->backend->name, uv_strerror(status));
		net->backend->gone = true;
		net_link_down(net);
	}
	net_poll_update(net);
	vdev_unlock(&net->dev);
}

static int net_watch_new(struct net *net, struct err *err)
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

/* ---- start, stop, reset ---- */

static void net_start(void *arg)
{
	struct net *net = arg;

	if (net->arrived) {
		net->arrived = false;
		if (net->asked_mac && memcmp(net->mac, net->own_mac, ETH_ALEN))
			log_warn("%s: the guest keeps the MAC address that it had at the "
				 "source, not that of --net",
				 net->dev.name);
		net_offloads_update(net);
		net_rx_drop_stale(net);
		if (vdev_has(&net->dev, VIRTIO_NET_F_MAC))
			net->announce = ANNOUNCE_ROUNDS;
	}
	net_announce(net);
	/* A queue that is kicked looks for frames itself. */
	net_poll_update(net);
}

static void net_stop(void *arg)
{
	struct net *net = arg;

	if (net->watch)
		uv_timer_stop(&net->watch->timer);
	net_poll_update(net);
}

/* Any thread: the loop is left alone, it finds out. */
static void net_reset(void *arg)
{
	struct net *net = arg;

	if (net->frame_len)
		net_rx_drop(net);
	net->announce = 0;
	memcpy(net->config.mac, net->mac, ETH_ALEN);
	net->config.status &= (uint16_t)~VIRTIO_NET_S_ANNOUNCE;
	net_offloads_update(net);
}

/*
 * The driver reads it when it begins anew (5.1.5); until then it may go on with
 * the one that it has read, which is nothing to us: frames are not filtered.
 */
static void net_renew(void *arg)
{
	struct net *net = arg;

	if (!net->asked_mac)
		return;
	memcpy(net->mac, net->own_mac, ETH_ALEN);
	memcpy(net->config.mac, net->own_mac, ETH_ALEN);
	vdev_config_changed(&net->dev);
	log_info("%s: its MAC address is %02x:%02x:%02x:%02x:%02x:%02x from now on", net->dev.name,
		 net->mac[0], net->mac[1], net->mac[2], net->mac[3], net->mac[4], net->mac[5]);
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
		net_rx_drop(net);
	if (net->stats.received_dropped || net->stats.sent_dropped)
		log_info("%s: %" PRIu64 " frames received, %" PRIu64 " lost; %" PRIu64
			 " sent, %" PRIu64 " lost",
			 net->dev.name, net->stats.received, net->stats.received_dropped,
			 net->stats.sent, net->stats.sent_dropped);
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
	.queue = net_on_queue,
	.free = net_free,
	.reset = net_reset,
	.start = net_start,
	.stop = net_stop,
	.renew = net_renew,
	.save = net_state_save,
	.load = net_state_load,
};

static int net_check(const char *text, struct err *err)
{
	struct net_config config;

	return net_config_parse(&config, text, err);
}

int net_new(struct vdev **out, const struct vdev_env *env, struct net_backend *backend,
	    const struct net_config *given, unsigned int number, struct err *err)
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
	memcpy(net->own_mac, given->mac, ETH_ALEN);
	memcpy(net->mac, given->mac, ETH_ALEN);
	memcpy(net->config.mac, given->mac, ETH_ALEN);
	net->config.status = VIRTIO_NET_S_LINK_UP;
	net->config.max_virtqueue_pairs = 1;
	net->config.mtu = (uint16_t)backend->mtu;
	config.features = net_features(net);
	config.config = &net->config;
	r = vdev_init(&net->dev, &net_ops, net, env, &config, err);
	if (!r && env->loop)
		r = net_watch_new(net, err);
	if (r < 0) {
		net_free(net);
		return r;
	}
	net_poll_update(net);
	*out = &net->dev;
	return 0;
}

static int net_make(struct vdev **out, const struct vdev_env *env, const char *text,
		    unsigned int number, struct err *err)
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

const struct virtio_type net_type = { .option = "net",
				      .max = 8,
				      .check = net_check,
				      .make = net_make };
