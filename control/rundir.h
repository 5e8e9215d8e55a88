/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Where a named machine's sockets are, and which names are taken on this host.
 *
 *   BASE/NAME/pid     the owner's process id; locked for as long as the owner lives
 *   BASE/NAME/qmp     QMP
 *   BASE/NAME/gdb     the gdb stub, where it was asked for
 *
 * BASE is $POSTERN_RUNTIME_DIR, else /run/postern for root, else
 * $XDG_RUNTIME_DIR/postern. (Root's does not follow XDG_RUNTIME_DIR: that goes
 * when root logs out, machines stay, and sudo knows nothing of it.) BASE and
 * NAME are made with mode 0700; those that are there must be ours, and nobody
 * else may write there. Any thread; no state but what is passed.
 */
#ifndef POSTERN_CONTROL_RUNDIR_H
#define POSTERN_CONTROL_RUNDIR_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/err.h"

#define RUNDIR_NAME_MAX 48u	/* bytes of a name; so that a socket's path fits sun_path */
#define RUNDIR_PATH_MAX 108u	/* bytes of a path with its NUL, as in sun_path */

/* A name that this process holds. */
struct rundir {
	char path[RUNDIR_PATH_MAX];	/* BASE/NAME */
	int fd;				/* pid, locked; -1: nothing is held */
};

/* Letters, digits, '.', '_', '-' and '+', not first '.' or '-', up to RUNDIR_NAME_MAX. */
bool rundir_name_is_valid(const char *name);

/*
 * Takes a name: makes its directory, locks it. What a dead owner left is taken
 * over. -EADDRINUSE: a live process has it (the error names it); -EINVAL: no
 * such name is possible; -EPERM: a directory there is not ours alone.
 */
int rundir_take(struct rundir *rundir, const char *name, struct err *err);
/* Removes sockets and directory, lets go of the name. Nothing held is fine. */
void rundir_release(struct rundir *rundir);

/*
 * BASE/NAME/FILE into path (RUNDIR_PATH_MAX bytes). 0, -EINVAL (the name),
 * -ENOENT (no BASE for this user), -ENAMETOOLONG.
 */
int rundir_path(char *path, const char *name, const char *file, struct err *err);
/*
 * BASE/.shares/NAME into path, for share.h; the directories are made as those
 * of names. Errors as rundir_take's, but for -EADDRINUSE.
 */
int rundir_share_path(char *path, const char *name, struct err *err);
/* The owner of a name: its process id (0 if it is about to say so), or -ESRCH: nobody has it. */
pid_t rundir_owner(const char *name);

/*
 * Names that live processes have, sorted; *names is freed with free() at once.
 * A count, or a negative errno.
 */
int rundir_list(char (**names)[RUNDIR_NAME_MAX + 1], struct err *err);

#endif
