/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * MAC addresses of clones: all of them are given the same --net, and each has an
 * address of its own.
 */
#ifndef POSTERN_CLI_CLONE_MAC_H
#define POSTERN_CLI_CLONE_MAC_H

#include "base/err.h"
#include "device/virtio/type.h"

/* The values of --net that were made for it. */
struct clone_macs {
	char *text[VIRTIO_DEVICES_MAX];
	unsigned int n;
};

/*
 * Gives each network device that was not given one the address that a machine
 * of that name has (net_mac_make), in options, whose texts it lends. -ENOMEM, or
 * what is wrong with a value of --net; clone_macs_fini is due all the same.
 */
int clone_macs_set(struct clone_macs *macs, const char *name, struct virtio_options *options,
		   struct err *err);
void clone_macs_fini(struct clone_macs *macs);

#endif
