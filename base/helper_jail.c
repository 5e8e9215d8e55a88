// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * helper_jail.c - a root directory for a helper, in a mount namespace of its
 * own, and no network but the sockets that it is given.
 *
 * A file that it may open is bound to /proc/self/fd/<number>, which is what it
 * is called where there is no such root, too. It has to be found again for
 * that, by the path that the kernel has for the descriptor, since mounts of
 * another namespace cannot be bound; what lies there by now is compared with
 * what the descriptor is.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/helper_child.h"

/*
 * The new root is made there: a directory that every host has, and nobody keeps
 * images in.
 */
#define PLACE "/sys"

/* to = from, then a number's digits. */
static void name_make(char *to, const char *from, unsigned int number)
{
	size_t n = strlen(from);

	memcpy(to, from, n);
	if (number >= 10)
		to[n++] = (char)('0' + number / 10);
	to[n++] = (char)('0' + number % 10);
	to[n] = '\0';
}

static int write_file(const char *path, const char *text, size_t len)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), r = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, len) != (ssize_t)len)
		r = -errno;
	close(fd);
	return r;
}

static int map_write(const char *path, unsigned int id)
{
	char text[32], digits[12], *d = digits + sizeof(digits), *at = text;
	unsigned int rest = id, i;

	do
		*--d = (char)('0' + rest % 10);
	while (rest /= 10);
	for (i = 0; i < 2; i++) {
		memcpy(at, d, (size_t)(digits + sizeof(digits) - d));
		at += digits + sizeof(digits) - d;
		*at++ = ' ';
	}
	*at++ = '1';
	return write_file(path, text, (size_t)(at - text));
}

/*
 * Who is not root needs a user namespace for the others, in which it is who it
 * was.
 */
static int namespaces_enter(bool root)
{
	unsigned int uid = (unsigned int)geteuid(), gid = (unsigned int)getegid();
	int r;

	if (unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | (root ? 0 : CLONE_NEWUSER)) < 0)
		return -errno;
	if (root)
		return 0;
	write_file("/proc/self/setgroups", "deny", 4);
	r = map_write("/proc/self/uid_map", uid);
	return r ? r : map_write("/proc/self/gid_map", gid);
}

static void read_only(const char *path)
{
	mount(NULL, path, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID, NULL);
}

static int bind_at(const char *from, const char *to)
{
	return mount(from, to, NULL, MS_BIND | MS_REC, NULL) < 0 ? -errno : 0;
}

static int bind_file(const char *from, const char *to)
{
	if (mknod(to, S_IFREG | 0644, 0) < 0)
		return -errno;
	return bind_at(from, to);
}

/* "/lib64" and the like: directories of their own, or links into /usr. */
static void system_add(const char *path)
{
	char to[32] = PLACE, target[64];
	ssize_t n = readlink(path, target, sizeof(target) - 1);

	strcpy(to + strlen(PLACE), path);
	if (n > 0) {
		target[n] = '\0';
		if (symlink(target, to) < 0)
			return;
	} else if (!access(path, F_OK) && !mkdir(to, 0755) && !bind_at(path, to)) {
		read_only(to);
	}
}

static int jail_file_add(unsigned int fd, bool writable)
{
	char link[32], to[48], path[4096];
	struct stat is, was;
	ssize_t n;
	int r;

	name_make(link, "/proc/self/fd/", fd);
	name_make(to, PLACE "/proc/self/fd/", fd);
	n = readlink(link, path, sizeof(path) - 1);
	if (n <= 0)
		return -errno;
	path[n] = '\0';
	r = bind_file(path, to);
	if (r < 0)
		return r;
	if (fstat((int)fd, &was) < 0 || stat(to, &is) < 0 || is.st_dev != was.st_dev ||
	    is.st_ino != was.st_ino)
		return -ESTALE;
	if (!writable)
		read_only(to);
	return 0;
}

static int files_add(const struct helper_birth *birth)
{
	static const char *const system[] = { "/usr", "/lib", "/lib64", "/bin", "/sbin" };
	static const char *const make[] = {
		PLACE "/dev", PLACE "/etc", PLACE HELPER_JAIL_DIR, PLACE "/proc",
		PLACE "/proc/self", PLACE "/proc/self/fd",
	};
	char program[256] = PLACE;
	const struct helper_config *config = birth->config;
	unsigned int i;
	int r;

	for (i = 0; i < sizeof(system) / sizeof(system[0]); i++)
		system_add(system[i]);
	for (i = 0; i < sizeof(make) / sizeof(make[0]); i++)
		if (mkdir(make[i], 0755) < 0)
			return -errno;
	/* Where libraries are; a system without it finds them. */
	bind_file("/etc/ld.so.cache", PLACE "/etc/ld.so.cache");
	r = bind_file("/dev/null", PLACE "/dev/null");
	if (!r && strlen(birth->jail_path) >= sizeof(program) - strlen(PLACE))
		r = -ENAMETOOLONG;
	if (!r)
		r = bind_file(birth->path, strcat(program, birth->jail_path));
	for (i = 0; i < config->n_fds && !r; i++)
		if ((config->readable | config->writable) >> i & 1)
			r = jail_file_add(HELPER_FD + i, config->writable >> i & 1);
	return r;
}

int helper_jail(struct helper_birth *birth)
{
	int r = namespaces_enter(birth->root);

	if (r < 0)
		return r;
	/* Whoever is in there finds its way, whatever we keep from others. */
	umask(022);
	/* Nothing of what follows is to be seen outside. */
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0 ||
	    mount("tmpfs", PLACE, "tmpfs", MS_NOSUID | MS_NODEV, "size=64k,mode=755") < 0)
		return -errno;
	r = files_add(birth);
	if (r < 0 || chdir(PLACE) < 0) {
		umount2(PLACE, MNT_DETACH);
		return r < 0 ? r : -errno;
	}
	if (syscall(SYS_pivot_root, ".", ".") < 0)
		return -errno;
	/* The old root lies over the new one. */
	if (umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		return -errno;
	return 0;
}
