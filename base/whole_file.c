// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "base/whole_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/path.h"

#define MODE 0600

/* In the folder that the file is to be in. Returns a descriptor, or a negative errno. */
static int whole_file_nameless(const char *path)
{
	const char *slash = strrchr(path, '/');
	char folder[PATH_MAX] = ".";
	int fd;

	if (slash && snprintf(folder, sizeof(folder), "%.*s", (int)(slash - path + 1), path) >=
			     (int)sizeof(folder))
		return -ENAMETOOLONG;
	fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, MODE);
	return fd < 0 ? -errno : fd;
}

static int whole_file_failed(const char *path, int r, struct err *err)
{
	if (r == -EEXIST)
		return err_set(err, r, "%s is there already, and nothing is overwritten", path);
	return err_errno(err, r, "%s", path);
}

int whole_file_open(struct whole_file *file, const char *path, struct err *err)
{
	struct stat st;

	*file = (struct whole_file){ .path = path };
	/* To be told before all the work: a name that cannot be, too. */
	if (!*path)
		return err_set(err, -ENOENT, "the file's name is empty");
	if (!lstat(path, &st))
		return whole_file_failed(path, -EEXIST, err);
	if (errno != ENOENT)
		return whole_file_failed(path, -errno, err);
	file->fd = whole_file_nameless(path);
	if (file->fd == -EOPNOTSUPP || file->fd == -EISDIR || file->fd == -ENOENT) {
		file->fd = open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, MODE);
		file->named = file->fd >= 0;
		file->fd = file->named ? file->fd : -errno;
	}
	return file->fd < 0 ? whole_file_failed(path, file->fd, err) : 0;
}

int whole_file_finish(struct whole_file *file, struct err *err)
{
	char self[32];

	if (fsync(file->fd) < 0)
		return err_errno(err, -errno, "%s", file->path);
	snprintf(self, sizeof(self), "/proc/self/fd/%d", file->fd);
	if (!file->named && linkat(AT_FDCWD, self, AT_FDCWD, file->path, AT_SYMLINK_FOLLOW) < 0)
		return whole_file_failed(file->path, -errno, err);
	file->finished = true;
	return 0;
}

void whole_file_close(struct whole_file *file)
{
	struct stat st;

	if (file->named && !file->finished && !fstat(file->fd, &st))
		path_remove(file->path, &st);
	close(file->fd);
}
