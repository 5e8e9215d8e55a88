/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Where on a disk file systems may lie: the disk itself, or the partitions of a
 * table: GPT (UEFI 2.10, section 5.3) or MBR, with sectors of 512 bytes.
 * Logical partitions of an MBR are not looked at. Pure functions over hostile
 * bytes.
 */
#ifndef POSTERN_CLI_DISK_PARTITION_H
#define POSTERN_CLI_DISK_PARTITION_H

#include "base/err.h"
#include "cli/disk_reader.h"

#define DISK_PARTITIONS_MAX 16

struct disk_partition {
	uint64_t offset, size_bytes;	/* both inside of the disk, size not 0 */
	char uuid[40];			/* as PARTUUID= takes it; empty: the whole disk */
};

/*
 * Fills in those that a Linux file system may lie on, in the table's order, at
 * most DISK_PARTITIONS_MAX, and returns how many (at least 1). -EINVAL: neither
 * a file system of the ext family nor a table with a partition for Linux, a
 * table that is damaged, or a qcow2 image; -EIO and the like: from the reader.
 */
int disk_partitions(struct disk_partition *partitions, const struct disk_reader *disk,
		    struct err *err);

#endif
