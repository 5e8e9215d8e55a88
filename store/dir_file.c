// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// The folder's verbs, by calls that may sleep. How an object comes to be:
//
//   a file without a name (O_TMPFILE), or with one that is no object's ("~" is in none)
//   its bytes, fsync
//   its name: link(2), which fails where there is one (STORE_NEW), or rename(2), which replaces
//   fsync of the folder, and of each that was made on the way
//
// At every moment before the third step there is nothing to be seen but, at worst, a "~" file.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/page.h"
#include "store/dir_internal.h"

#define TMP_BYTES 24
/* How often a folder may vanish, since its last object was deleted, while one is put there. */
#define PUT_TRIES 16
/* A "~" file that is as old was left by a process that died. */
#define TMP_STALE_SECONDS 3600

static int cancelled(struct dir_job *job)
{
	return err_set(&job->err, -ECANCELED, "cancelled");
}

static uint8_t *chunk_new(struct dir_job *job, size_t len)
{
	uint8_t *chunk = malloc(len < DIR_CHUNK_BYTES ? len + !len : DIR_CHUNK_BYTES);

	if (!chunk)
		err_set(&job->err, -ENOMEM, "no memory to copy");
	return chunk;
}

static size_t chunk_bytes(const struct dir_job *job)
{
	size_t left = job->len - job->got;

	return left < DIR_CHUNK_BYTES ? left : DIR_CHUNK_BYTES;
}

/* ---- GET ---- */

int dir_job_deliver(struct dir_job *job, const uint8_t *chunk, size_t n)
{
	struct store_request *request = dir_job_use(job);

	if (!request)
		return cancelled(job);
	memcpy((uint8_t *)request->data + job->got, chunk, n);
	dir_job_release(job);
	job->got += n;
	return 0;
}

int64_t dir_get_end(struct dir_job *job)
{
	if (job->got < job->len && !(job->flags & STORE_UP_TO))
		return err_set(&job->err, -EBADMSG,
			       "it is too short: it ends before byte %llu of "
			       "%llu: it was truncated, or is not what it should be",
			       (unsigned long long)(job->offset + job->got + 1),
			       (unsigned long long)(job->offset + job->len));
	return (int64_t)job->got;
}

static int64_t get_chunks(struct dir_job *job, int fd, uint8_t *chunk)
{
	ssize_t n = 1;
	int r;

	while (job->got < job->len && n) {
		n = pread(fd, chunk, chunk_bytes(job), (off_t)(job->offset + job->got));
		if (n < 0 && errno != EINTR)
			return dir_explain(&job->err, -errno);
		r = n > 0 ? dir_job_deliver(job, chunk, (size_t)n) : 0;
		if (r < 0)
			return r;
	}
	return dir_get_end(job);
}

int64_t dir_get(struct dir_job *job)
{
	int fd = dir_open_beneath(job->dir, job->object, O_RDONLY, 0);
	struct stat st;
	uint8_t *chunk;
	int64_t r;

	if (fd < 0)
		return dir_explain(&job->err, fd);
	r = fstat(fd, &st) < 0 ? dir_explain(&job->err, -errno) :
				 dir_check_mode(st.st_mode, &job->err);
	if (!r) {
		chunk = chunk_new(job, job->len);
		r = chunk ? get_chunks(job, fd, chunk) : -ENOMEM;
		free(chunk);
	}
	close(fd);
	return r;
}

/* ---- PUT ---- */

static void tmp_name(char name[TMP_BYTES])
{
	unsigned long long number = 0;

	if (getrandom(&number, sizeof(number), GRND_NONBLOCK) != (ssize_t)sizeof(number))
		number = (unsigned long long)time(NULL) << 20 ^ (unsigned long long)getpid();
	snprintf(name, TMP_BYTES, "~%016llx", number);
}

/* ext4 says EPERM of a folder that was removed. */
static int tmp_errno(int parent, int code)
{
	struct stat st;

	return code == EPERM && !fstat(parent, &st) && !st.st_nlink ? -ENOENT : -code;
}

/* A file to write to. *name is empty: it has none. */
static int tmp_open(int parent, char name[TMP_BYTES])
{
	int fd = openat(parent, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);

	name[0] = 0;
	if (fd >= 0)
		return fd;
	if (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT && errno != EINVAL)
		return tmp_errno(parent, errno);
	tmp_name(name);
	fd = openat(parent, name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, 0600);
	return fd < 0 ? -errno : fd;
}

static int put_chunk(int fd, const uint8_t *chunk, size_t n)
{
	ssize_t r;

	while (n) {
		r = write(fd, chunk, n);
		if (r < 0 && errno != EINTR)
			return -errno;
		if (r > 0) {
			chunk += r;
			n -= (size_t)r;
		}
	}
	return 0;
}

/*
 * The object's bytes, and that they last. By a mapping of its own: malloc would keep a chunk for
 * each thread that ever wrote, for as long as the process lives.
 */
