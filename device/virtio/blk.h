/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What the host asks of a virtio disk and learns from it. The rest of it is a
 * device like others: type.h.
 */
#ifndef POSTERN_DEVICE_VIRTIO_BLK_H
#define POSTERN_DEVICE_VIRTIO_BLK_H

#include "device/disk/disk.h"

struct vdev;

struct disk_info {
	struct vdev *dev;
	char device[16];	/* disk0, disk1, ... as they were given */
	const char *file;	/* path or URI */
	const char *driver;	/* file, nbd */
	const char *format;	/* raw, qcow2 */
	const char *away;	/* NULL: it is there */
	uint64_t bytes;
	bool readonly;
	unsigned int jobs;	/* under way, or waiting for it to be back */
	struct disk_doubt doubt;
};

/*
 * False: the device is no disk. What is pointed to lives as long as the device,
 * `away` until the loop goes on. Main thread.
 */
bool vdev_disk_info(struct vdev *dev, struct disk_info *info);
/* As disk_fenced. False: the device is no disk. Main thread. */
bool vdev_disk_fenced(struct vdev *dev);

#endif
