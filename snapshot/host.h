/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What an image says of the machine beyond its state: its shape, what it
 * reboots with, and the disks that belong to the memory that is saved. Of disks
 * not the data, but enough to tell that they have changed since: a guest that
 * goes on with other data than it remembers destroys its file systems.
 *
 * In the manifest: its machine's fields, and a JSON object of ours
 * (docs/snapshots.md).
 */
#ifndef POSTERN_SNAPSHOT_HOST_H
#define POSTERN_SNAPSHOT_HOST_H

#include "image/manifest.h"
#include "machine/machine.h"

/* Files tell when they were last written to; what is at a server or a block device does not. */
struct host_disk {
	bool has_time;
	int64_t time_s;		/* mtime */
	uint32_t time_ns;
};

struct host_record {
	enum boot_type boot;
	char *cmdline, *append;	/* allocated, or NULL */
	/* When its clocks stood still, CLOCK_REALTIME; 0: it does not say, as images before this */
	int64_t parked_ns;
	struct host_disk disk[MANIFEST_DISKS_MAX];
	unsigned int disks;
};

/*
 * Of the machine as it is now, paused and drained; looks at disks' files, and so never on the main
 * thread: host_list, which may, has said which there are. *options gets the text, which is to be
 * freed and lives as long as manifest needs it.
 */
struct host_list {
	struct manifest_machine machine;	/* without options */
	struct host_record record;		/* without times */
	char *path[MANIFEST_DISKS_MAX];		/* of files; NULL: it is at a server */
};
/* Main thread. -E2BIG, -ENOMEM. */
int host_list_make(struct host_list *list, struct machine *machine, struct err *err);
void host_list_fini(struct host_list *list);
/* Any other thread. -ENOMEM, or why a disk's file cannot be looked at. */
int host_list_look(struct host_list *list, char **options, struct err *err);

/* Hostile input. -EBADMSG names the field. */
int host_record_parse(struct host_record *record, const char *options, struct err *err);
void host_record_fini(struct host_record *record);

/* Can such a machine be built here? -EINVAL, -EPROTO say why not. Pure. */
int host_check_shape(const struct manifest_machine *machine, struct err *err);
/* All its RAM. */
uint64_t host_memory_bytes(const struct manifest_machine *machine);
/*
 * Are the disks of this machine those of the image, and as they were? -ESTALE
 * says which is not, and what to do; -EINVAL: there are more, or fewer. below:
 * of each disk that is an empty overlay, what it lies over, which is the one
 * that the image knows; NULL of others, NULL for none. Looks at files: before
 * the loop runs, or on another thread.
 */
int host_check_disks(const struct manifest *manifest, const struct host_record *record,
		     struct machine *machine, char *const below[MANIFEST_DISKS_MAX],
		     struct err *err);

#endif
