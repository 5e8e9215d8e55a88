// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * A disk in a file: what it does, who may have it, what is refused.
 */
#include <fcntl.h>
#include <sys/wait.h>

#include "disks.h"

#define BYTES (4 << 20)

static int file_new(char *path, const char *dir)
{
	int fd;

	snprintf(path, 64, "%s/postern-disk-XXXXXX", dir);
	fd = mkstemp(path);
	if (fd >= 0)
		assert_int_equal(ftruncate(fd, BYTES), 0);
	return fd;
}

static void a_file_is_a_disk(void **state)
{
	/* With direct I/O, and on a file system that may not have it. */
	static const char *const dirs[] = { "/var/tmp", "/dev/shm" };
	struct disks d;
	char path[64];
	unsigned int i;
	int fd;

	(void)state;
	for (i = 0; i < 2; i++) {
		fd = file_new(path, dirs[i]);
		if (fd < 0)
			continue;
		disks_open(&d, path, false);
		assert_int_equal(disk_bytes(d.disk), BYTES);
		disk_exercise(&d);
		assert_null(disk_away(d.disk));
		disks_close(&d);
		close(fd);
		unlink(path);
	}
}

static void one_machine_writes(void **state)
{
	struct disks d, other = { 0 }, reader;
	char path[64], shared[80];
	struct err err;
	int fd = file_new(path, "/tmp");

	(void)state;
	snprintf(shared, sizeof(shared), "%s,readonly", path);
	disks_open(&d, path, false);
	other.loop = d.loop;
	assert_int_equal(disks_try(&other, path, false, &err), -EBUSY);
	/* This very process has it. */
	snprintf(shared, sizeof(shared), "process %d ", (int)getpid());
	assert_non_null(strstr(err.text, shared));
	assert_non_null(strstr(err.text, path));
	snprintf(shared, sizeof(shared), "%s,readonly", path);
	assert_int_equal(disks_try(&other, shared, false, &err), -EBUSY);
	/* One that comes by migration waits until it is given up. */
	assert_int_equal(disks_try(&other, path, true, &err), 0);
	assert_int_equal(disk_claim(other.disk, &err), -EBUSY);
	disk_release(d.disk);
	assert_int_equal(disk_claim(other.disk, &err), 0);
	assert_int_equal(disk_claim(d.disk, &err), -EBUSY);
	disk_close(other.disk);
	assert_int_equal(disk_claim(d.disk, &err), 0);
	disks_close(&d);
	/* Readers share. */
	disks_open(&reader, shared, false);
	other.loop = reader.loop;
	assert_int_equal(disks_try(&other, shared, false, &err), 0);
	disk_close(other.disk);
	assert_int_equal(disks_try(&other, path, false, &err), -EBUSY);
	disks_close(&reader);
	close(fd);
	unlink(path);
}

static void what_looks_like_qcow2_is_not_taken_for_raw(void **state)
{
	struct disks d = { 0 };
	char path[64], raw[80];
	struct err err;
	int fd = file_new(path, "/tmp");

	(void)state;
	assert_int_equal(pwrite(fd, "QFI\xfb\0\0\0\3", 8, 0), 8);
	assert_int_equal(loop_new(&d.loop, &err), 0);
	assert_int_equal(disks_try(&d, path, false, &err), -EINVAL);
	assert_non_null(strstr(err.text, "format=qcow2"));
	snprintf(raw, sizeof(raw), "%s,format=raw", path);
	assert_int_equal(disks_try(&d, raw, false, &err), 0);
	disks_close(&d);
	close(fd);
	unlink(path);
}

static void what_is_no_disk_says_why(void **state)
{
	struct disks d = { 0 };
	struct err err;

	(void)state;
	assert_int_equal(loop_new(&d.loop, &err), 0);
	assert_int_equal(disks_try(&d, "/nonexistent/disk", false, &err), -ENOENT);
	assert_non_null(strstr(err.text, "disk /nonexistent/disk: "));
	assert_true(disks_try(&d, "/tmp", false, &err) < 0);
	assert_int_equal(disks_try(&d, "/dev/null", false, &err), -EINVAL);
	assert_non_null(strstr(err.text, "neither a file"));
	assert_true(loop_free(d.loop));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_file_is_a_disk),
		cmocka_unit_test(one_machine_writes),
		cmocka_unit_test(what_looks_like_qcow2_is_not_taken_for_raw),
		cmocka_unit_test(what_is_no_disk_says_why),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
