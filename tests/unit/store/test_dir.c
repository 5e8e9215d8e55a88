// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// store/dir.c and its files: what is in a folder, and what hostile things may be there.
#include "folder.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* More than is read at once, and not whole chunks. */
#define LARGE_BYTES ((size_t)3 * 1024 * 1024 + 4567)

static uint8_t *pattern(size_t n)
{
	uint8_t *data = malloc(n);
	size_t i;

	assert_non_null(data);
	for (i = 0; i < n; i++)
		data[i] = (uint8_t)(i * 7 + i / 253);
	return data;
}

static void test_what_was_put_is_got(void **state)
{
	static const size_t sizes[] = { 0, 1, 4096, 65536, 1 << 20, (1 << 20) + 1, LARGE_BYTES };
	struct folder *f = *state;
	uint8_t *data = pattern(LARGE_BYTES), *back = malloc(LARGE_BYTES);
	struct err err;
	size_t i, n;

	for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		n = sizes[i];
		assert_int_equal(store_put(f->store, NULL, "a/b.c/object", data, n, 0, &err), n);
		memset(back, 0xee, LARGE_BYTES);
		assert_int_equal(store_get(f->store, NULL, "a/b.c/object", 0, back, n, 0, &err), n);
		assert_memory_equal(back, data, n);
	}
	assert_int_equal(
		store_get(f->store, NULL, "a/b.c/object", 12345, back, 65536, STORE_URGENT, &err),
		65536);
	assert_memory_equal(back, data + 12345, 65536);
	free(data);
	free(back);
}

static void test_up_to_reads_what_there_is(void **state)
{
	struct folder *f = *state;
	struct err err;
	char data[64];

	folder_write(f, "ten", "0123456789");
	assert_int_equal(store_get(f->store, NULL, "ten", 4, data, 64, STORE_UP_TO, &err), 6);
	assert_memory_equal(data, "456789", 6);
	assert_int_equal(store_get(f->store, NULL, "ten", 10, data, 64, STORE_UP_TO, &err), 0);
	assert_int_equal(store_get(f->store, NULL, "ten", 11, data, 64, STORE_UP_TO, &err), 0);
	assert_int_equal(store_get(f->store, NULL, "ten", 2, data, 3, STORE_UP_TO, &err), 3);
	assert_int_equal(store_get(f->store, NULL, "ten", 10, data, 0, 0, &err), 0);
}

static void test_a_truncated_object_is_an_error(void **state)
{
	struct folder *f = *state;
	uint8_t *data = pattern(LARGE_BYTES);
	struct err err;

	folder_write(f, "ten", "0123456789");
	expect_error(store_get(f->store, NULL, "ten", 0, data, 11, 0, &err), &err, -EBADMSG,
		     "too short");
	expect_error(store_get(f->store, NULL, "ten", 1 << 20, data, 1, 0, &err), &err, -EBADMSG,
		     "too short");
	assert_int_equal(store_put(f->store, NULL, "large", data, LARGE_BYTES, 0, &err),
			 LARGE_BYTES);
	assert_int_equal(truncate(folder_at(f, "large"), LARGE_BYTES - 1), 0);
	expect_error(store_get(f->store, NULL, "large", 0, data, LARGE_BYTES, 0, &err), &err,
		     -EBADMSG, "get \"large\": it is too short");
	free(data);
}

