// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// See rundir.h. A name is held by the lock on its `pid` (base/pidfile.h), not
// by a file's being there.
#include "control/rundir.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/pidfile.h"

#define LIST_MAX 4096u		/* names that are listed */
#define TAKE_TRIES 100u

static const char *const files[] = { "qmp", "gdb", "pid" };	/* pid last: it is the lock */

bool rundir_name_is_valid(const char *name)
{
	size_t i;

	if (!*name || *name == '.' || *name == '-' || strlen(name) > RUNDIR_NAME_MAX)
		return false;
	for (i = 0; name[i]; i++)
		if (!isalnum((unsigned char)name[i]) && !strchr("._-+", name[i]))
			return false;
	return true;
}

static int base_path(char *path, struct err *err)
{
	const char *dir = getenv("POSTERN_RUNTIME_DIR"), *below = "";
	int n;

	if (!dir || !*dir) {
		dir = geteuid() ? getenv("XDG_RUNTIME_DIR") : "/run";
		below = "/postern";
	}
	if (!dir || *dir != '/')
		return err_set(err, -ENOENT,
			       "there is no directory for named machines: set XDG_RUNTIME_DIR or "
			       "POSTERN_RUNTIME_DIR to one, by its full path");
	n = snprintf(path, RUNDIR_PATH_MAX, "%s%s", dir, below);
	if (n < 0 || (size_t)n >= RUNDIR_PATH_MAX)
		return err_set(err, -ENAMETOOLONG, "%s: too long for a socket's path", dir);
	return 0;
}

int rundir_path(char *path, const char *name, const char *file, struct err *err)
{
	char base[RUNDIR_PATH_MAX];
	int n, r = base_path(base, err);

	if (r < 0)
		return r;
	if (!rundir_name_is_valid(name))
		return err_set(
			err, -EINVAL,
			"a machine's name has 1 to %u letters, digits, '.', '_', '-' and '+', and "
			"begins with none of '.' and '-'",
			RUNDIR_NAME_MAX);
	n = snprintf(path, RUNDIR_PATH_MAX, "%s/%s%s%s", base, name, *file ? "/" : "", file);
	if (n < 0 || (size_t)n >= RUNDIR_PATH_MAX)
		return err_set(err, -ENAMETOOLONG, "%s: too long for the path of the sockets of %s",
			       base, name);
	return 0;
}

/*
 * Makes a directory, or sees to it that the one there is ours and that nobody
 * else may write to it. One that was there is never changed: it may be any that
 * $POSTERN_RUNTIME_DIR names.
 */
static int make_dir(const char *path, struct err *err)
{
	bool made = !mkdir(path, 0700);
	struct stat st;
	int fd, r = 0;

	if (!made && errno != EEXIST)
		return err_errno(err, -errno, "%s", path);
	if (made && chmod(path, 0700) < 0)	/* the umask may have taken our own rights */
		return err_errno(err, -errno, "%s: mode 0700", path);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return err_errno(err, -errno, "%s", path);
	if (fstat(fd, &st) < 0)
		r = err_errno(err, -errno, "%s", path);
	else if (st.st_uid != geteuid())
		r = err_set(err, -EPERM, "%s: belongs to user %u, not to user %u who runs this",
			    path, (unsigned int)st.st_uid, (unsigned int)geteuid());
	else if (st.st_mode & 022)
		r = err_set(err, -EPERM, "%s: others may write there (mode %03o)", path,
			    (unsigned int)(st.st_mode & 0777));
	close(fd);
	return r;
}

/* Not first '.': no machine's name is so. */
#define SHARES ".shares"

