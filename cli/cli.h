/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The subcommands of postern: each gets its own argv, argv[0] being its name,
 * and returns the process's exit status.
 */
#ifndef POSTERN_CLI_CLI_H
#define POSTERN_CLI_CLI_H

enum {
	CLI_OK = 0,
	CLI_FAILED = 1,		/* at run time */
	CLI_USAGE = 2,		/* a bad option */
};

int cmd_run(int argc, char **argv);
int cmd_clone(int argc, char **argv);
int cmd_ctl(int argc, char **argv);
int cmd_top(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_image(int argc, char **argv);
int cmd_snapshot(int argc, char **argv);
/* Not for people: see control/share.h, and disk_child.h. */
int cmd_share_keeper(int argc, char **argv);
int cmd_disk_child(int argc, char **argv);

#endif
