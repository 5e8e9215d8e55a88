/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What passes between disk_boot.c and the process that it has read a disk, which is
 * `postern disk-child BYTES`, where BYTES is the guest's memory. The descriptors that the
 * child keeps are these; all others it closes before it looks at the disk.
 */
#ifndef POSTERN_CLI_DISK_CHILD_H
#define POSTERN_CLI_DISK_CHILD_H

#include <stdint.h>

#include "base/helper.h"
#include "cli/disk_files.h"

enum {
	DISK_CHILD_DISK = HELPER_FD,	/* the file or block device, for reading */
	DISK_CHILD_REPORT,	/* memory that gets a struct disk_report */
	DISK_CHILD_KERNEL,	/* memory that gets the kernel, and */
	DISK_CHILD_INITRD,	/* the initial RAM disk: empty if there is none */
	DISK_CHILD_FDS
};

/* Written last, and whole. The parent believes no more of it than it has checked. */
struct disk_report {
	int32_t code;		/* 0, or a negative errno */
	char text[256];		/* the error */
	char uuid[sizeof(((struct disk_partition *)0)->uuid)];
	struct disk_files files;
};

#endif
