// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "base/rotate.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/outfile.h"
#include "base/path.h"

int rotate_open(struct rotate *rotate, const char *path, uint64_t limit, mode_t mode, bool empty,
		struct err *err)
{
	size_t len = strlen(path);

	*rotate = (struct rotate){ .limit = limit, .mode = mode, .fd = -1 };
	/* PATH.1 has to fit, too. */
	if (len + 2 >= sizeof(rotate->path))
		return err_set(err, -ENAMETOOLONG, "%.64s...: longer than %zu bytes", path,
			       sizeof(rotate->path) - 3);
	memcpy(rotate->path, path, len + 1);
	rotate->fd = outfile_open(path, O_WRONLY | O_APPEND | O_CREAT | (empty ? O_TRUNC : 0), mode,
				  err);
	return rotate->fd < 0 ? rotate->fd : 0;
}

void rotate_close(struct rotate *rotate)
{
	if (rotate->fd >= 0)
		close(rotate->fd);
	rotate->fd = -1;
}

/* The new file takes the old one's descriptor, in one step for all who write to it. */
static int take_over(struct rotate *rotate, const struct stat *old)
{
	int fd = outfile_open(rotate->path, O_WRONLY | O_APPEND | O_CREAT, rotate->mode, NULL);
	int r = 0;

	if (fd < 0)
		return fd;
	/* Whoever may read the old one may read this one. */
	if (fchmod(fd, old->st_mode & 0777) < 0 && errno != EPERM)
		r = -errno;
	if (!r && dup3(fd, rotate->fd, O_CLOEXEC) < 0)
		r = -errno;
	close(fd);
	return r;
}

/* With the old file's lock. */
static int move_away(struct rotate *rotate, const struct stat *old)
{
	char away[PATH_MAX];
	int r;

	/* Somebody has moved it away already. */
	if (!path_is(rotate->path, old))
		return take_over(rotate, old);
	snprintf(away, sizeof(away), "%.*s.1", (int)sizeof(away) - 3, rotate->path);
	if (rename(rotate->path, away) < 0)
		return -errno;
	r = take_over(rotate, old);
	if (r < 0 && rename(away, rotate->path) < 0)
		r = -errno;
	return r;
}

int rotate_make_room(struct rotate *rotate, size_t len)
{
	struct stat st;
	bool told = rotate->refused;
	int r;

	if (!rotate->limit || fstat(rotate->fd, &st) < 0 || !S_ISREG(st.st_mode) ||
	    (uint64_t)st.st_size + len <= rotate->limit)
		return 0;
	/*
	 * Another process is about it: it may be a little longer than its limit. Not more: who may
	 * read the file may hold its lock for ever.
	 */
	if (flock(rotate->fd, LOCK_EX | LOCK_NB) < 0 && (uint64_t)st.st_size < 2 * rotate->limit)
		return 0;
	r = move_away(rotate, &st);
	rotate->refused = r < 0;
	if (r < 0) {
		if (ftruncate(rotate->fd, 0) < 0)
			r = -errno;
		flock(rotate->fd, LOCK_UN);
	}
	return told ? 0 : r;
}
