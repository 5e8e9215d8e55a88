// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// store/dir.c where the file system hangs, or is full: every verb can be
// cancelled, and the rest goes on. It mounts file systems of its own; where it
// may not, it is skipped.
#include "layers.h"

#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "hang.h"
#include "store/dir.h"

#define SKIPPED 77

/* The mount, and a store in it. */
struct bed {
	struct own_dir dir;
	struct hang *hang;
	struct store *store;
};

static struct bed the;

static int setup(void **state)
{
	(void)state;
	assert_int_equal(dir_store_new(&the.store, the.dir.path, NULL), 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	hang_release(the.hang);
	store_free(the.store);
	return 0;
}

static void ignore_name(struct store_request *request, const char *object, uint64_t bytes)
{
	(void)request;
	(void)object;
	(void)bytes;
}

/* Begins a request of that verb, which hangs in that operation, and cancels it. */
static void cancel_hanging(enum store_verb verb, const char *object, uint32_t opcode)
{
	unsigned int held = hang_held(the.hang);
	struct flight flight;

	hang_on(the.hang, opcode);
	flight_prepare(&flight, object);
	flight.request.verb = verb;
	flight.request.name = ignore_name;
	store_begin(the.store, &flight.request);
	hang_wait(the.hang, held + 1);
	assert_false(flight_is_over(&flight));
	store_cancel(the.store, &flight.request);
	assert_int_equal(flight_wait(&flight), -ECANCELED);
	assert_non_null(strstr(flight.request.err.text, "cancelled"));
	/* What comes late reaches nobody: the memory is the caller's again. */
	memset(flight.data, 0x5a, sizeof(flight.data));
	hang_release(the.hang);
	store_free(the.store);
	assert_int_equal(flight.data[0] & flight.data[255], 0x5a);
	assert_int_equal(dir_store_new(&the.store, the.dir.path, NULL), 0);
}

static void test_a_read_that_hangs_is_cancelled(void **state)
{
	(void)state;
	cancel_hanging(STORE_GET, "slow", FUSE_READ);
}

static void test_an_open_that_hangs_is_cancelled(void **state)
{
	(void)state;
	cancel_hanging(STORE_GET, "slow", FUSE_OPEN);
	cancel_hanging(STORE_GET, "other", FUSE_LOOKUP);
}

static void test_a_write_that_hangs_is_cancelled(void **state)
{
	(void)state;
	cancel_hanging(STORE_PUT, "new", FUSE_CREATE);
	cancel_hanging(STORE_PUT, "new", FUSE_WRITE);
	cancel_hanging(STORE_PUT, "new", FUSE_FSYNC);
}

static void test_a_delete_that_hangs_is_cancelled(void **state)
{
	(void)state;
	cancel_hanging(STORE_DELETE, "slow", FUSE_UNLINK);
}

static void test_a_list_that_hangs_is_cancelled(void **state)
{
	(void)state;
	cancel_hanging(STORE_LIST, "", FUSE_READDIR);
}

/* The store is freed while the kernel has a read of it still. */
static void test_a_store_that_hangs_is_freed(void **state)
{
	struct flight flight;

	(void)state;
	hang_on(the.hang, FUSE_READ);
	flight_begin(&flight, the.store, "slow");
	hang_wait(the.hang, 1);
	store_cancel(the.store, &flight.request);
	assert_int_equal(flight_wait(&flight), -ECANCELED);
	store_free(the.store);
	hang_release(the.hang);
	assert_int_equal(dir_store_new(&the.store, the.dir.path, NULL), 0);
}

/* Reads of many that hang, and are given up, are bounded; and when it answers again all is well. */
static void test_what_hangs_is_bounded(void **state)
{
	struct flight flight[80];
	unsigned int i, refused = 0;
	int64_t r;

	(void)state;
	hang_on(the.hang, FUSE_READ);
	for (i = 0; i < 80; i++) {
		flight_prepare(&flight[i], "slow");
		flight[i].request.offset = i * 4096 % HANG_BYTES;
		flight[i].request.flags |= STORE_URGENT;
		store_begin(the.store, &flight[i].request);
	}
	hang_wait(the.hang, 1);
	for (i = 0; i < 80; i++)
		store_cancel(the.store, &flight[i].request);
	for (i = 0; i < 80; i++) {
		r = flight_wait(&flight[i]);
		assert_true(r == -ECANCELED || r == -EAGAIN);
		refused += r == -EAGAIN;
	}
	assert_true(refused < 80);
	hang_release(the.hang);
	do {
		flight_begin(&flight[0], the.store, "slow");
		r = flight_wait(&flight[0]);
	} while (r == -EIO || r == -EAGAIN);
	assert_int_equal(r, sizeof(flight[0].data));
}

static void test_a_full_disk_is_told_and_leaves_nothing(void **state)
{
	struct own_dir dir = own_dir_new();
	struct store *store;
	struct err err;
	char *data = calloc(1, 1 << 20);

	(void)state;
	if (mount("full", dir.path, "tmpfs", 0, "size=256k") < 0) {
		own_dir_free(&dir);
		free(data);
		skip();
	}
	assert_int_equal(dir_store_new(&store, dir.path, NULL), 0);
	expect_error(store_put(store, NULL, "a/x", data, 1 << 20, 0, &err), &err, -ENOSPC,
		     "make room");
	expect_error(store_get(store, NULL, "a/x", 0, data, 1, 0, &err), &err, -ENOENT, "no such");
	assert_int_equal(store_put(store, NULL, "a/x", data, 200 << 10, 0, &err), 200 << 10);
	assert_int_equal(store_delete(store, NULL, "a/x", &err), 0);
	assert_int_equal(store_put(store, NULL, "y", data, 200 << 10, 0, &err), 200 << 10);
	store_free(store);
	assert_int_equal(umount(dir.path), 0);
	own_dir_free(&dir);
	free(data);
}

/* Files are written by a name that is no object's, and renamed. */
static void test_a_file_system_without_nameless_files(void **state)
{
	struct err err;

	(void)state;
	assert_int_equal(store_put(the.store, NULL, "new", "x", 1, 0, &err), 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_a_read_that_hangs_is_cancelled),
		TEST(test_an_open_that_hangs_is_cancelled),
		TEST(test_a_write_that_hangs_is_cancelled),
		TEST(test_a_delete_that_hangs_is_cancelled),
		TEST(test_a_list_that_hangs_is_cancelled),
		TEST(test_a_store_that_hangs_is_freed),
		TEST(test_what_hangs_is_bounded),
		TEST(test_a_file_system_without_nameless_files),
		cmocka_unit_test(test_a_full_disk_is_told_and_leaves_nothing),
	};
	const char *why;
	int r;

	the.dir = own_dir_new();
	the.hang = hang_start(the.dir.path, &why);
	if (!the.hang) {
		printf("skipped: %s\n", why);
		own_dir_free(&the.dir);
		return SKIPPED;
	}
	r = cmocka_run_group_tests(tests, NULL, NULL);
	hang_stop(the.hang);
	own_dir_free(&the.dir);
	return r;
}
