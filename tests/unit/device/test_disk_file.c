// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * A disk in a file: what it does, who may have it, what is refused.
 */
#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include "disks.h"
#include "tape.h"

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

/* How many descriptors of this process have a lock on that file. */
static unsigned int locks_on(const char *path)
{
	char name[64], line[256];
	struct stat want, have;
	unsigned int n = 0;
	FILE *info;
	int fd;

	assert_int_equal(stat(path, &want), 0);
	for (fd = 3; fd < 64; fd++) {
		if (fstat(fd, &have) < 0 || have.st_ino != want.st_ino ||
		    have.st_dev != want.st_dev)
			continue;
		snprintf(name, sizeof(name), "/proc/self/fdinfo/%d", fd);
		info = fopen(name, "re");
		while (info && fgets(line, sizeof(line), info))
			n += !strncmp(line, "lock:", 5);
		if (info)
			fclose(info);
	}
	return n;
}

/*
 * Each description that requests go by: one that outlives the process has its
 * lock until it ends.
 */
static void all_that_writes_is_locked(void **state)
{
	struct disks d;
	char path[64];
	int fd = file_new(path, "/var/tmp"), direct = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);

	(void)state;
	disks_open(&d, path, false);
	assert_int_equal(locks_on(path), direct >= 0 ? 2 : 1);
	disk_release(d.disk);
	assert_int_equal(locks_on(path), 0);
	disks_close(&d);
	if (direct >= 0)
		close(direct);
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
	/* Nor is it suggested to be qcow2: a guest can have written that. */
	assert_non_null(strstr(err.text, "format=raw"));
	assert_null(strstr(err.text, "format=qcow2"));
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

/*
 * A range at any sector's edge is discarded and zeroed: the rest is as it was,
 * the zeroed one zeros.
 */
static void ranges_exercise(struct disks *d)
{
	static uint8_t out[32768], in[32768], zeros[32768];
	unsigned int from, n;
	int r;

	memset(out, 0x5a, sizeof(out));
	for (from = 1; from < 24; from += 3) {
		for (n = 1; n < 40; n += 5) {
			assert_int_equal(job_run(d, DISK_WRITE, 0, out, sizeof(out), 1), 0);
			r = job_run(d, DISK_DISCARD, from * 512, NULL, n * 512, 0);
			assert_int_equal(r, 0);
			assert_int_equal(job_run(d, DISK_READ, 0, in, sizeof(in), 1), 0);
			assert_memory_equal(in, out, from * 512);
			assert_memory_equal(in + (from + n) * 512, out,
					    sizeof(in) - (from + n) * 512);
			r = job_run(d, DISK_ZERO, from * 512, NULL, n * 512, 0);
			assert_int_equal(r, 0);
			assert_int_equal(job_run(d, DISK_READ, 0, in, sizeof(in), 1), 0);
			assert_memory_equal(in, out, from * 512);
			assert_memory_equal(in + from * 512, zeros, n * 512);
			assert_memory_equal(in + (from + n) * 512, out,
					    sizeof(in) - (from + n) * 512);
		}
	}
}

/*
 * Whatever fallocate makes of it: a discard is a hint, and zeros are written
 * where nothing else makes them.
 */
static void a_range_that_cannot_be_given_up_is_no_failure(void **state)
{
	static const int how[] = { 0, -EINVAL, -EOPNOTSUPP };
	struct media *media;
	struct disks d;
	char path[64];
	unsigned int i;
	int fd = file_new(path, "/tmp");

	(void)state;
	for (i = 0; i < 3; i++) {
		media = media_new(BYTES, 1);
		tape_start(media);
		tape.fallocate_error = how[i];
		disks_open(&d, path, false);
		ranges_exercise(&d);
		assert_true(tape.fallocates > 0);
		disks_close(&d);
		tape_start(NULL);
		media_free(media);
	}
	close(fd);
	unlink(path);
}

/* A loop device of such sectors, or -1: not to be had here. */
static int loop_new_of(int file, unsigned int sector, char *path, size_t room)
{
	struct loop_config config = { .fd = (uint32_t)file,
				      .block_size = sector,
				      .info.lo_flags = LO_FLAGS_AUTOCLEAR };
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), n, fd;

	n = control < 0 ? -1 : ioctl(control, LOOP_CTL_GET_FREE);
	if (control >= 0)
		close(control);
	if (n < 0)
		return -1;
	snprintf(path, room, "/dev/loop%d", n);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0 || !ioctl(fd, LOOP_CONFIGURE, &config))
		return fd;
	close(fd);
	return -1;
}

static void a_block_device_has_larger_sectors_than_the_guest(void **state)
{
	char path[64], loop[32];
	int fd = file_new(path, "/var/tmp"), device = loop_new_of(fd, 4096, loop, sizeof(loop));
	struct disks d;

	(void)state;
	unlink(path);
	if (device < 0) {
		close(fd);
		print_message(
			"skipped: no loop device of 4096-byte sectors: not root, or none free\n");
		skip();
	}
	disks_open(&d, loop, false);
	assert_int_equal(disk_bytes(d.disk), BYTES);
	assert_int_equal(disk_limits(d.disk)->physical, 4096);
	assert_true(disk_limits(d.disk)->discard >= 4096);
	disk_exercise(&d);
	ranges_exercise(&d);
	disks_close(&d);
	close(device);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_file_is_a_disk),
		cmocka_unit_test(one_machine_writes),
		cmocka_unit_test(all_that_writes_is_locked),
		cmocka_unit_test(what_looks_like_qcow2_is_not_taken_for_raw),
		cmocka_unit_test(what_is_no_disk_says_why),
		cmocka_unit_test(a_range_that_cannot_be_given_up_is_no_failure),
		cmocka_unit_test(a_block_device_has_larger_sectors_than_the_guest),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
