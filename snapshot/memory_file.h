/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A guest's memory in files of other VMMs, to be imported. Two kinds:
 *
 *   raw         a sparse file of all ranges of RAM one after the other, as Firecracker and Cloud
 *               Hypervisor write it, and perhaps diffs over it: files of the same shape whose
 *               holes are what has not changed
 *   mapped-ram  QEMU's migration to a file (mapped_ram.h), one RAM block of it
 *
 * What a file says is hostile. Files are only read; one that somebody changes
 * meanwhile gives some of each, or an error where it has become shorter. One thread.
 */
#ifndef POSTERN_SNAPSHOT_MEMORY_FILE_H
#define POSTERN_SNAPSHOT_MEMORY_FILE_H

#include <stdint.h>

#include "base/err.h"

#define MEMORY_FILE_DIFFS_MAX 16u
#define MEMORY_FILE_SPAN 65536u

struct memory_file;

/*
 * paths[0] is the whole file, the others go over it, in this order. -EINVAL: a diff that is longer
 * than the whole, no plain file, an empty one, or not made of pages; open(2)'s errors.
 */
int memory_file_open_raw(struct memory_file **out, const char *const *paths, unsigned int n,
			 struct err *err);
/*
 * block: the RAM block's name; NULL: "pc.ram", or the only one that there is. offset: where in the
 * file QEMU's stream begins. -EBADMSG: no such file, or not a whole one; -EPROTO: a version that
 * is not known; -ENOENT: no such block (the text has all).
 */
int memory_file_open_mapped_ram(struct memory_file **out, const char *path, uint64_t offset,
				const char *block, struct err *err);
/* NULL is fine. */
void memory_file_free(struct memory_file *file);

/* Of RAM that it has. */
uint64_t memory_file_bytes(const struct memory_file *file);
/*
 * Where the next span that may have data begins, at `at` or behind it; at is a multiple of
 * MEMORY_FILE_SPAN, and so is what is returned: memory_file_bytes rounded up where there is none.
 */
int64_t memory_file_next(struct memory_file *file, uint64_t at, struct err *err);
/* A span's bytes, zeros in holes and behind the end. 0, or -EIO and what read(2) fails with. */
int memory_file_read(struct memory_file *file, uint64_t at, uint8_t data[MEMORY_FILE_SPAN],
		     struct err *err);

#endif
