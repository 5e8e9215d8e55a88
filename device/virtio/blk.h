/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * virtio-blk: a disk (virtio 1.2, section 5.2) on a raw file or a block device: reads, writes, flush, discard, zeroes, identity.
 */
#ifndef POSTERN_DEVICE_VIRTIO_BLK_H
#define POSTERN_DEVICE_VIRTIO_BLK_H

#include "device/virtio/vdev.h"

/* What VIRTIO_BLK_T_GET_ID returns. */
#define BLK_SERIAL_BYTES 20

struct blk;

struct blk_config {
	const char *path;
	char serial[BLK_SERIAL_BYTES + 1];	/* may be empty */
	bool readonly;
};

/* "FILE[,readonly][,serial=TEXT]"; path points into a copy that the caller frees. -EINVAL, -ENOMEM. */
int blk_parse(struct blk_config *config, const char *text, struct err *err);

/* number: of the disk; queues: 1 to VDEV_QUEUES_MAX. Main thread. */
int blk_new(struct blk **out, const struct vdev_env *env, const struct blk_config *config, unsigned int number,
	    unsigned int queues, struct err *err);
/* What is under way is waited for at most a second. */
void blk_free(struct blk *blk);
struct vdev *blk_vdev(struct blk *blk);
/*
 * Finishes all requests that are under way, and has the host write to the disk what it keeps in memory, so that another host
 * finds it there. -ETIMEDOUT: not by then (CLOCK_MONOTONIC); nothing is lost, and it can be tried again. Main thread, stopped.
 */
int blk_drain(struct blk *blk, int64_t deadline_ns, struct err *err);

#endif
