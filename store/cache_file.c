// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// See cache_file.h. A block's file, numbers little-endian:
//
//   0   8  "PSTCACHE"
//   8   4  1, the format's version
//   12  4  length of the key
//   16  4  length of the data
//   20  4  0
//   24  64 xxh3-64 of each 16 KiB of the data; 0 where there is none
//   88  16 xxh3-128 of the 88 bytes before and the key; low half first
//   104    key: label, 0, object, 0, version (8), block (8)
//          data
//
// So head and key are always looked at, and of the data what is read alone.
#include "store/cache_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "store/cache.h"

#define MAGIC "PSTCACHE"
#define FORMAT 1
#define PARTS_AT 24
#define PART_BYTES ((size_t)16 << 10)
#define PARTS (CACHE_BLOCK_BYTES / PART_BYTES)
#define SUM_AT 88
/* A block that is used has its time renewed, but not each time. */
#define TOUCH_SECONDS 60
/* How often a lock may turn out to be of a file that was renamed or removed meanwhile. */
#define LOCK_TRIES 100

void cache_key_make(struct cache_key *key, const char *label, const char *object, uint64_t version,
		    uint64_t block)
{
	size_t label_bytes = strlen(label) + 1, object_bytes = strlen(object) + 1;
	uint8_t *at = key->bytes;
	XXH128_hash_t hash;

	memcpy(at, label, label_bytes);
	memcpy(at + label_bytes, object, object_bytes);
	at += label_bytes + object_bytes;
	put64(at, version);
	put64(at + 8, block);
	key->len = (size_t)(at + 16 - key->bytes);
	hash = XXH3_128bits(key->bytes, key->len);
	snprintf(key->name, sizeof(key->name), "%02x/%016llx%016llx",
		 (unsigned int)(hash.high64 >> 56), (unsigned long long)hash.high64,
		 (unsigned long long)hash.low64);
	snprintf(key->tmp, sizeof(key->tmp), "%.3s~%s", key->name, key->name + 3);
}

int cache_dir_open(const char *path, struct err *err)
{
	struct stat st;
	int fd;

	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return err_errno(err, -errno, "making the cache's folder \"%s\"", path);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_errno(err, -errno, "the cache's folder \"%s\"", path);
	if (!fstat(fd, &st) && st.st_uid == geteuid() && !(st.st_mode & (S_IWGRP | S_IWOTH)))
		return fd;
	close(fd);
	return err_set(
		err, -EPERM,
		"the cache's folder \"%s\" is another user's, or others may write to "
		"it: what they put there would get into guests. Use one of your own, chmod 700",
		path);
}

static size_t part_len(size_t i, size_t n)
{
	size_t from = i * PART_BYTES;

	return n <= from ? 0 : n - from < PART_BYTES ? n - from : PART_BYTES;
}

/* The sum of a head with its key behind it, where it belongs. */
static void head_sum(uint8_t to[16], const uint8_t *head, const struct cache_key *key)
{
	uint8_t bytes[SUM_AT + CACHE_KEY_MAX];
	XXH128_hash_t hash;

	memcpy(bytes, head, SUM_AT);
	memcpy(bytes + SUM_AT, key->bytes, key->len);
	hash = XXH3_128bits(bytes, SUM_AT + key->len);
	put64(to, hash.low64);
	put64(to + 8, hash.high64);
}

static void head_make(uint8_t head[CACHE_HEAD_BYTES], const struct cache_key *key, const void *data,
		      size_t n)
{
	size_t i, len;

	memcpy(head, MAGIC, 8);
	put32(head + 8, FORMAT);
	put32(head + 12, (uint32_t)key->len);
	put32(head + 16, (uint32_t)n);
	put32(head + 20, 0);
	for (i = 0; i < PARTS; i++) {
		len = part_len(i, n);
		put64(head + PARTS_AT + i * 8,
		      len ? XXH3_64bits((const uint8_t *)data + i * PART_BYTES, len) : 0);
	}
	head_sum(head + SUM_AT, head, key);
}

/* The length of the data, or -EBADMSG. */
static int64_t head_check(const uint8_t *head, const struct cache_key *key)
{
	uint8_t sum[16];
	uint32_t n = get32(head + 16);

	head_sum(sum, head, key);
	if (memcmp(head, MAGIC, 8) || get32(head + 8) != FORMAT || get32(head + 12) != key->len ||
	    n > CACHE_BLOCK_BYTES || memcmp(head + SUM_AT, sum, sizeof(sum)) ||
	    memcmp(head + CACHE_HEAD_BYTES, key->bytes, key->len))
		return -EBADMSG;
	return n;
}

