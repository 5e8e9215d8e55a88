// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * image_work.c - what `postern image` needs before it begins, and leaves nothing
 * of: the programs, and directories to work in.
 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/image.h"

static bool program_is_there(const char *name)
{
	char path[512];
	const char *at = getenv("PATH"), *end;

	for (; at && *at; at = *end ? end + 1 : end) {
		end = strchrnul(at, ':');
		snprintf(path, sizeof(path), "%.*s/%s", (int)(end - at), at, name);
		if (!access(path, X_OK))
			return true;
	}
	return false;
}

int image_programs_check(struct err *err)
{
	static const struct {
		const char *name, *package;
		bool only_users;	/* not needed by root */
	} programs[] = {
		{ "mmdebstrap", "mmdebstrap", false }, { "mke2fs", "e2fsprogs", false },
		{ "apt-get", "apt", false },	       { "tar", "tar", false },
		{ "fakeroot", "fakeroot", true },      { "newuidmap", "uidmap", true },
	};
	char missing[200] = "";
	size_t i;

	for (i = 0; i < sizeof(programs) / sizeof(programs[0]); i++)
		if (!program_is_there(programs[i].name) && (geteuid() || !programs[i].only_users))
			snprintf(missing + strlen(missing), sizeof(missing) - strlen(missing),
				 " %s", programs[i].package);
	return *missing ? err_set(err, -ENOENT, "this machine lacks packages: apt-get install%s",
				  missing) :
			  0;
}

/* May anybody pass through this absolute path? */
static bool is_open_to_all(const char *path)
{
	char *part = strdup(path), *slash = part;
	struct stat st;
	bool yes = part;

	while (yes && slash) {
		yes = !stat(*part ? part : "/", &st) && st.st_mode & S_IXOTH;
		slash = strrchr(part, '/');
		if (slash)
			*slash = '\0';
	}
	free(part);
	return yes;
}

static char *directory_make(const char *in, const char *name, mode_t mode)
{
	char *path;

	if (asprintf(&path, "%s/%s", in, name) < 0)
		return NULL;
	/* Whatever the umask is. */
	if ((strstr(name, "XXXXXX") ? mkdtemp(path) == NULL : mkdir(path, mode) < 0) ||
	    chmod(path, mode) < 0) {
		free(path);
		return NULL;
	}
	return path;
}

/*
 * The file may be in a directory that is its user's alone. Then others, apt's
 * own user and those of a user namespace, do not get to what is unpacked there.
 */
static char *tmp_make(const char *top)
{
	const char *given = getenv("TMPDIR");
	char *whole = realpath(top, NULL), *tmp;

	if (!whole)
		return NULL;
	if (is_open_to_all(whole))
		tmp = directory_make(whole, "tmp", 0755);
	else
		tmp = directory_make(given && *given == '/' && is_open_to_all(given) ? given :
										       "/tmp",
				     "postern-image.XXXXXX", 0755);
	free(whole);
	return tmp;
}

int image_work_make(struct image *image, struct err *err)
{
	struct stat st;

	if (!lstat(image->out, &st))
		return err_set(err, -EEXIST, "%s: is there already", image->name);
	if (asprintf(&image->top, "%s.XXXXXX", image->out) < 0)
		image->top = NULL;
	if (!image->top)
		return err_set(err, -ENOMEM, "no memory");
	if (!mkdtemp(image->top)) {
		err_errno(err, -errno, "%s", image->name);
		free(image->top);
		image->top = NULL;
		return err->code;
	}
	if (chmod(image->top, 0711) < 0)
		return err_errno(err, -errno, "%s", image->top);
	image->work = directory_make(image->top, "work", 0700);
	image->tmp = image->work ? tmp_make(image->top) : NULL;
	return image->tmp ? 0 : err_errno(err, -errno, "a directory for what is unpacked");
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *where)
{
	(void)st, (void)type, (void)where;
	return remove(path) && errno != ENOENT ? -1 : 0;
}

static int tree_remove(const char *path)
{
	return nftw(path, remove_one, 32, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) < 0 && errno != ENOENT ?
		       -errno :
		       0;
}

/*
 * What was unpacked in a user namespace belongs to others than its user, but
 * may be removed in one.
 */
static void tmp_clear(const char *tmp)
{
	char *words[] = { "mmdebstrap", "--unshare-helper",  "env",	  "--chdir=/", "rm",
			  "-rf",	"--one-file-system", (char *)tmp, NULL };
	posix_spawn_file_actions_t files;
	pid_t pid;

	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDWR, 0);
	posix_spawn_file_actions_adddup2(&files, 0, 1);
	posix_spawn_file_actions_adddup2(&files, 0, 2);
	if (!posix_spawnp(&pid, words[0], &files, NULL, words, environ))
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
	posix_spawn_file_actions_destroy(&files);
}

void image_work_remove(struct image *image)
{
	char **all[] = { &image->tmp, &image->work, &image->top };
	size_t i;
	int r;

	if (image->tmp && tree_remove(image->tmp) < 0 && geteuid())
		tmp_clear(image->tmp);
	for (i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		r = *all[i] ? tree_remove(*all[i]) : 0;
		if (r < 0)
			fprintf(stderr, "postern image: %s cannot be removed: %s\n", *all[i],
				strerror(-r));
		free(*all[i]);
		*all[i] = NULL;
	}
}
