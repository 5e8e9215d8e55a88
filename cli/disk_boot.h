/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A machine without --kernel starts with what lies on its first disk: kernel
 * and initial RAM disk are taken out of the disk by a process of its own
 * (disk_child.h) and lie in memory files until the machine has loaded them. It
 * happens at the start and at each reset, since the guest may have installed
 * another kernel.
 *
 * Main thread. Nothing here waits: the loop goes on, and done() is called from
 * it.
 */
#ifndef POSTERN_CLI_DISK_BOOT_H
#define POSTERN_CLI_DISK_BOOT_H

#include <stdbool.h>
#include <uv.h>

#include "base/err.h"
#include "base/helper.h"
#include "base/loop.h"
#include "cli/disk_child.h"
#include "machine/boot_files.h"

#define DISK_BOOT_FILES 3

/* found: BOOT_FILES, which lasts until the next fetch or drop. err: NULL when it went well. */
typedef void (*disk_boot_done)(void *arg, const struct boot_files *found, const struct err *err);

struct disk_boot {
	struct loop *loop;
	const char *disk;		/* --disk's value */
	const char *cmdline;		/* instead of the usual one, or NULL */
	const char *append;		/* behind it, or NULL */
	uint64_t memory_bytes;		/* the guest's: what is fetched has to fit into it */
	disk_boot_done done;
	void *arg;
	/* Its own. */
	char *path;
	bool readonly, busy, late;
	bool closing, wanted;		/* the timer is closing; a fetch waits for that */
	int fds[DISK_BOOT_FILES];	/* report, kernel, initial RAM disk */
	struct helper *child;
	uv_timer_t timer;
	struct boot_files found;
};

/* The fields above the line are the caller's. */
void disk_boot_init(struct disk_boot *boot);
/*
 * Starts a fetch; a program that runs on the loop. -EBUSY: one is under way,
 * until its done() is called. Otherwise done() is called unless this fails.
 */
int disk_boot_fetch(struct disk_boot *boot, disk_boot_done done, void *arg, struct err *err);
/* Lets go of what was fetched. */
void disk_boot_drop(struct disk_boot *boot);
/* Ends a fetch that is under way, without done(). The loop must run once more afterwards. */
void disk_boot_fini(struct disk_boot *boot);

#endif
