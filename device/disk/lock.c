// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "device/disk/lock.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"

/* ---- who holds it ---- */

/* /proc/PID/fdinfo/FD has a line "lock:" for each lock that came through this descriptor. */
static bool descriptor_locks(const char *fdinfo)
{
	FILE *file = fopen(fdinfo, "re");
	char line[256];
	bool found = false;

	while (file && !found && fgets(line, sizeof(line), file))
		found = !strncmp(line, "lock:", 5);
	if (file)
		fclose(file);
	return found;
}

static bool process_locks(const char *pid, const struct stat *st)
{
	char path[300];
	struct dirent *entry;
	struct stat other;
	bool found = false;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%s/fd", pid);
	dir = opendir(path);
	while (dir && !found && (entry = readdir(dir))) {
		snprintf(path, sizeof(path), "/proc/%.16s/fd/%.16s", pid, entry->d_name);
		if (!isdigit((unsigned char)*entry->d_name) || stat(path, &other) < 0 ||
		    other.st_dev != st->st_dev || other.st_ino != st->st_ino)
			continue;
		snprintf(path, sizeof(path), "/proc/%.16s/fdinfo/%.16s", pid, entry->d_name);
		found = descriptor_locks(path);
	}
	if (dir)
		closedir(dir);
	return found;
}

/* The kernel does not tell whose an open file description's lock is; descriptors do. */
static void holder_find(char *text, size_t room, int fd)
{
	DIR *dir = opendir("/proc");
	struct dirent *entry;
	char name[32] = "", path[300];
	struct stat st;
	FILE *comm;

	snprintf(text, room, "another process");
	if (fstat(fd, &st) < 0 || !dir)
		goto out;
	while ((entry = readdir(dir))) {
		if (!isdigit((unsigned char)*entry->d_name) || !process_locks(entry->d_name, &st))
			continue;
		snprintf(path, sizeof(path), "/proc/%s/comm", entry->d_name);
		comm = fopen(path, "re");
		if (comm && fgets(name, sizeof(name), comm))
			name[strcspn(name, "\n")] = '\0';
		if (comm)
			fclose(comm);
		snprintf(text, room, "process %.16s (%s)", entry->d_name, name);
		break;
	}
out:
	if (dir)
		closedir(dir);
}

/* ---- the lock ---- */

/* Where the other description's part begins: behind any file's end. */
#define OTHER_AT (INT64_C(1) << 62)

static int lock_set(int fd, int other_fd, short type)
{
	struct flock lock = { .l_type = type,
			      .l_whence = SEEK_SET,
			      .l_len = other_fd >= 0 ? OTHER_AT : 0 };
	struct flock other = { .l_type = type, .l_whence = SEEK_SET, .l_start = OTHER_AT };

	if (fcntl(fd, F_OFD_SETLK, &lock) < 0)
		return -errno;
	return other_fd >= 0 && fcntl(other_fd, F_OFD_SETLK, &other) < 0 ? -errno : 0;
}

int lock_take(int fd, int other_fd, const char *path, bool shared, struct err *err)
{
	int r = lock_set(fd, other_fd, shared ? F_RDLCK : F_WRLCK);
	char holder[96];

	if (!r)
		return 0;
	lock_release(fd, other_fd);
	if (r == -EAGAIN || r == -EACCES) {
		holder_find(holder, sizeof(holder), fd);
		return err_set(err, -EBUSY, "%s has it locked%s", holder,
			       shared ? ", and may write to it" :
					": two machines that write to one disk destroy it");
	}
	log_warn(
		"disk %s: it cannot be locked (%s): nothing keeps another machine from writing to it",
		path, strerror(-r));
	return 0;
}

void lock_release(int fd, int other_fd)
{
	lock_set(fd, other_fd, F_UNLCK);
}