/* len bytes, or a negative errno; -EBADMSG: there are fewer. */
static int file_load(int fd, void *to, size_t len, size_t from, bool nowait)
{
	struct iovec iov;
	size_t got = 0;
	ssize_t n;

	while (got < len) {
		iov = (struct iovec){ (uint8_t *)to + got, len - got };
		n = preadv2(fd, &iov, 1, (off_t)(from + got), nowait ? RWF_NOWAIT : 0);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (!n)
			return -EBADMSG;
		got += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

/* Reads the parts that have [from, to) of n bytes of data, and looks at each. */
static int parts_load(int fd, uint8_t *file, size_t data_at, size_t n, size_t from, size_t to,
		      bool nowait)
{
	size_t i = from / PART_BYTES, start = i * PART_BYTES, end;
	int r;

	to = to < n ? to : n;
	if (from >= to)
		return 0;
	end = (to - 1) / PART_BYTES * PART_BYTES;
	end += part_len(end / PART_BYTES, n);
	r = file_load(fd, file + data_at + start, end - start, data_at + start, nowait);
	for (; !r && i * PART_BYTES < end; i++)
		if (XXH3_64bits(file + data_at + i * PART_BYTES, part_len(i, n)) !=
		    get64(file + PARTS_AT + i * 8))
			r = -EBADMSG;
	return r;
}

static int64_t block_load(int fd, const struct cache_key *key, uint8_t *file, size_t from,
			  size_t to, bool nowait)
{
	size_t data_at = CACHE_HEAD_BYTES + key->len;
	int64_t r = file_load(fd, file, data_at, 0, nowait), n;

	if (r < 0)
		return r;
	n = head_check(file, key);
	if (n < 0)
		return n;
	r = parts_load(fd, file, data_at, (size_t)n, from, to, nowait);
	return r < 0 ? r : n;
}

static void touch(int fd)
{
	struct stat st;

	if (!fstat(fd, &st) && time(NULL) - st.st_mtime > TOUCH_SECONDS)
		futimens(fd, NULL);
}

int64_t cache_file_read(int dir, const struct cache_key *key, size_t from, size_t to, uint8_t *file,
			bool nowait)
{
	struct open_how how = {
		.flags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK,
		.resolve = nowait ? RESOLVE_CACHED : 0,
	};
	int fd = (int)syscall(SYS_openat2, dir, key->name, &how, sizeof(how));
	int64_t r;

	if (fd < 0)
		return nowait ? -EAGAIN : -ENOENT;
	r = block_load(fd, key, file, from, to, nowait);
	if (r >= 0)
		touch(fd);
	close(fd);
	if (r >= 0 || nowait)
		return r >= 0 ? r : -EAGAIN;
	/* Wrong, or not to be read: another takes its place. */
	unlinkat(dir, key->name, 0);
	return -EBADMSG;
}

static bool is_still(int dir, const char *name, int fd)
{
	struct stat named, opened;

	return !fstatat(dir, name, &named, AT_SYMLINK_NOFOLLOW) && !fstat(fd, &opened) &&
	       named.st_ino == opened.st_ino && named.st_dev == opened.st_dev;
}

int cache_file_lock(int dir, const struct cache_key *key)
{
	char folder[3] = { key->name[0], key->name[1], 0 };
	unsigned int tries;
	int fd, r;

	for (tries = 0; tries < LOCK_TRIES; tries++) {
		fd = openat(dir, key->tmp, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK,
			    0600);
		if (fd < 0 && errno == ENOENT && (!mkdirat(dir, folder, 0700) || errno == EEXIST))
			continue;
		if (fd < 0)
			return -errno;
		if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
			r = errno == EWOULDBLOCK ? -EBUSY : -errno;
			close(fd);
			return r;
		}
		if (is_still(dir, key->tmp, fd))
			return fd;
		/* It was renamed or removed between the two calls. */
		close(fd);
	}
	return -EBUSY;
}

static int block_write(int fd, const struct iovec *iov, int n, size_t bytes)
{
	ssize_t r = pwritev(fd, iov, n, 0);

	/* A regular file takes less where there is no room for more. */
	return r == (ssize_t)bytes ? 0 : r < 0 ? -errno : -ENOSPC;
}

int cache_file_write(int dir, uint64_t limit, const struct cache_key *key, int lock,
		     const void *data, size_t n)
{
	uint8_t head[CACHE_HEAD_BYTES];
	const struct iovec iov[] = {
		{ head, sizeof(head) },
		{ (void *)key->bytes, key->len },
		{ (void *)data, n },
	};
	size_t bytes = sizeof(head) + key->len + n;
	int r;

	head_make(head, key, data, n);
	/* Its length first: whoever counts meanwhile counts it. */
	if (ftruncate(lock, (off_t)bytes) < 0)
		return -errno;
	r = cache_reserve(dir, limit, cache_disk_bytes(bytes));
	if (!r)
		r = block_write(lock, iov, 3, bytes);
	if (!r && renameat(dir, key->tmp, dir, key->name) < 0)
		r = -errno;
	return r;
}

void cache_file_unlock(int dir, const struct cache_key *key, int lock)
{
	/*
	 * With the lock held, so that it is nobody else's by then; renamed it
	 * is not that any more.
	 */
	if (is_still(dir, key->tmp, lock))
		unlinkat(dir, key->tmp, 0);
	close(lock);
}