static void test_what_is_not_there(void **state)
{
	struct folder *f = *state;
	struct err err;
	char byte;

	folder_write(f, "file", "x");
	assert_int_equal(mkdir(folder_at(f, "folder"), 0700), 0);
	expect_error(store_get(f->store, NULL, "none", 0, &byte, 1, 0, &err), &err, -ENOENT,
		     f->path);
	expect_error(store_get(f->store, NULL, "no/ne", 0, &byte, 1, 0, &err), &err, -ENOENT,
		     "no such object");
	expect_error(store_get(f->store, NULL, "file/x", 0, &byte, 1, 0, &err), &err, -ENOENT,
		     "no such object");
	expect_error(store_get(f->store, NULL, "folder", 0, &byte, 1, 0, &err), &err, -ENOENT,
		     "a folder");
	assert_int_equal(store_delete(f->store, NULL, "none", &err), 0);
	assert_int_equal(store_delete(f->store, NULL, "no/ne", &err), 0);
	assert_int_equal(store_delete(f->store, NULL, "folder", &err), 0);
	assert_true(folder_has(f, "folder"));
	expect_error(store_put(f->store, NULL, "folder", "x", 1, 0, &err), &err, -EISDIR,
		     "a folder");
	expect_error(store_put(f->store, NULL, "file/x", "x", 1, 0, &err), &err, -ENOTDIR,
		     "an object");
	expect_error(store_put(f->store, NULL, "folder", "x", 1, STORE_NEW, &err), &err, -EEXIST,
		     "there is");
}

static void test_new_is_exclusive(void **state)
{
	struct folder *f = *state;
	struct err err;

	assert_int_equal(store_put(f->store, NULL, "a/claim", "me", 2, STORE_NEW, &err), 2);
	expect_error(store_put(f->store, NULL, "a/claim", "you", 3, STORE_NEW, &err), &err, -EEXIST,
		     "a/claim");
	expect_get(f->store, "a/claim", "me");
	assert_int_equal(store_put(f->store, NULL, "a/claim", "you", 3, 0, &err), 3);
	expect_get(f->store, "a/claim", "you");
}

static void *claim(void *arg)
{
	struct folder *f = arg;
	struct store *store;
	int64_t r;

	assert_int_equal(store_open(&store, f->path, NULL, NULL), 0);
	r = store_put(store, NULL, "x/claim", "me", 2, STORE_NEW, NULL);
	store_free(store);
	return (void *)(intptr_t)r;
}

static void test_of_many_that_put_at_once_one_wins(void **state)
{
	struct folder *f = *state;
	pthread_t thread[8];
	unsigned int i, won = 0, refused = 0;
	void *r;

	for (i = 0; i < 8; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, claim, f), 0);
	for (i = 0; i < 8; i++) {
		pthread_join(thread[i], &r);
		won += (intptr_t)r == 2;
		refused += (intptr_t)r == -EEXIST;
	}
	assert_int_equal(won, 1);
	assert_int_equal(refused, 7);
}

