/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The bytes of a disk, or of a part of one, for whoever looks for a kernel
 * there. What they say is hostile.
 */
#ifndef POSTERN_CLI_DISK_READER_H
#define POSTERN_CLI_DISK_READER_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>

struct disk_reader {
	uint64_t size_bytes;
	/* All of it lies inside. 0 or a negative errno. */
	int (*read)(void *arg, uint64_t offset, void *to, size_t len);
	void *arg;
};

/* 0, -ERANGE when it is not all inside, or the reader's error. */
static inline int disk_read(const struct disk_reader *disk, uint64_t offset, void *to, size_t len)
{
	if (offset > disk->size_bytes || len > disk->size_bytes - offset)
		return -ERANGE;
	return disk->read(disk->arg, offset, to, len);
}

#endif
