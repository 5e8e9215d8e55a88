// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// store/cache.c and its files: what is read twice is fetched once, whoever reads it, whatever dies,
// and what is wrong in the folder is fetched again.
#include "layers.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "store/cache.h"

#define LIMIT (UINT64_C(16) << 20)
/* Three blocks and a part. */
#define OBJECT_BYTES (3 * CACHE_BLOCK_BYTES + 1234)

struct bed {
	struct folder *f;
	struct timers *timers;
	struct inject_store *inject;
	struct cache_store *cache;
	struct store *store;
	char path[64];
};

static uint8_t byte_at(uint64_t i, uint64_t seed)
{
	return (uint8_t)((i + seed) * 2654435761u >> 13);
}

/* An object of n bytes, each of which is known. */
static void put_object(const struct folder *f, const char *name, size_t n, uint64_t seed)
{
	uint8_t *data = malloc(n);
	size_t i;

	for (i = 0; i < n; i++)
		data[i] = byte_at(i, seed);
	assert_int_equal(store_put(f->store, NULL, name, data, n, 0, NULL), n);
	free(data);
}

static void open_bed(struct bed *bed, struct folder *f, const struct store_inject_rule *rule)
{
	*bed = (struct bed){ .f = f };
	snprintf(bed->path, sizeof(bed->path), "%s/cache", f->dir.path);
	assert_int_equal(timers_new(&bed->timers, NULL), 0);
	bed->inject = faults_new(f, bed->timers, rule, !!rule);
	assert_int_equal(
		cache_store_new(&bed->cache, inject_store(bed->inject), bed->path, LIMIT, NULL), 0);
	bed->store = cache_store(bed->cache);
}

static void close_bed(struct bed *bed)
{
	store_free(bed->store);
	timers_put(bed->timers);
}

static int64_t read_version(struct store *store, const char *object, uint64_t version,
			    uint64_t offset, void *data, size_t len, unsigned int flags)
{
	struct store_request get = {
		.verb = STORE_GET,
		.flags = flags,
		.object = object,
		.version = version,
		.offset = offset,
		.data = data,
		.len = len,
	};

	return store_wait(store, NULL, &get);
}

/* Reads it and looks at each byte. */
static void expect_bytes(struct store *store, const char *object, uint64_t seed, uint64_t offset,
			 size_t len)
{
	uint8_t *data = malloc(len);
	size_t i;

	assert_int_equal(read_version(store, object, 7, offset, data, len, 0), len);
	for (i = 0; i < len; i++)
		if (data[i] != byte_at(offset + i, seed))
			fail_msg("byte %zu of %zu from %llu is wrong", i, len,
				 (unsigned long long)offset);
	free(data);
}

static struct cache_store_stats stats_of(const struct bed *bed)
{
	struct cache_store_stats stats;

	cache_store_stats(bed->cache, &stats);
	return stats;
}

/* Calls `each` with the path of every file in the cache. */
static void each_file(const struct bed *bed, void (*each)(const char *path, void *arg), void *arg)
{
	struct dirent *entry, *inner;
	char path[600];
	DIR *top = opendir(bed->path), *folder;

	while ((entry = readdir(top))) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s", bed->path, entry->d_name);
		folder = opendir(path);
		while ((inner = readdir(folder))) {
			snprintf(path, sizeof(path), "%s/%s/%s", bed->path, entry->d_name,
				 inner->d_name);
			if (inner->d_name[0] != '.')
				each(path, arg);
		}
		closedir(folder);
	}
	closedir(top);
}

static void add_bytes(const char *path, void *arg)
{
	struct stat st;

	/* It may have gone meanwhile. */
	if (!stat(path, &st))
		*(uint64_t *)arg += (uint64_t)st.st_blocks * 512;
}

static uint64_t bytes_in(const struct bed *bed)
{
	uint64_t bytes = 0;

	each_file(bed, add_bytes, &bytes);
	return bytes;
}

static void count_one(const char *path, void *arg)
{
	(void)path;
	++*(unsigned int *)arg;
}

