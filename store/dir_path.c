// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// From an object's name to a file in the store's folder, and never out of it: the kernel resolves
// each name beneath the folder (openat2), whatever links others put there, and while they do.
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "store/dir_internal.h"

/* How often somebody may rename what a name leads through. */
#define OPEN_TRIES 100

struct open_how dir_how(uint64_t flags, uint64_t resolve)
{
	/* Without O_NONBLOCK a FIFO would hold us until somebody writes. */
	return (struct open_how){
		.flags = flags | O_CLOEXEC | (flags & O_PATH ? 0 : O_NONBLOCK | O_NOCTTY),
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | resolve,
	};
}

int dir_open_beneath(const struct dir *dir, const char *path, uint64_t flags, uint64_t resolve)
{
	struct open_how how = dir_how(flags, resolve);
	unsigned int tries = resolve & RESOLVE_CACHED ? 1 : OPEN_TRIES;
	long fd;

	do
		fd = syscall(SYS_openat2, dir->fd, *path ? path : ".", &how, sizeof(how));
	/* EAGAIN: the kernel is not sure that it stayed beneath. */
	while (fd < 0 && (errno == EINTR || errno == EAGAIN) && --tries);
	return fd < 0 ? -errno : (int)fd;
}

int dir_explain(struct err *err, int code)
{
	switch (code) {
	case -ENOENT:
	case -ENOTDIR:
		return err_set(err, -ENOENT, "no such object");
	case -EXDEV:
	case -ELOOP:
		return err_set(err, -EPERM,
			       "a symbolic link leads out of the folder, which is not "
			       "followed: put the file itself there");
	case -ENXIO:
	case -ENODEV:
		return err_set(err, -EPERM, "not a plain file");
	case -EACCES:
	case -EPERM:
	case -EROFS:
		return err_errno(err, code == -EROFS ? -EPERM : code,
				 "user %u may not: change the owner or mode of the folder or file",
				 (unsigned int)geteuid());
	case -ENOSPC:
	case -EDQUOT:
		return err_errno(err, code, "make room there");
	case -EMFILE:
	case -ENFILE:
		return err_errno(err, -EAGAIN, "raise the limit of open files (ulimit -n)");
	default:
		return err_errno(err, code, "the file system failed");
	}
}

int dir_check_mode(unsigned int mode, struct err *err)
{
	if (S_ISDIR(mode))
		return err_set(err, -ENOENT, "no such object: there is a folder of that name");
	return S_ISREG(mode) ? 0 : err_set(err, -EPERM, "not a plain file");
}

/* A folder by its path, made if it is not there: its parents first, each synced. */
static int make_folder(const struct dir *dir, char *path)
{
	char *slash = strrchr(path, '/');
	int parent, r = 0, fd = dir_open_beneath(dir, path, O_RDONLY | O_DIRECTORY, 0);

	if (fd != -ENOENT)
		return fd;
	if (slash) {
		*slash = 0;
		parent = make_folder(dir, path);
		*slash = '/';
	} else {
		parent = dir_open_beneath(dir, "", O_RDONLY | O_DIRECTORY, 0);
	}
	if (parent < 0)
		return parent;
	/* Memory is secret: nobody else reads it. */
	if (mkdirat(parent, slash ? slash + 1 : path, 0700) < 0 && errno != EEXIST)
		r = -errno;
	if (!r && fsync(parent) < 0)
		r = -errno;
	close(parent);
	return r ? r : dir_open_beneath(dir, path, O_RDONLY | O_DIRECTORY, 0);
}

int dir_open_parent(const struct dir *dir, const char *object, bool make, const char **last,
		    struct err *err)
{
	const char *slash = strrchr(object, '/');
	char path[STORE_NAME_MAX + 1];
	size_t n = slash ? (size_t)(slash - object) : 0;
	int fd;

	*last = slash ? slash + 1 : object;
	memcpy(path, object, n);
	path[n] = 0;
	fd = make && n ? make_folder(dir, path) :
			 dir_open_beneath(dir, path, O_RDONLY | O_DIRECTORY, 0);
	if (fd == -ENOTDIR && make)
		return err_set(err, -ENOTDIR, "a part of its name is an object, not a folder");
	return fd < 0 ? dir_explain(err, fd) : fd;
}
