/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * All virtio devices of a machine, put on its PCI bus, and what is done to all
 * of them at once. A board of any architecture has one, also where it has no
 * bus: that is empty.
 *
 * All on the main thread.
 */
#ifndef POSTERN_DEVICE_VIRTIO_SET_H
#define POSTERN_DEVICE_VIRTIO_SET_H

#include "device/pci/host.h"
#include "device/virtio/blk.h"
#include "device/virtio/type.h"

struct virtio_set;

/*
 * Makes the devices that are chosen and puts them on `bus`, type by type in the
 * order of virtio_types; env is copied. -ENOTSUP: there are some, and bus is
 * NULL. Errors name the option. After an error there is nothing to free.
 */
int virtio_set_new(struct virtio_set **out, struct pci_host *bus,
		   const struct virtio_options *options, const struct vdev_env *env,
		   struct err *err);
/* May be NULL. */
void virtio_set_free(struct virtio_set *set);
/* In the order in which they are on the bus. */
unsigned int virtio_set_count(const struct virtio_set *set);
struct vdev *virtio_set_device(const struct virtio_set *set, unsigned int i);
/* The balloon; NULL: there is none. */
struct vdev *virtio_set_balloon(const struct virtio_set *set);
/* The i-th disk; false: there are no more. */
bool virtio_set_disk(const struct virtio_set *set, unsigned int i, struct disk_info *info);

/* As vdev_start, vdev_stop, ... of each. */
void virtio_set_start(struct virtio_set *set);
void virtio_set_stop(struct virtio_set *set);
void virtio_set_memory_complete(struct virtio_set *set);
/* The first one's error. */
int virtio_set_drain(struct virtio_set *set, int64_t deadline_ns, struct err *err);
int virtio_set_claim(struct virtio_set *set, struct err *err);
void virtio_set_release(struct virtio_set *set);
void virtio_set_renew(struct virtio_set *set);
/* Has any of them requests in flight? */
bool virtio_set_is_busy(struct virtio_set *set);

#endif