static void test_what_is_read_again_is_not_fetched_again(void **state)
{
	struct bed bed;
	unsigned int files = 0;

	put_object(*state, "a/pack-1", OBJECT_BYTES, 1);
	open_bed(&bed, *state, NULL);
	expect_bytes(bed.store, "a/pack-1", 1, 1000, 4096);
	assert_int_equal(faults_requests(bed.inject), 1);
	expect_bytes(bed.store, "a/pack-1", 1, 0, CACHE_BLOCK_BYTES);
	assert_int_equal(faults_requests(bed.inject), 1);
	/* Into the next block, and all of it: what is missing comes by one request. */
	expect_bytes(bed.store, "a/pack-1", 1, CACHE_BLOCK_BYTES - 10, 20);
	assert_int_equal(faults_requests(bed.inject), 2);
	expect_bytes(bed.store, "a/pack-1", 1, 0, OBJECT_BYTES);
	assert_int_equal(faults_requests(bed.inject), 3);
	assert_int_equal(stats_of(&bed).misses, 4);
	each_file(&bed, count_one, &files);
	assert_int_equal(files, 4);
	close_bed(&bed);
	/* Another process, or this one the next day. */
	open_bed(&bed, *state, NULL);
	expect_bytes(bed.store, "a/pack-1", 1, 0, OBJECT_BYTES);
	assert_int_equal(faults_requests(bed.inject), 0);
	assert_int_equal(stats_of(&bed).hits, 4);
	close_bed(&bed);
}

static void test_ends_of_objects(void **state)
{
	struct bed bed;
	uint8_t data[100];
	unsigned int round;

	put_object(*state, "x", CACHE_BLOCK_BYTES + 10, 1);
	put_object(*state, "even", CACHE_BLOCK_BYTES, 1);
	open_bed(&bed, *state, NULL);
	/* Fetched, and then from the folder. */
	for (round = 0; round < 2; round++) {
		assert_int_equal(read_version(bed.store, "x", 7, CACHE_BLOCK_BYTES - 5, data, 100,
					      STORE_UP_TO),
				 15);
		assert_int_equal(read_version(bed.store, "x", 7, CACHE_BLOCK_BYTES + 5, data, 100,
					      STORE_UP_TO),
				 5);
		assert_int_equal(read_version(bed.store, "x", 7, CACHE_BLOCK_BYTES + 10, data, 100,
					      STORE_UP_TO),
				 0);
		assert_int_equal(read_version(bed.store, "x", 7, CACHE_BLOCK_BYTES + 50, data, 100,
					      STORE_UP_TO),
				 0);
		assert_int_equal(
			read_version(bed.store, "x", 7, CACHE_BLOCK_BYTES - 5, data, 100, 0),
			-EBADMSG);
		assert_int_equal(read_version(bed.store, "x", 7, CACHE_BLOCK_BYTES, data, 10, 0),
				 10);
		assert_int_equal(read_version(bed.store, "even", 7, CACHE_BLOCK_BYTES - 5, data,
					      100, STORE_UP_TO),
				 5);
		assert_int_equal(read_version(bed.store, "even", 7, CACHE_BLOCK_BYTES, data, 100,
					      STORE_UP_TO),
				 0);
		assert_int_equal(read_version(bed.store, "x", 7, 0, data, 0, 0), 0);
		assert_int_equal(read_version(bed.store, "none", 7, 0, data, 1, 0), -ENOENT);
	}
	close_bed(&bed);
}

