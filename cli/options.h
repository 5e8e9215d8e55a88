/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The command line of `postern run`, and its file of options. Strings point
 * into argv and the configuration; paths of disks are kept until the end.
 */
#ifndef POSTERN_CLI_OPTIONS_H
#define POSTERN_CLI_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include <limits.h>

#include "base/err.h"
#include "base/log.h"
#include "cli/config.h"
#include "cli/key.h"
#include "cli/store_options.h"
#include "machine/machine.h"
#include "snapshot/replay.h"
#include "source/worker.h"

#define OPTIONS_QMP_MAX 8

struct options {
	struct machine_config machine;
	const char *append;		/* behind the command line, or NULL */
	const char *boot_disk;		/* without --kernel: the first disk, or NULL */
	char *line;			/* command line and append, put together here */
	const char *qmp[OPTIONS_QMP_MAX];
	unsigned int nqmp;
	const char *gdb;		/* NULL: none; "auto": where the name says */
	unsigned int gdb_page_timeout_ms;
	const char *incoming;		/* NULL: none; "defer": QMP says later */
	const char *restore;		/* NULL: none; STORE/NAME of an image */
	const char *share;		/* NULL: none; with whom memory is shared that comes from restore's image */
	struct worker_fill fill;	/* of what is restored */
	bool fill_given;
	struct replay_options working_set;	/* what is done with that of restore's image */
	bool working_set_given;
	bool changed_disks;
	bool clock_realtime; /* of restore: clocks show the time since it was saved */
	const char *overlay; /* NULL: none; where overlays are made over the disks */
	struct store_args store;	/* of restore */
	struct key_args key; /* likewise */
	bool cpus_given, memory_given;
	const char *secret_file;	/* NULL: none */
	bool insecure;
	bool paused;
	unsigned int link_timeout_ms;
	uint64_t bandwidth;		/* bytes a second, 0: no limit */
	enum log_level log_level;
	enum log_format log_format;
	char log_file[PATH_MAX];	/* "": standard error */
	uint64_t log_limit;		/* of log_file, bytes; 0: none */
	const char *pid_file;		/* NULL: none */
	bool help;
	bool serial_given, console_stdio;
	struct config config;
	bool qmp_configured;		/* qmp is the file's: the first --qmp begins anew */
};

/*
 * The file of --config first, then what argv says over it. 0 or a negative
 * errno; the error names the option, the value, and what is allowed.
 */
int options_parse(struct options *options, int argc, char **argv, struct err *err);
/* Also after an error. */
void options_fini(struct options *options);

/* "on", "off", or bytes a second. 0 or -EINVAL. */
int options_parse_fill(struct worker_fill *fill, const char *text);

extern const char options_help[];

#endif
