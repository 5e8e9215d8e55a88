// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * A disk in a qcow2 image, behind a qemu-nbd that the disk starts itself. Skipped
 * where that is not installed.
 */
#include <dirent.h>

#include "nbd_servers.h"

static pid_t child_of_ours(void)
{
	char path[300], comm[32];
	struct dirent *entry;
	pid_t found = 0;
	DIR *dir = opendir("/proc");
	int parent;
	FILE *stat;

	while ((entry = readdir(dir))) {
		snprintf(path, sizeof(path), "/proc/%.16s/stat", entry->d_name);
		stat = atoi(entry->d_name) ? fopen(path, "re") : NULL;
		if (stat && fscanf(stat, "%*d (%31[^)]) %*c %d", comm, &parent) == 2 &&
		    parent == getpid() && !strcmp(comm, "qemu-nbd"))
			found = atoi(entry->d_name);
		if (stat)
			fclose(stat);
	}
	closedir(dir);
	return found;
}

/* An empty image of that size, and the option that names it, in text. */
static void image_make(struct server *s, char text[120], const char *size)
{
	const char *const create[] = { "qemu-img", "create", "-q", "-f",
				       "qcow2",	   s->image, size, NULL };

	assert_int_equal(run_to_end(create), 0);
	snprintf(text, 120, "%s,format=qcow2", s->image);
}

static void a_qcow2_image_is_a_disk(void **state)
{
	char text[120];
	static uint8_t out[65536], in[65536];
	struct disks d, other = { 0 };
	struct err err;
	struct server s;
	pid_t child;
	int fd;

	(void)state;
	need("qemu-nbd");
	server_new(&s);
	image_make(&s, text, "8M");
	disks_open(&d, text, false);
	assert_int_equal(disk_bytes(d.disk), 8 << 20);
	disk_exercise(&d);
	memset(out, 0x5a, sizeof(out));
	assert_int_equal(job_run(&d, DISK_WRITE, 65536, out, sizeof(out), 1), 0);
	/*
	 * Its server dies: another one is started. What was not flushed may be
	 * gone; what was is not.
	 */
	assert_int_equal(job_run(&d, DISK_FLUSH, 0, NULL, 0, 0), 0);
	child = child_of_ours();
	assert_true(child > 0);
	kill(child, SIGKILL);
	disks_until(&d, d.gone == 1);
	assert_int_equal(job_run(&d, DISK_READ, 65536, in, sizeof(in), 1), 0);
	assert_memory_equal(in, out, sizeof(in));
	assert_int_equal(d.back, 1);
	/* A migration's destination has the size at once, and the image when it is its own. */
	other.loop = d.loop;
	assert_int_equal(disks_try(&other, text, true, &err), 0);
	assert_int_equal(disk_bytes(other.disk), 8 << 20);
	disk_release(d.disk);
	assert_int_equal(disk_claim(other.disk, &err), 0);
	memset(in, 0, sizeof(in));
	assert_int_equal(job_run(&other, DISK_READ, 65536, in, sizeof(in), 1), 0);
	assert_memory_equal(in, out, sizeof(in));
	disk_close(other.disk);
	disks_close(&d);
	assert_int_equal(child_of_ours(), 0);
	/* Read only; and what is none. */
	strcat(text, ",readonly");
	disks_open(&d, text, false);
	assert_int_equal(job_run(&d, DISK_READ, 65536, in, sizeof(in), 1), 0);
	disks_close(&d);
	assert_int_equal(truncate(s.image, 0) | truncate(s.image, 65536), 0);
	other = (struct disks){ 0 };
	assert_int_equal(loop_new(&other.loop, &err), 0);
	assert_int_equal(disks_try(&other, text, false, &err), -EINVAL);
	assert_non_null(strstr(err.text, "no qcow2 image"));
	/* A table that is nowhere: qemu-nbd says so. */
	image_make(&s, text, "8M");
	fd = open(s.image, O_RDWR | O_CLOEXEC);
	assert_int_equal(pwrite(fd, "\0\0\0\x63", 4, 44), 4);
	close(fd);
	assert_true(disks_try(&other, text, false, &err) < 0);
	assert_non_null(strstr(err.text, "qemu-nbd: "));
	assert_true(loop_free(other.loop));
	server_free(&s);
}

/*
 * What qemu-nbd has of the image's tables in its memory goes with it; what the
 * guest wrote does not.
 */
static void a_qcow2_image_keeps_what_was_not_flushed(void **state)
{
	char text[120];
	static uint8_t out[65536], in[65536];
	struct server s;
	struct disks d;
	unsigned int i, round;

	(void)state;
	need("qemu-nbd");
	server_new(&s);
	image_make(&s, text, "64M");
	disks_open(&d, text, false);
	for (round = 1; round <= 3; round++) {
		memset(out, (int)round, sizeof(out));
		for (i = 0; i < 32; i++)
			assert_int_equal(
				job_run(&d, DISK_WRITE, i * UINT64_C(1114112), out, sizeof(out), 1),
				0);
		kill(child_of_ours(), SIGKILL);
		disks_until(&d, d.gone == round);
		for (i = 0; i < 32; i++) {
			assert_int_equal(
				job_run(&d, DISK_READ, i * UINT64_C(1114112), in, sizeof(in), 1),
				0);
			assert_memory_equal(in, out, sizeof(in));
		}
	}
	disks_close(&d);
	server_free(&s);
}

/*
 * Another machine may have the image from then on: nothing of ours writes to
 * it, whatever qemu-nbd is at.
 */
static void a_release_waits_for_qemu_nbd(void **state)
{
	char text[120];
	struct server s;
	struct disks d;
	int hung;

	(void)state;
	need("qemu-nbd");
	server_new(&s);
	image_make(&s, text, "8M");
	for (hung = 0; hung < 2; hung++) {
		disks_open(&d, text, false);
		assert_true(child_of_ours() > 0);
		if (hung)
			kill(child_of_ours(), SIGSTOP);
		disk_release(d.disk);
		assert_int_equal(child_of_ours(), 0);
		disks_close(&d);
	}
	server_free(&s);
}

static void a_missing_program_is_named(void **state)
{
	struct disks d = { 0 };
	char text[120], *path;
	struct server s;
	struct err err;
	int fd;

	(void)state;
	server_new(&s);
	fd = open(s.image, O_RDWR | O_CLOEXEC);
	assert_int_equal(pwrite(fd, "QFI\xfb\0\0\0\3", 8, 0), 8);
	assert_int_equal(pwrite(fd, "\0\0\0\x10\0\0\0\0\0\x10\0\0", 12, 20), 12);
	assert_int_equal(pwrite(fd, "\0\0\0\x68", 4, 100), 4);
	close(fd);
	assert_int_equal(loop_new(&d.loop, &err), 0);
	path = strdup(getenv("PATH"));
	setenv("PATH", "/nonexistent", 1);
	snprintf(text, sizeof(text), "%s,format=qcow2", s.image);
	assert_int_equal(disks_try(&d, text, false, &err), -ENOENT);
	setenv("PATH", path, 1);
	free(path);
	assert_non_null(strstr(err.text, "apt install qemu-utils"));
	assert_true(loop_free(d.loop));
	server_free(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_qcow2_image_is_a_disk),
		cmocka_unit_test(a_qcow2_image_keeps_what_was_not_flushed),
		cmocka_unit_test(a_release_waits_for_qemu_nbd),
		cmocka_unit_test(a_missing_program_is_named),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
