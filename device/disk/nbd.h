/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What nbd.c's users have of it: a disk that is reached over a connected
 * socket, wherever that comes from.
 */
#ifndef POSTERN_DEVICE_DISK_NBD_H
#define POSTERN_DEVICE_DISK_NBD_H

#include <stddef.h>

#include "device/disk/disk.h"

/* Where connections come from. None of these waits. */
struct nbd_origin {
	/*
	 * A socket that is connected to a server: the caller's to close.
	 * -EINPROGRESS: not yet; to be asked again when *wait, which stays the
	 * origin's, is readable. Another negative errno says why there is none.
	 * ours: what served the last one has ended.
	 */
	int (*connect)(void *arg, int *wait, struct err *err);
	/*
	 * That connection is over, or there was none, or none is wanted any
	 * more. May say more of why (NULL: nobody asks).
	 */
	void (*lost)(void *arg, char *why, size_t room);
	/* ours: waits until what served the last connection has ended. */
	void (*end)(void *arg);
	/*
	 * How many servers a first connection may try, should one that was
	 * reached be of no use; NULL: one.
	 */
	unsigned int (*addresses)(void *arg);
	void (*free)(void *arg);
	void *arg;
	const char *export_name;
	/*
	 * Nobody but us: the connection is made when the disk is claimed, and
	 * ended when it is released.
	 */
	bool ours;
	uint64_t bytes;		/* 0: the server says */
};

/* origin is copied, and freed with the disk; also on an error. */
int nbd_open_at(struct disk **out, const struct disk_config *config, const struct disk_env *env,
		const struct nbd_origin *origin, struct err *err);

#endif
