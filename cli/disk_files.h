/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The kernel and the initial RAM disk that a system on a disk starts with,
 * copied out of its ext2, ext3 or ext4 file system by libext2fs. That reads
 * hostile bytes: call this only where a crash, a loop or worse does no harm
 * (disk_child.c).
 */
#ifndef POSTERN_CLI_DISK_FILES_H
#define POSTERN_CLI_DISK_FILES_H

#include "base/err.h"
#include "cli/disk_partition.h"

#define DISK_FILES_PATH_MAX 288
#define DISK_KERNEL_MAX (UINT64_C(256) << 20)
#define DISK_INITRD_MAX (UINT64_C(1) << 30)

struct disk_files {
	char kernel[DISK_FILES_PATH_MAX], initrd[DISK_FILES_PATH_MAX];	/* as they are called there; no initrd: empty */
};

struct disk_files_reader;

/*
 * Loads libext2fs, which takes files and system calls that reading does not.
 * NULL: the error says why.
 */
struct disk_files_reader *disk_files_reader_new(struct err *err);
void disk_files_reader_free(struct disk_files_reader *reader);

/*
 * In this order: /vmlinuz and /initrd.img, the same in /boot, the newest
 * /boot/vmlinuz-VERSION and the initial RAM disk of that version. The contents
 * go to the two descriptors. -ENOENT: no kernel there, or no such file system,
 * and nothing was written; -EINVAL: a damaged one; -EFBIG: larger than the two
 * sizes above, or than the guest's memory, of memory_bytes, has room for;
 * -EIO...
 */
int disk_files_copy(struct disk_files_reader *reader, struct disk_files *files,
		    const struct disk_reader *disk, const struct disk_partition *partition,
		    int kernel_fd, int initrd_fd, uint64_t memory_bytes, struct err *err);

/*
 * As strcmp, for versions of kernels: runs of digits count as numbers, so that
 * 6.1.0-9 comes before 6.1.0-10.
 */
int disk_version_compare(const char *a, const char *b);

#endif
