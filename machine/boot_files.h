/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What a machine is started with, and anew at each reset: kernel, initial RAM
 * disk, command line.
 *
 * A file is either somebody's, by its path, and opened anew each time: one that
 * was replaced meanwhile is what starts. Or it is a memory file of our own:
 * what came with a migration.
 */
#ifndef POSTERN_MACHINE_BOOT_FILES_H
#define POSTERN_MACHINE_BOOT_FILES_H

#include "arch/ram.h"
#include "base/err.h"

enum boot_type {
	BOOT_NOTHING,	/* there is nothing to load */
	BOOT_FILES,
	/* what the guest's first disk holds at that moment: machine_config's boot_find */
	BOOT_DISK,
};

struct boot_file {
	char *path;	/* allocated; with fd: what messages call it. NULL: there is no such file */
	int fd;		/* a memory file, owned; -1: there is none */
};

struct boot_files {
	enum boot_type type;
	struct boot_file kernel, initrd;	/* BOOT_FILES */
	/*
	 * Allocated, or NULL. BOOT_FILES: all of the command line. BOOT_DISK:
	 * what stands there instead of the usual one.
	 */
	char *cmdline;
	char *append;	/* BOOT_DISK: behind it; allocated, or NULL */
};

/* Empty: BOOT_NOTHING. */
void boot_files_init(struct boot_files *files);
void boot_files_fini(struct boot_files *files);
/* `to`, which is initialised, gets what `from` has; that is empty then. */
void boot_files_move(struct boot_files *to, struct boot_files *from);
/*
 * `to`, which is initialised, gets these; strings are copied, each but kernel
 * may be NULL. 0 or -ENOMEM.
 */
int boot_files_set_paths(struct boot_files *to, const char *kernel, const char *initrd,
			 const char *cmdline, struct err *err);

/* Opened to be read, once; each after the other. */
struct boot_opened {
	struct ram_file kernel, initrd;
	bool has_initrd;
	const char *cmdline;	/* or NULL; boot_files' own */
};

/* Of BOOT_FILES. Errors name the file. After an error there is nothing to close. */
int boot_files_open(const struct boot_files *files, struct boot_opened *opened, struct err *err);
void boot_opened_close(struct boot_opened *opened);

#endif