static void test_only_what_has_a_version_is_kept(void **state)
{
	struct bed bed;
	uint8_t byte;

	put_object(*state, "x", 10, 1);
	open_bed(&bed, *state, NULL);
	assert_int_equal(read_version(bed.store, "x", 0, 0, &byte, 1, 0), 1);
	assert_int_equal(read_version(bed.store, "x", 0, 0, &byte, 1, 0), 1);
	assert_int_equal(faults_requests(bed.inject), 2);
	assert_int_equal(read_version(bed.store, "x", 1, 0, &byte, 1, 0), 1);
	put_object(*state, "x", 10, 99);
	/* The old one has its version, the new one another. */
	assert_int_equal(read_version(bed.store, "x", 1, 0, &byte, 1, 0), 1);
	assert_int_equal(byte, byte_at(0, 1));
	assert_int_equal(read_version(bed.store, "x", 2, 0, &byte, 1, 0), 1);
	assert_int_equal(byte, byte_at(0, 99));
	assert_int_equal(faults_requests(bed.inject), 4);
	/* The rest goes through. */
	assert_int_equal(store_put(bed.store, NULL, "y", "y", 1, 0, NULL), 1);
	expect_get(bed.store, "y", "y");
	assert_int_equal(store_delete(bed.store, NULL, "y", NULL), 0);
	assert_int_equal(read_version(bed.store, "y", 0, 0, &byte, 1, 0), -ENOENT);
	close_bed(&bed);
}

struct harm {
	int64_t at;			/* this byte is changed; -1: the file is cut there, in half */
};

static void do_harm(const char *path, void *arg)
{
	const struct harm *harm = arg;
	int fd = open(path, O_RDWR | O_CLOEXEC);
	struct stat st;
	uint8_t byte;

	assert_int_equal(fstat(fd, &st), 0);
	if (harm->at < 0) {
		assert_int_equal(ftruncate(fd, st.st_size / 2), 0);
	} else {
		assert_int_equal(pread(fd, &byte, 1, harm->at % st.st_size), 1);
		byte ^= 0x10;
		assert_int_equal(pwrite(fd, &byte, 1, harm->at % st.st_size), 1);
	}
	close(fd);
}

static void test_what_was_damaged_is_fetched_again(void **state)
{
	struct bed bed;
	struct harm harm;

	put_object(*state, "x", 5000, 1);
	open_bed(&bed, *state, NULL);
	expect_bytes(bed.store, "x", 1, 0, 5000);
	/* Each byte of head and key, some of the data, and a file that is too short. */
	for (harm.at = -1; harm.at < 5000; harm.at += harm.at < 200 ? 1 : 97) {
		each_file(&bed, do_harm, &harm);
		expect_bytes(bed.store, "x", 1, 0, 5000);
	}
	assert_int_equal(stats_of(&bed).damaged, stats_of(&bed).misses - 1);
	assert_true(stats_of(&bed).damaged > 200);
	close_bed(&bed);
}

static void test_it_never_has_more_than_it_may(void **state)
{
	struct bed bed;
	char name[16];
	unsigned int i;
	uint64_t bytes, most = 0;
	uint64_t missed;

	open_bed(&bed, *state, NULL);
	put_object(*state, "hot", CACHE_BLOCK_BYTES, 5);
	for (i = 0; i < 40; i++) {
		snprintf(name, sizeof(name), "pack-%u", i);
		put_object(*state, name, 1 << 20, i);
		expect_bytes(bed.store, name, i, 0, 1 << 20);
		assert_int_equal(store_delete(bed.f->store, NULL, name, NULL), 0);
		bytes = bytes_in(&bed);
		assert_true(bytes <= LIMIT);
		most = bytes > most ? bytes : most;
	}
	/* It is used, too. */
	assert_true(most > LIMIT * 3 / 4);
	assert_int_equal(stats_of(&bed).not_kept, 0);
	/* What was read last is there still. */
	missed = stats_of(&bed).misses;
	expect_bytes(bed.store, "pack-39", 39, 0, 1 << 20);
	assert_int_equal(stats_of(&bed).misses, missed);
	close_bed(&bed);
}