static int put_bytes(struct dir_job *job, int fd)
{
	uint8_t *chunk = page_buffer_new(DIR_CHUNK_BYTES);
	struct store_request *request;
	size_t n;
	int r = chunk ? 0 : err_set(&job->err, -ENOMEM, "no memory to copy");

	for (job->got = 0; !r && job->got < job->len; job->got += n) {
		n = chunk_bytes(job);
		request = dir_job_use(job);
		if (!request) {
			r = cancelled(job);
			break;
		}
		memcpy(chunk, (const uint8_t *)request->data + job->got, n);
		dir_job_release(job);
		r = put_chunk(fd, chunk, n);
		if (r)
			r = dir_explain(&job->err, r);
	}
	page_buffer_free(chunk, DIR_CHUNK_BYTES);
	if (!r && fsync(fd) < 0)
		r = dir_explain(&job->err, -errno);
	return r;
}

/* Gives a file without a name this one. */
static int tmp_link(int fd, int parent, const char *name)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (!linkat(AT_FDCWD, path, parent, name, AT_SYMLINK_FOLLOW))
		return 0;
	/* Without /proc: for root. */
	if (errno == ENOENT && !linkat(fd, "", parent, name, AT_EMPTY_PATH))
		return 0;
	return -errno;
}

/* A name, where there is none. */
static int publish_new(int fd, int parent, const char *tmp, const char *last)
{
	if (!*tmp)
		return tmp_link(fd, parent, last);
	if (!linkat(parent, tmp, parent, last, 0)) {
		unlinkat(parent, tmp, 0);
		return 0;
	}
	/* File systems without hard links. */
	if ((errno == EPERM || errno == EOPNOTSUPP || errno == ENOSYS) &&
	    !renameat2(parent, tmp, parent, last, RENAME_NOREPLACE))
		return 0;
	return -errno;
}

static int publish_over(int fd, int parent, char tmp[TMP_BYTES], const char *last)
{
	int r;

	if (!*tmp) {
		/* Mostly there is none: no "~" file is left then, whenever this is killed. */
		r = tmp_link(fd, parent, last);
		if (r != -EEXIST)
			return r;
		tmp_name(tmp);
		r = tmp_link(fd, parent, tmp);
		if (r) {
			*tmp = 0;
			return r;
		}
	}
	return renameat(parent, tmp, parent, last) < 0 ? -errno : 0;
}

static int publish(struct dir_job *job, int fd, int parent, char tmp[TMP_BYTES], const char *last)
{
	int r = job->flags & STORE_NEW ? publish_new(fd, parent, tmp, last) :
					 publish_over(fd, parent, tmp, last);

	/* Also of one that is there already: whoever put it may have died before its own. */
	if ((!r || r == -EEXIST) && fsync(parent) < 0)
		return dir_explain(&job->err, -errno);
	if (r && *tmp)
		unlinkat(parent, tmp, 0);
	switch (r) {
	case 0:
	case -ENOENT:
		return r;
	case -EEXIST:
		return err_set(&job->err, r, "there is one of that name");
	case -EISDIR:
	case -ENOTEMPTY:
		return err_set(&job->err, -EISDIR, "there is a folder of that name");
	default:
		return dir_explain(&job->err, r);
	}
}

/* -ENOENT: the folder went away meanwhile. */
static int put_once(struct dir_job *job)
{
	char tmp[TMP_BYTES];
	const char *last;
	int parent = dir_open_parent(job->dir, job->object, true, &last, &job->err), fd, r;

	if (parent < 0)
		return parent;
	fd = tmp_open(parent, tmp);
	r = fd;
	if (fd >= 0) {
		r = put_bytes(job, fd);
		if (!r && dir_job_is_cancelled(job))
			r = cancelled(job);
		if (r && *tmp)
			unlinkat(parent, tmp, 0);
		if (!r)
			r = publish(job, fd, parent, tmp, last);
		close(fd);
	} else if (r != -ENOENT) {
		r = dir_explain(&job->err, r);
	}
	close(parent);
	return r;
}

int64_t dir_put(struct dir_job *job)
{
	unsigned int tries;
	int r = -ENOENT;

	for (tries = 0; tries < PUT_TRIES && r == -ENOENT; tries++)
		r = put_once(job);
	if (r == -ENOENT)
		return err_set(&job->err, -EAGAIN,
			       "its folder is deleted again and again, or the "
			       "store's folder is gone");
	return r ? r : (int64_t)job->len;
}

/* ---- DELETE ---- */

/* Removes what processes that died left in a folder. */
static void sweep(int folder)
{
	time_t now = time(NULL);
	struct dirent *entry;
	struct stat st;
	DIR *stream;
	int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	stream = fd < 0 ? NULL : fdopendir(fd);
	if (!stream) {
		if (fd >= 0)
			close(fd);
		return;
	}
	while ((entry = readdir(stream)))
		if (entry->d_name[0] == '~' &&
		    !fstatat(fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) && S_ISREG(st.st_mode) &&
		    now - st.st_mtime > TMP_STALE_SECONDS)
			unlinkat(fd, entry->d_name, 0);
	closedir(stream);
}

