// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "cli/descriptors.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

static void withhold(int fd)
{
	fcntl(fd, F_SETFD, FD_CLOEXEC);
}

static void descriptors_drop(int fd)
{
	close(fd);
}

/* For kernels without close_range (Linux 5.9), or without its flag (5.11). */
static int one_by_one(int first, void (*act)(int fd), struct err *err)
{
	DIR *all = opendir("/proc/self/fd");
	struct dirent *entry;
	int fd;

	if (!all)
		return err_errno(err, -errno, "which descriptors are open: /proc/self/fd");
	while ((entry = readdir(all))) {
		fd = atoi(entry->d_name);
		if (fd >= first && fd != dirfd(all))
			act(fd);
	}
	closedir(all);
	return 0;
}

int descriptors_withhold(int first, struct err *err)
{
	return close_range((unsigned int)first, ~0U, CLOSE_RANGE_CLOEXEC) < 0 ?
		       one_by_one(first, withhold, err) :
		       0;
}

int descriptors_close(int first, struct err *err)
{
	if (close_range((unsigned int)first, ~0U, 0) < 0)
		return one_by_one(first, descriptors_drop, err);
	return 0;
}
