/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Files with a process id in them, which belong to who holds a lock on them
 * rather than to who wrote last: the kernel lets go of it however the owner
 * ends, so there is nothing to guess from process ids. It is an open file
 * description's lock (F_OFD_SETLK), which no close of another descriptor drops,
 * and which can be asked about without taking it; QEMU locks its own the same
 * way. Any thread.
 */
#ifndef POSTERN_BASE_PIDFILE_H
#define POSTERN_BASE_PIDFILE_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"

/*
 * Opens (base/outfile.h), making it with this mode if it is not there, and
 * locks: a descriptor, the lock as long as it is open. -EADDRINUSE: another has
 * it; *owner is the process id that is written there, 0: none yet. -EAGAIN: it
 * was being removed, try again (err is not set). -ENOENT: no such directory.
 * Others with an error that names the path.
 */
int pidfile_lock(const char *path, mode_t mode, pid_t *owner, struct err *err);
/* This process' id, and nothing else. 0 or a negative errno. */
int pidfile_write(int fd);
/* Removes the name if it still leads to this file, and closes it. */
void pidfile_remove(int fd, const char *path);
/* Whose it is: a process id, 0: not written yet; -ESRCH: nobody's. Changes nothing. */
pid_t pidfile_owner(const char *path);

#endif