static void make_old(const char *path, void *arg)
{
	const struct timespec times[2] = { { .tv_sec = time(NULL) - 1000 },
					   { .tv_sec = time(NULL) - 1000 } };

	(void)arg;
	assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static void test_what_was_not_used_for_long_goes_first(void **state)
{
	struct bed bed;
	char name[16];
	unsigned int i;
	uint64_t missed;

	open_bed(&bed, *state, NULL);
	put_object(*state, "used", CACHE_BLOCK_BYTES, 5);
	put_object(*state, "unused", CACHE_BLOCK_BYTES, 5);
	expect_bytes(bed.store, "used", 5, 0, 10);
	expect_bytes(bed.store, "unused", 5, 0, 10);
	each_file(&bed, make_old, NULL);
	expect_bytes(bed.store, "used", 5, 0, 10);
	for (i = 0; i < 16; i++) {
		snprintf(name, sizeof(name), "pack-%u", i);
		put_object(*state, name, 1 << 20, i);
		expect_bytes(bed.store, name, i, 0, 1 << 20);
	}
	missed = stats_of(&bed).misses;
	expect_bytes(bed.store, "unused", 5, 0, 10);
	assert_int_equal(stats_of(&bed).misses, missed + 1);
	close_bed(&bed);
}

/*
 * A process that reads the object by the cache, slowly fetched; exits with how
 * often it asked below.
 */
static pid_t start_reader(struct folder *f, const char *object, unsigned int delay_ms)
{
	const struct store_inject_rule slow = { .fault = STORE_FAULT_DELAY,
						.nth = 1,
						.ms = delay_ms };
	pid_t pid = fork();
	struct bed bed;
	uint64_t requests;

	if (pid)
		return pid;
	open_bed(&bed, f, &slow);
	expect_bytes(bed.store, object, 1, 0, CACHE_BLOCK_BYTES);
	requests = faults_requests(bed.inject);
	close_bed(&bed);
	_exit((int)requests);
}

static void test_of_many_processes_one_fetches(void **state)
{
	pid_t pid[8];
	unsigned int i;
	int status, requests = 0;

	skip_if_no_children();
	put_object(*state, "x", CACHE_BLOCK_BYTES, 1);
	for (i = 0; i < 8; i++)
		pid[i] = start_reader(*state, "x", 200);
	for (i = 0; i < 8; i++) {
		assert_int_equal(waitpid(pid[i], &status, 0), pid[i]);
		assert_true(WIFEXITED(status));
		requests += WEXITSTATUS(status);
	}
	assert_int_equal(requests, 1);
}

static void *read_all(void *arg)
{
	struct bed *bed = arg;

	expect_bytes(bed->store, "x", 1, 0, OBJECT_BYTES);
	return NULL;
}

static void test_of_many_threads_one_fetches(void **state)
{
	const struct store_inject_rule slow = { .fault = STORE_FAULT_DELAY, .nth = 1, .ms = 50 };
	pthread_t thread[8];
	struct bed bed;
	unsigned int i;

	put_object(*state, "x", OBJECT_BYTES, 1);
	open_bed(&bed, *state, &slow);
	for (i = 0; i < 8; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, read_all, &bed), 0);
	for (i = 0; i < 8; i++)
		pthread_join(thread[i], NULL);
	/* Who comes between two blocks of another's may take the second. */
	assert_int_equal(stats_of(&bed).misses, 4);
	assert_true(stats_of(&bed).waited > 0);
	close_bed(&bed);
}

/* The one that fetches is killed: another goes on at once. */
static void test_a_killed_fetcher_holds_up_nobody(void **state)
{
	pid_t first, next;
	int status;
	struct bed bed;
	unsigned int files = 0;

	skip_if_no_children();
	put_object(*state, "x", CACHE_BLOCK_BYTES, 1);
	open_bed(&bed, *state, NULL);
	first = start_reader(*state, "x", 1000000);
	do {
		usleep(1000);
		each_file(&bed, count_one, &files);
	} while (!files);
	next = start_reader(*state, "x", 1);
	kill(first, SIGKILL);
	waitpid(first, NULL, 0);
	waitpid(next, &status, 0);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 1);
	expect_bytes(bed.store, "x", 1, 0, CACHE_BLOCK_BYTES);
	assert_int_equal(faults_requests(bed.inject), 0);
	close_bed(&bed);
}

