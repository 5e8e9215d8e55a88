/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Where QEMU's migration to a file has the guest's memory, when its capability
 * mapped-ram is on (QEMU: docs/devel/migration/mapped-ram.rst): of each RAM
 * block a bitmap, and a place for each page, which holds the page if its bit is
 * set, and anything else if not. Read as far as the list of blocks; the devices'
 * state behind it is QEMU's alone. Hostile input. Pure, but for what reads.
 */
#ifndef POSTERN_SNAPSHOT_MAPPED_RAM_H
#define POSTERN_SNAPSHOT_MAPPED_RAM_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/types.h"

#define MAPPED_RAM_BLOCKS_MAX 64u

struct mapped_ram_block {
	char name[256]; /* printable */
	uint64_t bytes; /* made of pages, more than none */
	uint64_t bitmap_offset; /* of the file; all of the bitmap is within it */
	uint64_t pages_offset; /* of the file */
};

struct mapped_ram {
	struct mapped_ram_block blocks[MAPPED_RAM_BLOCKS_MAX];
	unsigned int n;
};

struct mapped_ram_input {
	/* Exactly len bytes at `at`, which are within the file; or a negative errno. */
	int (*read)(void *arg, uint64_t at, void *data, size_t len, struct err *err);
	void *arg;
	uint64_t bytes; /* of the file */
};

/*
 * start: where the stream begins. -EBADMSG: it is no such stream, or cut, or contradicts itself;
 * -EPROTO: of a version or with a page size that is not known here; what `read` returns.
 */
int mapped_ram_parse(struct mapped_ram *ram, const struct mapped_ram_input *input, uint64_t start,
		     struct err *err);

static inline uint64_t mapped_ram_bitmap_bytes(const struct mapped_ram_block *block)
{
	return (block->bytes / PAGE_BYTES + 63) / 64 * 8;
}

#endif
