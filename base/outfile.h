/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Files that are written where a user says, perhaps as root and in a directory
 * that others write to as well: what others have laid there is not to lead the
 * writing elsewhere. Any thread.
 */
#ifndef POSTERN_BASE_OUTFILE_H
#define POSTERN_BASE_OUTFILE_H

#include <sys/types.h>

#include "base/err.h"

/*
 * open(2) of path, close-on-exec, never waiting (O_NONBLOCK, for FIFOs), never
 * a controlling terminal; returns a descriptor. With O_TRUNC it is emptied
 * after all checks. Refused, with an error that names the path:
 *
 *   -ELOOP   it is a symbolic link, wherever it leads
 *   -EPERM   its directory belongs to somebody who is neither this user nor root, or everybody may remove files there (no sticky bit);
 *            or others may write to the directory, and the file is not this
 *            user's or the directory's owner's, or has another name besides
 *
 * Links on the way to the directory are followed.
 */
int outfile_open(const char *path, int flags, mode_t mode, struct err *err);

#endif
