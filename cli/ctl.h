/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What the files of `postern ctl` share.
 *
 *   ctl_options.c   the command line
 *   ctl.c           which machine; the commands
 *   ctl_migrate.c   migrate, incoming, recover, and following them
 *   ctl_text.c      answers as text
 */
#ifndef POSTERN_CLI_CTL_H
#define POSTERN_CLI_CTL_H

#include "cli/ctl_options.h"
#include "control/qmp_remote.h"
#include "control/rundir.h"

/* Exit codes beyond cli.h's. */
enum {
	CTL_NO_ANSWER = 3,
	CTL_INTERRUPTED = 130,
};

struct ctl {
	struct ctl_options options;
	char name[RUNDIR_NAME_MAX + 1];		/* of the machine; "": it was given by its address */
	struct qmp_remote *remote;
	int signal_fd;				/* -1: signals end the process, as ever */
};

/* To the machine that the options name. 0 or a negative errno. */
int ctl_connect(struct ctl *ctl, struct err *err);
/* Tells of an error on standard error, which begins with `program`; the exit code. */
int ctl_end(const char *program, int r, struct err *err);
/* From now on SIGINT, SIGTERM and SIGHUP end waits with -EINTR. 0 or a negative errno. */
int ctl_catch_signals(struct ctl *ctl, struct err *err);
/* JSON on standard output: for a program, in lines for a person to look at. */
void ctl_print_json(const json_t *json);
/* Commands return 0 or a negative errno: -EREMOTEIO the machine refused, -EINTR a signal came. */
int ctl_migrate(struct ctl *ctl, struct err *err);

#endif