static int remove_folder(const struct dir *dir, const char *path)
{
	const char *last;
	int parent = dir_open_parent(dir, path, false, &last, NULL), folder, r;

	if (parent < 0)
		return parent;
	r = unlinkat(parent, last, AT_REMOVEDIR);
	if (r && errno == ENOTEMPTY) {
		folder = openat(parent, last, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (folder >= 0) {
			sweep(folder);
			close(folder);
			r = unlinkat(parent, last, AT_REMOVEDIR);
		}
	}
	close(parent);
	return r;
}

/* The folders above, as far as they are empty. */
static void remove_folders(const struct dir *dir, const char *object)
{
	char path[STORE_NAME_MAX + 1], *slash;

	snprintf(path, sizeof(path), "%s", object);
	while ((slash = strrchr(path, '/'))) {
		*slash = 0;
		if (remove_folder(dir, path))
			return;
	}
}

int64_t dir_delete(struct dir_job *job)
{
	const char *last;
	int parent = dir_open_parent(job->dir, job->object, false, &last, &job->err), r = 0;

	if (parent == -ENOENT)
		return 0;
	if (parent < 0)
		return parent;
	/* A folder is no object. */
	if (unlinkat(parent, last, 0) < 0 && errno != ENOENT && errno != EISDIR)
		r = dir_explain(&job->err, -errno);
	if (!r && fsync(parent) < 0)
		r = dir_explain(&job->err, -errno);
	close(parent);
	if (!r)
		remove_folders(job->dir, job->object);
	return r;
}

/* ---- LIST ---- */

struct list {
	struct dir_job *job;
	const char *prefix;		/* of names in the first folder */
	char path[STORE_NAME_MAX + 2];	/* of the folder, and its '/' */
};

static int list_tell(struct list *list, uint64_t bytes)
{
	struct store_request *request = dir_job_use(list->job);

	if (!request)
		return cancelled(list->job);
	request->name(request, list->path, bytes);
	dir_job_release(list->job);
	return 0;
}

/* The file that a link leads to, if that is inside of the store and a plain one. */
static bool link_follow(const struct dir *dir, const char *path, struct stat *st)
{
	int fd = dir_open_beneath(dir, path, O_PATH, 0);
	struct stat file;
	bool good = fd >= 0 && !fstat(fd, &file) && S_ISREG(file.st_mode);

	if (good)
		*st = file;
	if (fd >= 0)
		close(fd);
	return good;
}

static int list_folder(struct list *list, int fd, size_t used);

/* One entry; list->path has its name behind the folder's. */
static int list_one(struct list *list, int folder, const char *name, size_t used)
{
	struct stat st;
	int fd;

	if (fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : dir_explain(&list->job->err, -errno);
	if (S_ISREG(st.st_mode) ||
	    (S_ISLNK(st.st_mode) && link_follow(list->job->dir, list->path, &st)))
		return list_tell(list, (uint64_t)st.st_size);
	/* The shortest name in a folder has a byte more than the '/'. */
	if (!S_ISDIR(st.st_mode) || used + 2 > STORE_NAME_MAX)
		return 0;
	list->path[used] = '/';
	list->path[used + 1] = 0;
	if (list->job->flags & STORE_SHALLOW)
		return list_tell(list, 0);
	fd = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : dir_explain(&list->job->err, -errno);
	return list_folder(list, fd, used + 1);
}

static bool list_wants(const char *name, const char *prefix, size_t used)
{
	return !strncmp(name, prefix, strlen(prefix)) && strlen(name) + used <= STORE_NAME_MAX &&
	       store_name_is_valid(name, NULL);
}

/* Takes the descriptor. `used` bytes of list->path are the folder's. */
static int list_folder(struct list *list, int fd, size_t used)
{
	const char *prefix = list->prefix;
	struct dirent *entry;
	DIR *stream = fdopendir(fd);
	size_t n;
	int r = 0;

	if (!stream) {
		close(fd);
		return dir_explain(&list->job->err, -ENOMEM);
	}
	list->prefix = "";
	while (!r && (errno = 0, entry = readdir(stream))) {
		if (!list_wants(entry->d_name, prefix, used))
			continue;
		n = strlen(entry->d_name);
		memcpy(list->path + used, entry->d_name, n + 1);
		r = list_one(list, fd, entry->d_name, used + n);
	}
	if (!r && errno)
		r = dir_explain(&list->job->err, -errno);
	closedir(stream);
	return r;
}

int64_t dir_list(struct dir_job *job)
{
	struct list list = { .job = job };
	const char *slash = strrchr(job->object, '/');
	size_t used = slash ? (size_t)(slash - job->object) + 1 : 0;
	int fd;

	memcpy(list.path, job->object, used);
	if (used)
		list.path[used - 1] = 0;
	fd = dir_open_beneath(job->dir, list.path, O_RDONLY | O_DIRECTORY, 0);
	if (used)
		list.path[used - 1] = '/';
	list.prefix = job->object + used;
	if (fd == -ENOENT || fd == -ENOTDIR)
		return 0;
	return fd < 0 ? dir_explain(&job->err, fd) : list_folder(&list, fd, used);
}
