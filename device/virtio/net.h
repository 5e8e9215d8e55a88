/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * virtio-net on any back end, and what it counts. The option's type is in type.h.
 */
#ifndef POSTERN_DEVICE_VIRTIO_NET_H
#define POSTERN_DEVICE_VIRTIO_NET_H

#include "device/net/backend.h"
#include "device/virtio/vdev.h"

struct net_stats {
	uint64_t received, sent;	/* frames */
	/*
	 * Lost: frames for the guest that were too large for its buffers, not
	 * as negotiated, or from before it came here; in flight when its driver
	 * reset the device.
	 */
	uint64_t received_dropped;
	/* Frames of the guest's with a wrong header or length, or which the far side refused. */
	uint64_t sent_dropped;
	uint64_t announced;		/* rounds */
};

/*
 * A device on a back end that is open, and the device's from now on, also on an
 * error; config says the guest's MAC address, and whether it was asked for.
 * Main thread.
 */
int net_new(struct vdev **out, const struct vdev_env *env, struct net_backend *backend,
	    const struct net_config *config, unsigned int number, struct err *err);
/* dev is a net_type's. Any thread, lock not held. */
void net_stats_get(struct vdev *dev, struct net_stats *to);

#endif