/* Somebody who holds the lock and does nothing: we read past him, late. */
static void test_a_stopped_fetcher_holds_up_for_a_while(void **state)
{
	struct bed bed;
	uint8_t data[10];
	int64_t from_ns;
	pid_t first;
	unsigned int files = 0;

	skip_if_no_children();
	put_object(*state, "x", CACHE_BLOCK_BYTES, 1);
	open_bed(&bed, *state, NULL);
	first = start_reader(*state, "x", 1000000);
	do {
		usleep(1000);
		each_file(&bed, count_one, &files);
	} while (!files);
	kill(first, SIGSTOP);
	from_ns = clock_now_ns();
	assert_int_equal(read_version(bed.store, "x", 7, 0, data, 10, STORE_URGENT), 10);
	assert_true(clock_now_ns() - from_ns >= 100 * NS_PER_MS);
	assert_int_equal(data[9], byte_at(9, 1));
	assert_int_equal(stats_of(&bed).waited, 1);
	kill(first, SIGKILL);
	waitpid(first, NULL, 0);
	close_bed(&bed);
}

/* Processes that read all the time are killed at any moment: nothing that is read is ever wrong. */
static void test_kills_at_any_moment(void **state)
{
	char name[16];
	unsigned int i, round;
	struct bed bed;
	pid_t pid[3];

	skip_if_no_children();
	for (i = 0; i < 24; i++) {
		snprintf(name, sizeof(name), "pack-%u", i);
		put_object(*state, name, 1 << 20, i);
	}
	open_bed(&bed, *state, NULL);
	for (round = 0; round < 12; round++) {
		for (i = 0; i < 3; i++) {
			pid[i] = fork();
			if (!pid[i]) {
				struct bed mine;

				open_bed(&mine, *state, NULL);
				for (unsigned int k = round + i * 8;; k++) {
					snprintf(name, sizeof(name), "pack-%u", k % 24);
					expect_bytes(mine.store, name, k % 24, 0, 1 << 20);
				}
			}
		}
		usleep(5000 + round * 4000);
		for (i = 0; i < 3; i++) {
			kill(pid[i], SIGKILL);
			waitpid(pid[i], NULL, 0);
		}
		assert_true(bytes_in(&bed) <= LIMIT);
		snprintf(name, sizeof(name), "pack-%u", round);
		expect_bytes(bed.store, name, round, 0, 1 << 20);
	}
	for (i = 0; i < 24; i++) {
		snprintf(name, sizeof(name), "pack-%u", i);
		expect_bytes(bed.store, name, i, 0, 1 << 20);
	}
	assert_true(bytes_in(&bed) <= LIMIT);
	close_bed(&bed);
}

static void test_a_cancel_ends_a_fetch_and_a_wait_for_one(void **state)
{
	const struct store_inject_rule silence = { .fault = STORE_FAULT_SILENCE, .nth = 1 };
	struct flight flight[40];
	unsigned int i;
	struct bed bed;

	put_object(*state, "x", 100, 1);
	open_bed(&bed, *state, &silence);
	/* One fetches, some wait for it, and some for a thread. */
	for (i = 0; i < 40; i++) {
		flight_prepare(&flight[i], "x");
		flight[i].request.version = 7;
		store_begin(bed.store, &flight[i].request);
	}
	faults_wait(bed.inject, 1);
	for (i = 40; i--;) {
		store_cancel(bed.store, &flight[i].request);
		assert_int_equal(flight_wait(&flight[i]), -ECANCELED);
		assert_non_null(strstr(flight[i].request.err.text, "cancelled"));
	}
	/* And one that goes through. */
	flight_begin(&flight[0], bed.store, "x");
	store_cancel(bed.store, &flight[0].request);
	assert_int_equal(flight_wait(&flight[0]), -ECANCELED);
	inject_store_enable(bed.inject, false);
	expect_bytes(bed.store, "x", 1, 0, 100);
	close_bed(&bed);
}

static void test_what_fails_below_is_told_and_not_kept(void **state)
{
	const struct store_inject_rule once = { .fault = STORE_FAULT_FAIL,
						.nth = 1,
						.requests = 1,
						.code = -EIO };
	struct bed bed;
	uint8_t byte;

	put_object(*state, "x", 100, 1);
	open_bed(&bed, *state, &once);
	assert_int_equal(read_version(bed.store, "x", 7, 0, &byte, 1, 0), -EIO);
	expect_bytes(bed.store, "x", 1, 0, 100);
	close_bed(&bed);
}

