// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// How many bytes a cache's folder has, and which blocks go when they are too many.
//
// The number in .used is never less than what is there: it is raised before a block is written, and
// a process that is killed leaves it too high. Whoever would exceed the limit by it counts what
// there really is, removes what was not used for the longest time, until an eighth is free, and
// writes the true number. Only ages are remembered while counting, in steps that become coarser:
// so it takes the same memory however many blocks there are.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "store/cache_file.h"

#define USED ".used"
#define FOLDERS 256
#define DISK_UNIT 4096
/* Eight to a doubling of the age, in seconds. */
#define AGES (8 * 40)
/* How long another process may count: then a block is not kept. */
#define LOCK_TRIES 50

struct count {
	int64_t now;
	uint64_t used;
	uint64_t by_age[AGES];
	/* The second pass: */
	bool removes;
	unsigned int age;		/* older ones go */
	uint64_t of_age;		/* and so many bytes of this age */
};

uint64_t cache_disk_bytes(uint64_t bytes)
{
	return (bytes + DISK_UNIT - 1) / DISK_UNIT * DISK_UNIT;
}

static unsigned int age_of(int64_t seconds)
{
	uint64_t x = seconds > 0 ? (uint64_t)seconds + 8 : 8;
	unsigned int top = 63 - (unsigned int)__builtin_clzll(x);
	unsigned int age = (top - 3) * 8 + (unsigned int)(x >> (top - 3) & 7);

	return age < AGES ? age : AGES - 1;
}

/* A file that was being written: is whoever did it gone? */
static bool is_stale(int folder, const char *name)
{
	int fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	bool stale = fd >= 0 && !flock(fd, LOCK_EX | LOCK_NB);

	/* With the lock held: whoever comes next makes another. */
	if (stale)
		unlinkat(folder, name, 0);
	if (fd >= 0)
		close(fd);
	return stale;
}

/* Is a block of that age to go? */
static bool count_wants(const struct count *count, unsigned int age)
{
	return age > count->age || (age == count->age && count->of_age);
}

static void count_file(struct count *count, int folder, const char *name)
{
	struct stat st;
	unsigned int age;
	uint64_t bytes;

	if (name[0] == '~' && is_stale(folder, name))
		return;
	if (fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
		return;
	bytes = cache_disk_bytes((uint64_t)st.st_size);
	age = age_of(count->now - st.st_mtime);
	if (!count->removes) {
		count->used += bytes;
		count->by_age[age] += bytes;
	} else if (count_wants(count, age) && name[0] != '~' && !unlinkat(folder, name, 0)) {
		count->used -= bytes < count->used ? bytes : count->used;
		if (age == count->age)
			count->of_age -= bytes < count->of_age ? bytes : count->of_age;
	}
}

static void count_folder(struct count *count, int dir, unsigned int number)
{
	struct dirent *entry;
	char name[3];
	DIR *stream;
	int fd;

	snprintf(name, sizeof(name), "%02x", number);
	fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return;
	stream = fdopendir(fd);
	if (!stream) {
		close(fd);
		return;
	}
	while ((entry = readdir(stream)))
		if (entry->d_name[0] != '.')
			count_file(count, fd, entry->d_name);
	closedir(stream);
}

static void count_all(struct count *count, int dir)
{
	unsigned int i;

	for (i = 0; i < FOLDERS; i++)
		count_folder(count, dir, i);
}

/* How many bytes there are, and no more than target. */
static uint64_t count_and_remove(int dir, uint64_t limit, uint64_t target)
{
	struct count count = { .now = time(NULL) };
	uint64_t younger = 0;

	count_all(&count, dir);
	if (count.used <= limit)
		return count.used;
	while (count.age < AGES - 1 && younger + count.by_age[count.age] <= target)
		younger += count.by_age[count.age++];
	if (younger + count.by_age[count.age] > target)
		count.of_age = younger + count.by_age[count.age] - target;
	count.removes = true;
	count_all(&count, dir);
	return count.used;
}

static int used_open(int dir)
{
	const struct timespec pause = clock_to_timespec(NS_PER_MS);
	int fd = openat(dir, USED, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
	unsigned int tries = 0;

	if (fd < 0)
		return -errno;
	while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (++tries == LOCK_TRIES) {
			close(fd);
			return -EBUSY;
		}
		nanosleep(&pause, NULL);
	}
	return fd;
}

/*
 * Was it written since the host started? Else the host may have stopped before
 * all of it was on disk.
 */
static bool is_of_now(int fd)
{
	struct timespec up;
	struct stat st;

	clock_gettime(CLOCK_BOOTTIME, &up);
	return !fstat(fd, &st) && st.st_mtime >= time(NULL) - up.tv_sec;
}

int cache_reserve(int dir, uint64_t limit, uint64_t bytes)
{
	uint8_t number[8];
	uint64_t used = UINT64_MAX;
	int fd = used_open(dir), r = 0;

	if (fd < 0)
		return fd;
	if (is_of_now(fd) && pread(fd, number, sizeof(number), 0) == sizeof(number))
		used = get64(number);
	/* Also where it is nonsense, or was never written. */
	if (used > limit || bytes > limit - used)
		used = count_and_remove(dir, limit - bytes, limit - limit / 8 - bytes);
	if (used > limit || bytes > limit - used) {
		r = -ENOSPC;
		bytes = 0;
	}
	put64(number, used + bytes);
	if (pwrite(fd, number, sizeof(number), 0) != sizeof(number))
		r = -EIO;
	close(fd);
	return r;
}
