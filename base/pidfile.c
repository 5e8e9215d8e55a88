// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// See pidfile.h. Two races matter. A new owner may open the file just before
// the old one removes it: after locking, the name must still lead to the file
// that was locked. And nobody removes anything without holding the lock.
#include "base/pidfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/outfile.h"
#include "base/path.h"

/* Who has a lock on an open file: the process id that it holds (0: none yet), or -ESRCH: nobody. */
static pid_t lock_owner(int fd)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	char text[16] = "";
	ssize_t n;

	if (fcntl(fd, F_OFD_GETLK, &lock) < 0 || lock.l_type == F_UNLCK)
		return -ESRCH;
	n = pread(fd, text, sizeof(text) - 1, 0);
	return n > 0 ? (pid_t)strtol(text, NULL, 10) : 0;
}

/* Does the path still lead to the file that is open? */
static bool is_same(int fd, const char *path)
{
	struct stat opened;

	return !fstat(fd, &opened) && path_is(path, &opened);
}

int pidfile_lock(const char *path, mode_t mode, pid_t *owner, struct err *err)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	int fd = outfile_open(path, O_RDWR | O_CREAT, mode, err), r;
	struct stat st;

	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		close(fd);
		return err_set(err, -EEXIST, "%s: something else is there, and no file", path);
	}
	if (fcntl(fd, F_OFD_SETLK, &lock) < 0) {
		r = -errno;
		*owner = lock_owner(fd);
		close(fd);
		if (r != -EAGAIN && r != -EACCES)
			return err_errno(err, r, "%s: lock", path);
		if (*owner == -ESRCH)
			return -EAGAIN;
		return err_set(err, -EADDRINUSE, "%s: process %d has it", path, (int)*owner);
	}
	if (is_same(fd, path))
		return fd;
	close(fd);
	return -EAGAIN;
}

int pidfile_write(int fd)
{
	if (ftruncate(fd, 0) < 0 || lseek(fd, 0, SEEK_SET) < 0)
		return -errno;
	return dprintf(fd, "%d\n", (int)getpid()) < 0 ? -errno : 0;
}

void pidfile_remove(int fd, const char *path)
{
	if (fd < 0)
		return;
	if (is_same(fd, path))
		unlink(path);
	close(fd);
}

pid_t pidfile_owner(const char *path)
{
	int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	pid_t owner;

	if (fd < 0)
		return -ESRCH;
	owner = lock_owner(fd);
	close(fd);
	return owner;
}