static void test_nobody_else_may_read_what_was_put(void **state)
{
	struct folder *f = *state;
	struct stat st;

	assert_int_equal(store_put(f->store, NULL, "a/b", "x", 1, 0, NULL), 1);
	assert_int_equal(stat(folder_at(f, "a/b"), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(stat(folder_at(f, "a"), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
}

/* Whoever is killed at it leaves no file of another name, which nobody would miss. */
static void test_a_new_object_has_its_own_name_at_once(void **state)
{
	struct folder *f = *state;
	int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK), nameless;
	union {
		struct inotify_event event;
		char bytes[4096];
	} seen;
	struct err err;

	assert_int_equal(store_put(f->store, NULL, "folder/other", "abc", 3, 0, &err), 3);
	nameless = open(folder_at(f, "folder"), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
	if (nameless < 0)
		skip();
	close(nameless);
	assert_true(inotify_add_watch(fd, folder_at(f, "folder"), IN_CREATE | IN_MOVED_TO) >= 0);
	assert_int_equal(store_put(f->store, NULL, "folder/pack", "abc", 3, 0, &err), 3);
	assert_true(read(fd, &seen, sizeof(seen)) > 0);
	assert_string_equal(seen.event.name, "pack");
	close(fd);
}

static void test_links_lead_nowhere_else(void **state)
{
	struct folder *f = *state;
	char outside[64];
	struct err err;
	char data[8];

	snprintf(outside, sizeof(outside), "%s/outside", f->dir.path);
	assert_int_equal(mkdir(outside, 0700), 0);
	assert_int_equal(symlink("/etc/passwd", folder_at(f, "absolute")), 0);
	assert_int_equal(symlink("../outside", folder_at(f, "out")), 0);
	assert_int_equal(symlink("loop", folder_at(f, "loop")), 0);
	assert_int_equal(symlink("real", folder_at(f, "inside")), 0);
	folder_write(f, "real", "real");
	folder_write(f, "../outside/secret", "secret");
	expect_error(store_get(f->store, NULL, "absolute", 0, data, 1, 0, &err), &err, -EPERM,
		     "symbolic link");
	expect_error(store_get(f->store, NULL, "out/secret", 0, data, 1, 0, &err), &err, -EPERM,
		     "symbolic link");
	expect_error(store_get(f->store, NULL, "loop", 0, data, 1, 0, &err), &err, -EPERM,
		     "symbolic link");
	expect_error(store_put(f->store, NULL, "out/x", "x", 1, 0, &err), &err, -EPERM,
		     "symbolic link");
	expect_error(store_put(f->store, NULL, "out/y/x", "x", 1, 0, &err), &err, -EPERM,
		     "symbolic link");
	expect_error(store_delete(f->store, NULL, "out/secret", &err), &err, -EPERM,
		     "symbolic link");
	assert_true(folder_has(f, "../outside/secret"));
	assert_false(folder_has(f, "../outside/x"));
	expect_get(f->store, "inside", "real");
	/* What is put in a link's place replaces the link. */
	assert_int_equal(store_put(f->store, NULL, "absolute", "mine", 4, 0, &err), 4);
	expect_get(f->store, "absolute", "mine");
}

static void test_what_is_not_a_plain_file_is_refused_at_once(void **state)
{
	struct folder *f = *state;
	struct err err;
	char byte;

	assert_int_equal(mkfifo(folder_at(f, "fifo"), 0600), 0);
	expect_error(store_get(f->store, NULL, "fifo", 0, &byte, 1, 0, &err), &err, -EPERM,
		     "not a plain file");
	expect_error(store_get(f->store, NULL, "fifo", 0, &byte, 1, STORE_UP_TO, &err), &err,
		     -EPERM, "not a plain file");
	if (mknod(folder_at(f, "zero"), S_IFCHR | 0600, 1 << 8 | 5) == 0)
		expect_error(store_get(f->store, NULL, "zero", 0, &byte, 1, 0, &err), &err, -EPERM,
			     "not a plain file");
	assert_int_equal(store_put(f->store, NULL, "fifo", "x", 1, 0, &err), 1);
	expect_get(f->store, "fifo", "x");
}

static void test_delete_removes_folders_that_are_empty(void **state)
{
	struct folder *f = *state;
	struct timespec old[2] = { { .tv_sec = 1000 }, { .tv_sec = 1000 } };

	assert_int_equal(store_put(f->store, NULL, "a/b/c", "x", 1, 0, NULL), 1);
	assert_int_equal(store_put(f->store, NULL, "a/d", "x", 1, 0, NULL), 1);
	/* What somebody writes now, and what one who died has left. */
	folder_write(f, "a/~new", "x");
	folder_write(f, "a/b/~old", "x");
	assert_int_equal(utimensat(AT_FDCWD, folder_at(f, "a/b/~old"), old, 0), 0);
	assert_int_equal(store_delete(f->store, NULL, "a/b/c", NULL), 0);
	assert_false(folder_has(f, "a/b"));
	assert_int_equal(store_delete(f->store, NULL, "a/d", NULL), 0);
	assert_true(folder_has(f, "a/~new"));
	assert_int_equal(unlink(folder_at(f, "a/~new")), 0);
	assert_int_equal(store_put(f->store, NULL, "a/d", "x", 1, 0, NULL), 1);
	assert_int_equal(store_delete(f->store, NULL, "a/d", NULL), 0);
	assert_false(folder_has(f, "a"));
	assert_true(folder_has(f, "."));
}

struct seen {
	char text[1024];
};

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void see(void *arg, const char *object, uint64_t bytes)
{
	struct seen *seen = arg;
	size_t used = strlen(seen->text);

	snprintf(seen->text + used, sizeof(seen->text) - used, "%s=%llu ", object,
		 (unsigned long long)bytes);
}

/* What a list tells, in order. */
static void expect_list(struct store *store, const char *prefix, unsigned int flags,
			const char *text)
{
	struct seen seen = { "" };
	char *word[64], sorted[1024] = "", *save = NULL, *at;
	size_t n = 0, i;
	struct err err;

	assert_int_equal(store_list(store, NULL, prefix, flags, see, &seen, &err), 0);
	for (at = strtok_r(seen.text, " ", &save); at && n < 64; at = strtok_r(NULL, " ", &save))
		word[n++] = at;
	qsort(word, n, sizeof(word[0]), by_name);
	for (i = 0; i < n; i++)
		snprintf(sorted + strlen(sorted), sizeof(sorted) - strlen(sorted), "%s%s",
			 i ? " " : "", word[i]);
	assert_string_equal(sorted, text);
}

static void test_list(void **state)
{
	struct folder *f = *state;

	assert_int_equal(store_put(f->store, NULL, "one/pack-1", "12345", 5, 0, NULL), 5);
	assert_int_equal(store_put(f->store, NULL, "one/pack-2", "1", 1, 0, NULL), 1);
	assert_int_equal(store_put(f->store, NULL, "one/deep/er", "", 0, 0, NULL), 0);
	assert_int_equal(store_put(f->store, NULL, "oneself", "12", 2, 0, NULL), 2);
	expect_list(f->store, "", 0, "one/deep/er=0 one/pack-1=5 one/pack-2=1 oneself=2");
	expect_list(f->store, "", STORE_SHALLOW, "one/=0 oneself=2");
	expect_list(f->store, "one", 0, "one/deep/er=0 one/pack-1=5 one/pack-2=1 oneself=2");
	expect_list(f->store, "one/", 0, "one/deep/er=0 one/pack-1=5 one/pack-2=1");
	expect_list(f->store, "one/", STORE_SHALLOW, "one/deep/=0 one/pack-1=5 one/pack-2=1");
	expect_list(f->store, "one/pack-", 0, "one/pack-1=5 one/pack-2=1");
	expect_list(f->store, "one/pack-1", 0, "one/pack-1=5");
	expect_list(f->store, "one/pack-1/", 0, "");
	expect_list(f->store, "none/", 0, "");
	expect_list(f->store, "two", 0, "");
}

static void test_list_tells_objects_alone(void **state)
{
	struct folder *f = *state;
	char deep[300], *at = deep;
	unsigned int i;

	folder_write(f, "good", "x");
	folder_write(f, "a b", "x");
	folder_write(f, "~tmp", "x");
	folder_write(f, "\033[2J", "x");
	assert_int_equal(mkfifo(folder_at(f, "fifo"), 0600), 0);
	assert_int_equal(symlink("good", folder_at(f, "link")), 0);
	assert_int_equal(symlink("/etc/passwd", folder_at(f, "out")), 0);
	assert_int_equal(symlink(".", folder_at(f, "around")), 0);
	/* Folders in folders, past the longest name. */
	for (i = 0; i < 130; i++) {
		at += sprintf(at, "%sd", i ? "/" : "");
		assert_int_equal(mkdir(folder_at(f, deep), 0700), 0);
	}
	folder_write(f, "d/d/d/bottom", "x");
	expect_list(f->store, "", 0, "d/d/d/bottom=1 good=1 link=1");
}

/* Ends the test from any thread, with the error's words. */
static void expect_good(int64_t result, const struct err *err)
{
	if (result >= 0)
		return;
	fprintf(stderr, "%s\n", err->text);
	abort();
}

static void *put_and_delete(void *arg)
{
	struct folder *f = arg;
	struct store *store;
	struct err err;
	unsigned int i;

	expect_good(store_open(&store, f->path, NULL, &err), &err);
	for (i = 0; i < 50; i++) {
		expect_good(store_put(store, NULL, "some/folder/x", "x", 1, 0, &err), &err);
		expect_good(store_delete(store, NULL, "some/folder/x", &err), &err);
	}
	store_free(store);
	return NULL;
}

static void test_folders_that_come_and_go_are_no_error(void **state)
{
	struct folder *f = *state;
	pthread_t thread[3];
	unsigned int i;

	for (i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, put_and_delete, f), 0);
	for (i = 0; i < 3; i++)
		pthread_join(thread[i], NULL);
}

#define ROUNDS 15

/*
 * A process that puts objects over and over is killed at a random moment: what
 * is there is whole.
 */
static void test_a_kill_leaves_whole_objects_or_none(void **state)
{
	struct folder *f = *state;
	uint8_t *data = pattern(LARGE_BYTES), *back = malloc(LARGE_BYTES);
	struct store *store;
	unsigned int round;
	int64_t r, i, whole = 0;
	pid_t pid;

	skip_if_no_children();
	for (round = 0; round < ROUNDS; round++) {
		pid = fork();
		if (!pid) {
			if (store_open(&store, f->path, NULL, NULL))
				_exit(1);
			for (i = 0;; i++) {
				store_put(store, NULL, "a/new", data, LARGE_BYTES, STORE_NEW, NULL);
				store_put(store, NULL, "a/over", data, LARGE_BYTES, 0, NULL);
				store_delete(store, NULL, "a/new", NULL);
			}
		}
		usleep((useconds_t)(round * 3000 + 500));
		/* At the latest at the end it has put one, on a slow machine as well. */
		while (round == ROUNDS - 1 &&
		       store_get(f->store, NULL, "a/over", 0, back, 1, 0, NULL) < 0)
			usleep(1000);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		for (i = 0; i < 2; i++) {
			r = store_get(f->store, NULL, i ? "a/new" : "a/over", 0, back, LARGE_BYTES,
				      0, NULL);
			assert_true(r == LARGE_BYTES || r == -ENOENT);
			if (r > 0) {
				assert_memory_equal(back, data, LARGE_BYTES);
				whole++;
			}
		}
	}
	assert_true(whole > 0);
	free(data);
	free(back);
}

static void test_a_folder_has_to_be_there(void **state)
{
	struct store *store;
	struct folder *f = *state;
	struct err err;

	expect_error(store_open(&store, folder_at(f, "none"), NULL, &err), &err, -ENOENT, "none");
	folder_write(f, "file", "x");
	expect_error(store_open(&store, folder_at(f, "file"), NULL, &err), &err, -ENOTDIR, "file");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, folder_setup, folder_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_what_was_put_is_got),
		TEST(test_up_to_reads_what_there_is),
		TEST(test_a_truncated_object_is_an_error),
		TEST(test_what_is_not_there),
		TEST(test_new_is_exclusive),
		TEST(test_of_many_that_put_at_once_one_wins),
		TEST(test_nobody_else_may_read_what_was_put),
		TEST(test_a_new_object_has_its_own_name_at_once),
		TEST(test_links_lead_nowhere_else),
		TEST(test_what_is_not_a_plain_file_is_refused_at_once),
		TEST(test_delete_removes_folders_that_are_empty),
		TEST(test_list),
		TEST(test_list_tells_objects_alone),
		TEST(test_folders_that_come_and_go_are_no_error),
		TEST(test_a_kill_leaves_whole_objects_or_none),
		TEST(test_a_folder_has_to_be_there),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
