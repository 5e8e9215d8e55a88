/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A machine's memory and registers into an ELF core (elf_core.h), QEMU's
 * dump-guest-memory: one job. The guest stands still meanwhile. Pages that are
 * not here are not waited for: they are left out.
 *
 * Main thread, all of it; no call waits for the file but dump_free, for what is
 * being written at that moment.
 */
#ifndef POSTERN_SNAPSHOT_DUMP_H
#define POSTERN_SNAPSHOT_DUMP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "machine/machine.h"

enum dump_status { DUMP_NONE, DUMP_ACTIVE, DUMP_COMPLETED, DUMP_FAILED };
/* "none", "active", ... */
const char *dump_status_name(enum dump_status status);

struct dump_config {
	struct machine *machine;
	const char *path; /* copied */
	/*
	 * In place of the file of that name, which it then only has in texts: a plain file that is
	 * open for writing; the dump's from now on, if there is one. It stays when the dump fails.
	 */
	bool fd_given;
	int fd;
	/* Of what lies in [begin, begin + length) alone; both made of pages. length 0: of all. */
	uint64_t begin, length;
	/* It is over. dump_free may come afterwards, and not from inside. */
	void (*changed)(void *arg);
	void *arg;
};

struct dump_info {
	enum dump_status status;
	uint64_t total_bytes, done_bytes; /* of memory; total is 0 before it is known */
	uint64_t missing_pages; /* left out: lost, or not here yet */
	struct err err; /* FAILED */
};

struct dump;

/*
 * Pauses the guest, takes its registers and begins. The file is written anew; one that is not
 * finished is removed. -EBUSY: the guest is not here, or is being saved; -EINVAL: the range has no
 * RAM, or is not made of pages; outfile_open's errors, and -EPERM: it is no plain file, or a
 * descriptor that only appends, or only reads.
 */
int dump_new(struct dump **out, const struct dump_config *config, struct err *err);
/* Ends it: FAILED, and there is no file. changed comes. */
void dump_cancel(struct dump *dump);
void dump_query(struct dump *dump, struct dump_info *info);
/* Cancels, and lets the guest go on. NULL is nothing. */
void dump_free(struct dump *dump);

#endif
