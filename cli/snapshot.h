/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The command line of `postern snapshot`. Strings point into argv.
 */
#ifndef POSTERN_CLI_SNAPSHOT_H
#define POSTERN_CLI_SNAPSHOT_H

#include "cli/ctl_options.h"
#include "cli/key.h"
#include "cli/store_options.h"
#include "memory/memory.h"
#include "snapshot/memory_file.h"

enum snapshot_command {
	SNAPSHOT_SAVE,
	SNAPSHOT_STATUS,
	SNAPSHOT_CANCEL,
	/* These need no machine. */
	SNAPSHOT_INFO,
	SNAPSHOT_LIST,
	SNAPSHOT_VERIFY,
	SNAPSHOT_COMPACT,
	SNAPSHOT_DELETE,
	SNAPSHOT_GC,
	SNAPSHOT_IMPORT,
	SNAPSHOT_EXPORT,
};

/* What import reads, and export writes. */
enum snapshot_format { SNAPSHOT_RAW, SNAPSHOT_MAPPED_RAM, SNAPSHOT_ELF };

struct snapshot_options {
	enum snapshot_command command;
	struct ctl_options ctl; /* name, qmp, json, timeout_ms, detach, names, help */
	/* STORE/NAME, or STORE; compact: both of them; import: FILE first; export: FILE last */
	const char *place[2];
	unsigned int level; /* 0: not given */
	uint64_t buffer_bytes; /* the same */
	unsigned int threads; /* 0: not given */
	unsigned int dead_after_s; /* 0: not given */
	bool dry_run;
	struct store_args store;
	bool incremental, track, pause;
	const char *parent; /* NULL: not given */
	enum snapshot_format format; /* import, export */
	bool diff; /* export */
	const char *over[MEMORY_FILE_DIFFS_MAX]; /* import */
	unsigned int n_over;
	struct memory_range ranges[MEMORY_REGIONS_MAX]; /* import */
	unsigned int n_ranges; /* 0: not given */
	const char *block; /* import, mapped-ram; NULL: not given */
	uint64_t offset; /* import, mapped-ram */
	struct key_args key;
};

/* 0 or -EINVAL; the error says what is wrong and what is allowed. */
int snapshot_options_parse(struct snapshot_options *options, int argc, char **argv,
			   struct err *err);
/* "save", "status", ... */
const char *snapshot_command_name(enum snapshot_command command);
static inline bool snapshot_command_needs_machine(enum snapshot_command command)
{
	return command <= SNAPSHOT_CANCEL;
}

extern const char snapshot_help[];

#endif
