// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "base/private_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static int private_file_check(int fd, const char *path, struct err *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_errno(err, -errno, "%s", path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, -EINVAL, "%s is no regular file", path);
	if (st.st_mode & (S_IRWXG | S_IRWXO))
		return err_set(err, -EPERM,
			       "%s is open to others than its owner (mode %04o): chmod 600 %s",
			       path, (unsigned int)(st.st_mode & 07777), path);
	return 0;
}

int private_file_open(const char *path, struct err *err)
{
	/* What is no file must not keep us here. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK), r;

	if (fd < 0)
		return err_errno(err, -errno, "%s", path);
	r = private_file_check(fd, path, err);
	if (r < 0) {
		close(fd);
		return r;
	}
	return fd;
}
