/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Names in the file system: those that were made here (by the time they are to
 * go, somebody may have put another file there), and as users write them.
 */
#ifndef POSTERN_BASE_PATH_H
#define POSTERN_BASE_PATH_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/*
 * Does the name lead to that very file, and not by a symbolic link? For certain only while somebody
 * has the file open: later another may have its inode's number.
 */
static inline bool path_is(const char *path, const struct stat *file)
{
	struct stat now;

	return !lstat(path, &now) && now.st_ino == file->st_ino && now.st_dev == file->st_dev;
}

/* Removes the name if so. */
static inline void path_remove(const char *path, const struct stat *file)
{
	if (path_is(path, file))
		unlink(path);
}

/*
 * Where a path ends in ",NAME=VALUE", that without the comma; else NULL. Paths
 * may have commas, but who writes this means an option: one that is misspelt is
 * not to become a part of a file's name.
 */
static inline const char *path_option(const char *path)
{
	const char *comma = strrchr(path, ','), *at;

	if (!comma)
		return NULL;
	for (at = comma + 1; (*at >= 'a' && *at <= 'z') || *at == '-'; at++)
		;
	return at > comma + 1 && *at == '=' && !strchr(at, '/') ? comma + 1 : NULL;
}

#endif
