/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A guest's memory out of another VMM's files (memory_file.h) into an image of
 * memory alone: it has no machine, and cannot be run (docs/image.md). Waits for
 * the store; any thread.
 */
#ifndef POSTERN_SNAPSHOT_IMPORT_H
#define POSTERN_SNAPSHOT_IMPORT_H

#include "image/writer.h"
#include "snapshot/memory_file.h"

struct import_config {
	/*
	 * Where the file's bytes are in the guest, one range after the other, together as long as
	 * the file or longer by less than 2 MiB: what the file does not have is absent. n_ranges
	 * 0: one range from 0 on.
	 */
	struct memory_range ranges[MEMORY_REGIONS_MAX];
	unsigned int n_ranges;
	const char *architecture; /* NULL: this host's */
	int level; /* zstd's; 0: the default */
	const struct image_key *key; /* image/writer.h */
	/* Pages so far, and all; now and then. May be NULL. */
	void (*progress)(void *arg, uint64_t done, uint64_t pages);
	void *arg;
};

/*
 * -EINVAL: ranges that cannot be, or do not fit the file; image_writer_new's and memory_file.h's
 * errors. After any error there is no image.
 */
int import_memory(struct store *store, struct store_scope *scope, const char *name,
		  struct memory_file *file, const struct import_config *config,
		  struct image_writer_stats *stats, struct err *err);

#endif