int rundir_share_path(char *path, const char *name, struct err *err)
{
	char base[RUNDIR_PATH_MAX], shares[RUNDIR_PATH_MAX];
	int n, r = base_path(base, err);

	if (!r && !rundir_name_is_valid(name))
		r = err_set(
			err, -EINVAL,
			"a share's name is as a machine's: letters, digits, '.', '_', '-', '+'");
	if (r < 0)
		return r;
	n = snprintf(shares, sizeof(shares), "%s/" SHARES, base);
	if (n >= 0 && (size_t)n < sizeof(shares))
		n = snprintf(path, RUNDIR_PATH_MAX, "%s/%s", shares, name);
	if (n < 0 || (size_t)n >= RUNDIR_PATH_MAX)
		return err_set(err, -ENAMETOOLONG, "%s: too long for the path of the share %s",
			       base, name);
	r = make_dir(base, err);
	return r < 0 ? r : make_dir(shares, err);
}

/* The lock on `pid`, or as pidfile_lock; -EAGAIN: try again. */
static int lock_pid(const char *path, const char *name, struct err *err)
{
	pid_t owner;
	int r = pidfile_lock(path, 0600, &owner, err);

	if (r == -ENOENT)	/* the directory was removed in between */
		return -EAGAIN;
	if (r == -EADDRINUSE)
		return err_set(err, r, "a machine of the name %s runs already (process %d)", name,
			       (int)owner);
	return r;
}

int rundir_take(struct rundir *rundir, const char *name, struct err *err)
{
	char base[RUNDIR_PATH_MAX], pid[RUNDIR_PATH_MAX];
	unsigned int tries = TAKE_TRIES;
	int fd = -EAGAIN, r;

	rundir->fd = -1;
	r = rundir_path(pid, name, "pid", err);
	if (!r)
		r = rundir_path(rundir->path, name, "", err);
	if (!r)
		r = base_path(base, err);
	if (!r)
		r = make_dir(base, err);
	while (!r && fd < 0) {
		r = make_dir(rundir->path, err);
		if (r == -ENOENT && tries--) {	/* removed in between */
			r = 0;
			continue;
		}
		if (!r)
			fd = lock_pid(pid, name, err);
		if (fd < 0 && fd != -EAGAIN)
			r = fd;
		if (!r && fd < 0 && !tries--)
			r = err_set(err, -EBUSY, "%s: is being removed again and again",
				    rundir->path);
	}
	if (r < 0)
		return r;
	r = pidfile_write(fd);
	if (r < 0) {
		close(fd);
		return err_errno(err, r, "%s", pid);
	}
	rundir->fd = fd;
	return 0;
}

void rundir_release(struct rundir *rundir)
{
	int dir;
	size_t i;

	if (rundir->fd < 0)
		return;
	dir = open(rundir->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir >= 0) {
		for (i = 0; i < sizeof(files) / sizeof(files[0]); i++)
			unlinkat(dir, files[i], 0);
		close(dir);
		rmdir(rundir->path);
	}
	close(rundir->fd);
	rundir->fd = -1;
}

pid_t rundir_owner(const char *name)
{
	char path[RUNDIR_PATH_MAX];

	return rundir_path(path, name, "pid", NULL) < 0 ? -ESRCH : pidfile_owner(path);
}

static int rundir_compare(const void *a, const void *b)
{
	return strcmp(a, b);
}

int rundir_list(char (**names)[RUNDIR_NAME_MAX + 1], struct err *err)
{
	char base[RUNDIR_PATH_MAX], (*list)[RUNDIR_NAME_MAX + 1];
	struct dirent *entry;
	unsigned int n = 0;
	DIR *dir;
	int r;

	*names = NULL;
	r = base_path(base, err);
	if (r < 0)
		return r;
	dir = opendir(base);
	if (!dir)
		return errno == ENOENT ? 0 : err_errno(err, -errno, "%s", base);
	list = calloc(LIST_MAX, sizeof(*list));
	if (!list) {
		closedir(dir);
		return err_set(err, -ENOMEM, "no memory for the list of machines");
	}
	while (n < LIST_MAX && (entry = readdir(dir)))
		if (rundir_name_is_valid(entry->d_name) && rundir_owner(entry->d_name) >= 0)
			strcpy(list[n++], entry->d_name);
	closedir(dir);
	qsort(list, n, sizeof(*list), rundir_compare);
	*names = list;
	return (int)n;
}
