// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// See outfile.h. Linux has the sysctls fs.protected_symlinks,
// protected_hardlinks, protected_regular and protected_fifos against the same;
// they are off here and there, and know sticky directories alone.
#include "base/outfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* May files be laid and found in this directory? *shared: others may write to it. */
static int dir_check(int fd, const char *path, struct stat *dir, bool *shared, struct err *err)
{
	if (fstat(fd, dir) < 0)
		return err_errno(err, -errno, "%s", path);
	if (dir->st_uid != geteuid() && dir->st_uid != 0)
		return err_set(
			err, -EPERM,
			"%s: its directory belongs to user %u, who could put another file there",
			path, (unsigned int)dir->st_uid);
	if (dir->st_mode & S_IWOTH && !(dir->st_mode & S_ISVTX))
		return err_set(err, -EPERM,
			       "%s: everybody may remove files from its directory (mode %03o)",
			       path, (unsigned int)(dir->st_mode & 0777));
	*shared = dir->st_mode & (S_IWGRP | S_IWOTH);
	return 0;
}

static int file_check(int fd, const char *path, const struct stat *dir, bool shared,
		      struct err *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_errno(err, -errno, "%s", path);
	if (!shared || S_ISCHR(st.st_mode))
		return 0;
	if (st.st_uid != geteuid() && st.st_uid != dir->st_uid)
		return err_set(err, -EPERM, "%s: user %u has put it there, where others may write",
			       path, (unsigned int)st.st_uid);
	if (S_ISREG(st.st_mode) && st.st_nlink > 1)
		return err_set(
			err, -EPERM,
			"%s: it has another name besides, and others may write to its directory",
			path);
	return 0;
}

/* The directory of path, for openat; *name: the rest. */
static int outfile_dir_open(const char *path, const char **name, struct err *err)
{
	const char *slash = strrchr(path, '/');
	char *dir = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
	int fd;

	if (!dir)
		return err_set(err, -ENOMEM, "%s: no memory", path);
	*name = slash ? slash + 1 : path;
	fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	free(dir);
	return fd < 0 ? err_errno(err, -errno, "%s", path) : fd;
}

int outfile_open(const char *path, int flags, mode_t mode, struct err *err)
{
	struct stat dir;
	const char *name = "";
	bool shared = true;
	int at = outfile_dir_open(path, &name, err), fd, r;

	if (at < 0)
		return at;
	fd = dir_check(at, path, &dir, &shared, err);
	if (!fd) {
		fd = openat(at, name,
			    (flags & ~O_TRUNC) | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC,
			    mode);
		if (fd < 0)
			fd = errno == ELOOP ?
				     err_set(err, -ELOOP,
					     "%s: a symbolic link, which is not followed: name the file itself",
					     path) :
				     err_errno(err, -errno, "%s", path);
	}
	close(at);
	if (fd < 0)
		return fd;
	r = file_check(fd, path, &dir, shared, err);
	/* Neither FIFOs nor terminals have a length. */
	if (!r && flags & O_TRUNC && ftruncate(fd, 0) < 0 && errno != EINVAL)
		r = err_errno(err, -errno, "%s", path);
	if (!r)
		return fd;
	close(fd);
	return r;
}
