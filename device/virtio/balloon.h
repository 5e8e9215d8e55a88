/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What the host asks of a virtio balloon and learns from it. The rest of it is
 * a device like others: type.h.
 */
#ifndef POSTERN_DEVICE_VIRTIO_BALLOON_H
#define POSTERN_DEVICE_VIRTIO_BALLOON_H

#include "device/virtio/vdev.h"

/* Is this device a balloon? */
bool balloon_is(const struct vdev *dev);
/* How many pages the guest is asked to give up, in all: the driver is told. Main thread. */
void balloon_set_target(struct vdev *dev, uint32_t pages);
/* How many the driver says that it has given up: any number, it is the guest's. Main thread. */
uint32_t balloon_actual(struct vdev *dev);

#endif
