/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * An image's memory as a file for others. Waits for the store, and for the file;
 * any thread. Files are written sparse.
 *
 *   EXPORT_RAW   all ranges of RAM one after the other, as Firecracker and Cloud Hypervisor read
 *                it: pages of zeros are holes. A page that is absent would look like one: then
 *                there is no such file (but where the file may end before it)
 *   EXPORT_DIFF  the same file, but with those pages alone that differ from the parent's: all else
 *                is holes, and pages that have become zeros are written
 *   EXPORT_ELF   an ELF core (elf_core.h) with the vCPUs' registers: absent pages are left out
 */
#ifndef POSTERN_SNAPSHOT_EXPORT_H
#define POSTERN_SNAPSHOT_EXPORT_H

#include "image/image.h"

enum export_format { EXPORT_RAW, EXPORT_DIFF, EXPORT_ELF };

struct export_config {
	enum export_format format;
	const char *path; /* of the file, for errors */
	struct image *parent; /* EXPORT_DIFF: open */
	/* Pages so far, and all; now and then. May be NULL. */
	void (*progress)(void *arg, uint64_t done, uint64_t pages);
	void *arg;
};

struct export_result {
	uint64_t pages; /* written */
	uint64_t absent_pages; /* left out */
	uint64_t bytes; /* of the file */
};

/*
 * fd: an empty plain file, open for writing; not synced. -ENODATA: absent pages (EXPORT_RAW,
 * EXPORT_DIFF); -EINVAL: the parent has other ranges; -EPROTO: registers of another architecture;
 * image_read's errors; write(2)'s.
 */
int export_image(struct image *image, int fd, const struct export_config *config,
		 struct export_result *result, struct err *err);

#endif
