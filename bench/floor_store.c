// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * floor_store.c - `floors store FOLDER [ROUNDS]`: what 64 KiB of an object cost
 * that are in the page cache, in us, one line a figure ("name median
 * least..greatest of the rounds"). FOLDER is on the file system that is meant,
 * and left empty.
 *
 * 	pread		pread of a file that is open: what the bytes cost
 * 	open_pread	open, pread, close: what a name costs besides
 * 	dir		store_begin of a folder's store
 * 	layers		of what store_open makes of a folder: with its deadlines and repetition
 * 	cache		of a cache over it, from which the bytes come
 *
 * All of them in each round, a few hundred reads of random places of 64 MiB
 * each: the round's value is their mean.
 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "floors.h"
#include "store/cache.h"
#include "store/dir.h"

#define OBJECT "image/pack-0"
#define OBJECT_BYTES (UINT64_C(64) << 20)
#define READ_BYTES 65536
#define READS 300
#define ROUNDS_MAX 1000

enum store_case { PREAD, OPEN_PREAD, DIR_STORE, LAYERS, CACHE, CASES };

static const char *const case_names[CASES] = { "pread", "open_pread", "dir", "layers", "cache" };

struct rod {
	char folder[200], cache[220];
	int dir, fd;
	struct store *store[CASES];
	uint8_t *data;
};

static void read_store(struct store *store, uint64_t offset, uint8_t *data)
{
	struct store_request get = {
		.verb = STORE_GET,
		.object = OBJECT,
		.version = 1,
		.offset = offset,
		.data = data,
		.len = READ_BYTES,
	};

	if (store_wait(store, NULL, &get) != READ_BYTES)
		floor_die_err(&get.err);
}

static void read_one(struct rod *rod, enum store_case what, uint64_t offset)
{
	int fd = rod->fd;

	if (what >= DIR_STORE) {
		read_store(rod->store[what], offset, rod->data);
		return;
	}
	if (what == OPEN_PREAD)
		fd = openat(rod->dir, OBJECT, O_RDONLY | O_CLOEXEC);
	if (pread(fd, rod->data, READ_BYTES, (off_t)offset) != READ_BYTES)
		floor_die("reading");
	if (what == OPEN_PREAD)
		close(fd);
}

/* A block's place, and another each time. */
static uint64_t place(unsigned int i)
{
	return (uint64_t)(i * 2654435761u) % (OBJECT_BYTES / READ_BYTES) * READ_BYTES;
}

static double round_us(struct rod *rod, enum store_case what, unsigned int round)
{
	int64_t from_ns;
	unsigned int i;

	/* What was just read is as warm for all. */
	for (i = 0; i < READS; i++)
		read_one(rod, what, place(round * READS + i));
	from_ns = clock_now_ns();
	for (i = 0; i < READS; i++)
		read_one(rod, what, place(round * READS + i));
	return (double)(clock_now_ns() - from_ns) / READS / (double)NS_PER_US;
}

static void open_stores(struct rod *rod)
{
	struct cache_store *cache;
	struct store *store;
	struct err err;
	uint8_t *data = floor_map(OBJECT_BYTES, false);

	memset(data, 0x5a, OBJECT_BYTES);
	if (dir_store_new(&rod->store[DIR_STORE], rod->folder, &err) ||
	    store_put(rod->store[DIR_STORE], NULL, OBJECT, data, OBJECT_BYTES, 0, &err) < 0 ||
	    store_open(&rod->store[LAYERS], rod->folder, NULL, &err) ||
	    dir_store_new(&store, rod->folder, &err) ||
	    cache_store_new(&cache, store, rod->cache, UINT64_C(1) << 30, &err))
		floor_die_err(&err);
	rod->store[CACHE] = cache_store(cache);
	rod->dir = open(rod->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	rod->fd = openat(rod->dir, OBJECT, O_RDONLY | O_CLOEXEC);
	if (rod->fd < 0)
		floor_die(rod->folder);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void measure(struct rod *rod, unsigned int rounds)
{
	static double us[CASES][ROUNDS_MAX];
	unsigned int round, what;

	for (round = 0; round < rounds; round++)
		for (what = 0; what < CASES; what++)
			us[what][round] = round_us(rod, what, round);
	for (what = 0; what < CASES; what++) {
		qsort(us[what], rounds, sizeof(double), by_value);
		printf("%s %.2f %.2f..%.2f\n", case_names[what], us[what][rounds / 2], us[what][0],
		       us[what][rounds - 1]);
	}
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st;
	(void)flag;
	(void)ftw;
	return remove(path);
}

int floor_store(int argc, char **argv)
{
	unsigned int rounds = argc > 2 ? (unsigned int)atoi(argv[2]) : 30, what;
	struct rod rod;

	if (argc < 2 || !rounds || rounds > ROUNDS_MAX) {
		fprintf(stderr, "floors store FOLDER [ROUNDS]\n");
		return 2;
	}
	snprintf(rod.folder, sizeof(rod.folder), "%s/floors-XXXXXX", argv[1]);
	if (!mkdtemp(rod.folder))
		floor_die(argv[1]);
	snprintf(rod.cache, sizeof(rod.cache), "%s/cache", rod.folder);
	rod.data = floor_map(READ_BYTES, false);
	open_stores(&rod);
	measure(&rod, rounds);
	for (what = DIR_STORE; what < CASES; what++)
		store_free(rod.store[what]);
	close(rod.fd);
	close(rod.dir);
	return nftw(rod.folder, remove_one, 8, FTW_DEPTH | FTW_PHYS) ? 1 : 0;
}