static void test_a_folder_that_breaks_costs_the_cache_alone(void **state)
{
	struct bed bed;
	char path[100];

	put_object(*state, "x", 100, 1);
	open_bed(&bed, *state, NULL);
	assert_int_equal(rmdir(bed.path), 0);
	expect_bytes(bed.store, "x", 1, 0, 100);
	expect_bytes(bed.store, "x", 1, 0, 100);
	assert_int_equal(faults_requests(bed.inject), 2);
	assert_int_equal(stats_of(&bed).not_kept, 2);
	close_bed(&bed);
	/* A number that cannot be is counted anew. */
	open_bed(&bed, *state, NULL);
	snprintf(path, sizeof(path), "%s/.used", bed.path);
	for (unsigned int i = 0; i < 3; i++) {
		int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0600);

		assert_int_equal(write(fd, "\xff\xff\xff\xff\xff\xff\xff\xff", i * 4), i * 4);
		close(fd);
		snprintf(path + 90, 10, "y%u", i);
		put_object(*state, path + 90, 100, 1);
		expect_bytes(bed.store, path + 90, 1, 0, 100);
		expect_bytes(bed.store, path + 90, 1, 0, 100);
	}
	assert_int_equal(faults_requests(bed.inject), 3);
	close_bed(&bed);
}

static void test_folders_that_will_not_do(void **state)
{
	struct folder *f = *state;
	struct cache_store *cache;
	struct store *store;
	struct err err;
	char path[64];

	snprintf(path, sizeof(path), "%s/shared", f->dir.path);
	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(chmod(path, 0777), 0);
	assert_int_equal(store_open(&store, f->path, NULL, NULL), 0);
	expect_error(cache_store_new(&cache, store, path, LIMIT, &err), &err, -EPERM, "chmod 700");
	assert_int_equal(store_open(&store, f->path, NULL, NULL), 0);
	expect_error(cache_store_new(&cache, store, path, LIMIT - 1, &err), &err, -EINVAL,
		     "16 MiB");
	assert_int_equal(store_open(&store, f->path, NULL, NULL), 0);
	expect_error(cache_store_new(&cache, store, "/none/at/all", LIMIT, &err), &err, -ENOENT,
		     "/none/at/all");
}

static void test_a_url_with_a_cache(void **state)
{
	struct folder *f = *state;
	char path[64];
	const struct store_options options = { .cache = path };
	struct store *store;

	snprintf(path, sizeof(path), "%s/cache", f->dir.path);
	put_object(f, "x", 100, 1);
	assert_int_equal(store_open(&store, f->path, &options, NULL), 0);
	expect_bytes(store, "x", 1, 0, 100);
	assert_int_equal(store_delete(f->store, NULL, "x", NULL), 0);
	expect_bytes(store, "x", 1, 0, 100);
	store_free(store);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, folder_setup, folder_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_what_is_read_again_is_not_fetched_again),
		TEST(test_ends_of_objects),
		TEST(test_only_what_has_a_version_is_kept),
		TEST(test_what_was_damaged_is_fetched_again),
		TEST(test_it_never_has_more_than_it_may),
		TEST(test_what_was_not_used_for_long_goes_first),
		TEST(test_of_many_processes_one_fetches),
		TEST(test_of_many_threads_one_fetches),
		TEST(test_a_killed_fetcher_holds_up_nobody),
		TEST(test_a_stopped_fetcher_holds_up_for_a_while),
		TEST(test_kills_at_any_moment),
		TEST(test_a_cancel_ends_a_fetch_and_a_wait_for_one),
		TEST(test_what_fails_below_is_told_and_not_kept),
		TEST(test_a_folder_that_breaks_costs_the_cache_alone),
		TEST(test_folders_that_will_not_do),
		TEST(test_a_url_with_a_cache),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
