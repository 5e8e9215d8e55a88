/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The command line of `postern ctl`. Strings point into argv.
 */
#ifndef POSTERN_CLI_CTL_OPTIONS_H
#define POSTERN_CLI_CTL_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

enum ctl_command {
	CTL_LIST, CTL_STATUS, CTL_STOP, CTL_CONT, CTL_QUIT, CTL_POWERDOWN, CTL_RESET, CTL_MIGRATE, CTL_INCOMING,
	CTL_RECOVER, CTL_PAUSE_MIGRATION, CTL_CANCEL, CTL_FAULTS, CTL_EVENTS, CTL_FILL, CTL_QMP,
};

struct ctl_options {
	enum ctl_command command;
	const char *argument;		/* URI, JSON, or what fill takes; NULL: the command takes none */
	const char *name, *qmp;		/* which machine; both NULL: the only one */
	bool json;
	unsigned int timeout_ms;
	bool names;			/* list: nothing but names */
	bool resume;			/* migrate */
	bool detach;			/* migrate, incoming, recover */
	const char *secret_file;	/* migrate, incoming, recover; NULL: as the machine was started */
	bool insecure;			/* the same three */
	bool limit;			/* migrate: bandwidth was given */
	uint64_t bandwidth;		/* bytes a second */
	bool help;
};

/* 0 or -EINVAL; the error says what is wrong and what is allowed. */
int ctl_options_parse(struct ctl_options *options, int argc, char **argv, struct err *err);

/* QMP's name of what a command is, or begins with; NULL: it is more than that. */
const char *ctl_command_qmp(enum ctl_command command);

extern const char ctl_help[];

#endif
