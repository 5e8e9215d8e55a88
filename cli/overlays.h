/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * `--overlay DIR`: each disk that the machine may write to stays as it is, and
 * lies below an overlay of this machine's own, a file in DIR.
 *
 * Who made them removes them when the start fails. Once the machine runs they
 * are its user's, who keeps or removes them.
 */
#ifndef POSTERN_CLI_OVERLAYS_H
#define POSTERN_CLI_OVERLAYS_H

#include "base/err.h"
#include "device/disk/overlay.h"
#include "device/virtio/type.h"
#include "snapshot/host.h"

struct overlays {
	struct {
		char *path, *text; /* its file; the --disk that it is */
		struct disk_overlay file;
	} made[VIRTIO_DEVICES_MAX];
	unsigned int n;
	/* By the number of the disk, as host_check_disks takes it. */
	char *below[MANIFEST_DISKS_MAX];
};

/*
 * Makes DIR/NAME-diskN.qcow2 for each, without NAME DIR/diskN.qcow2, and puts it
 * into options, whose texts it lends. After an error there is none, and options
 * are as they were; overlays_fini is due all the same.
 */
int overlays_make(struct overlays *overlays, const char *dir, const char *name,
		  struct virtio_options *options, struct err *err);
/* The start has failed. */
void overlays_remove(struct overlays *overlays);
/* Leaves the files. */
void overlays_fini(struct overlays *overlays);

#endif
