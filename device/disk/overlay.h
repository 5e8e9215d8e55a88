/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * An overlay: a new qcow2 image over a disk that stays as it is. What it does
 * not have is read from the disk below; what is written goes into it alone. So
 * many machines have one disk, each with what it writes for itself.
 *
 * postern writes the empty image itself, into a file that was not there before:
 * no program has to open the disk below for that, nor can a file of somebody
 * else's be overwritten.
 */
#ifndef POSTERN_DEVICE_DISK_OVERLAY_H
#define POSTERN_DEVICE_DISK_OVERLAY_H

#include <sys/types.h>

#include "base/err.h"
#include "device/disk/config.h"

/* Which file it is, whatever has its name later. */
struct disk_overlay {
	dev_t dev;
	ino_t ino;
};

/*
 * Makes one at `path`, mode 0600, over the disk of that configuration: a file or
 * a block device, whose path, which goes into the header, is absolute. Opens
 * that for reading, and looks whether another machine may write to it (-EBUSY).
 * -EEXIST: there is something of that name. After an error there is no file.
 */
int disk_overlay_make(struct disk_overlay *overlay, const char *path,
		      const struct disk_config *below, struct err *err);
/* Removes the file, unless another one has its name by now. */
void disk_overlay_remove(const struct disk_overlay *overlay, const char *path);

#endif
