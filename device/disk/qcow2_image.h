/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The files of a qcow2 image: itself, the images below it, the file that has
 * its data. An image's header may name others, by any path or protocol that
 * QEMU knows; who made the image may be somebody else than who has the files.
 * So none is opened because a header names it: only what the user names, which
 * has to be what the header names, by its last component; the path is the
 * user's. A header that names more than the user is an error, and so is a user
 * who names more than it.
 *
 * All is opened here; who reads it is handed descriptors, and a description
 * that has nothing of the headers in it.
 */
#ifndef POSTERN_DEVICE_DISK_QCOW2_IMAGE_H
#define POSTERN_DEVICE_DISK_QCOW2_IMAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "device/disk/config.h"

#define QCOW2_FILES_MAX (2 + DISK_BACKING_MAX)
#define QCOW2_JSON_BYTES 1024

struct qcow2_image {
	int fd[QCOW2_FILES_MAX];	/* the image, its data file if it has one, those below */
	bool block[QCOW2_FILES_MAX];	/* a block device */
	bool raw[QCOW2_FILES_MAX];	/* of those below: no qcow2 */
	unsigned int n;
	bool data_file, readonly;
	bool direct;			/* it can be read past the page cache */
	uint64_t bytes;			/* the disk's, in whole sectors */
};

/*
 * Opens what config names, and compares it with what the headers name. The
 * error says which file and what is wrong with it.
 */
int qcow2_image_open(struct qcow2_image *image, const struct disk_config *config, struct err *err);
void qcow2_image_close(struct qcow2_image *image);
/*
 * QEMU's block device description, where fd[i] is /proc/self/fd/<first + i>;
 * with "json:" in front, as programs take it.
 */
void qcow2_image_describe(const struct qcow2_image *image, unsigned int first,
			  char to[QCOW2_JSON_BYTES]);

#endif
