/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What a user may know of a virtio disk: how it is, and what happens to it.
 */
#ifndef POSTERN_DEVICE_VIRTIO_DISK_NEWS_H
#define POSTERN_DEVICE_VIRTIO_DISK_NEWS_H

#include "device/disk/disk.h"

struct vdev;

enum disk_happening {
	DISK_IS_AWAY,		/* its server is; requests wait */
	DISK_IS_BACK,
	DISK_JOB_FAILED,	/* and the guest was told so */
};

struct disk_news {
	enum disk_happening what;
	const char *device;	/* disk0, disk1, ... as they were given */
	const char *why;	/* AWAY */
	unsigned int jobs;	/* AWAY: how many wait */
	enum disk_op op;	/* FAILED */
	int error;		/* FAILED: a negative errno */
};

struct disk_info {
	struct vdev *dev;
	char device[16];
	const char *file;	/* path or URI */
	const char *driver;	/* file, nbd */
	const char *format;	/* raw, qcow2 */
	const char *away;	/* NULL: it is there */
	uint64_t bytes;
	bool readonly;
	unsigned int jobs;	/* under way, or waiting for it to be back */
	struct disk_doubt doubt;
};

/* False: the device is no disk. What is pointed to lives as long as the device, `away` until the loop goes on. Main thread. */
bool vdev_disk_info(struct vdev *dev, struct disk_info *info);
/* As disk_fenced. False: the device is no disk. Main thread. */
bool vdev_disk_fenced(struct vdev *dev);

#endif
