// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// A kernel out of a file system that mke2fs has made, by the process that reads
// it: this executable, started anew.
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "cli/cli.h"
#include "cli/disk_boot.h"

#define KERNEL_BYTES 3000001
#define MEMORY_BYTES (16u << 20)

struct test {
	char dir[32], image[64];
	struct loop *loop;
	struct disk_boot boot;
	struct err err;
	bool done;
	unsigned int more;	/* fetches that are to follow at once */
	int fetched;
	bool end;		/* ... and the last of them is given up */
	size_t kernel_bytes, initrd_bytes;
	char cmdline[200], first[16];
};

static void shell(const char *format, ...)
{
	char command[600];
	va_list args;

	va_start(args, format);
	vsnprintf(command, sizeof(command), format, args);
	va_end(args);
	assert_int_equal(system(command), 0);
}

static int setup(void **state)
{
	struct test *t = calloc(1, sizeof(*t));

	strcpy(t->dir, "/tmp/postern-disk-XXXXXX");
	assert_non_null(mkdtemp(t->dir));
	snprintf(t->image, sizeof(t->image), "%s/image", t->dir);
	shell("mkdir -p %s/root/boot", t->dir);
	assert_int_equal(loop_new(&t->loop, NULL), 0);
	disk_boot_init(&t->boot);
	t->boot.loop = t->loop;
	t->boot.disk = t->image;
	t->boot.memory_bytes = MEMORY_BYTES;
	*state = t;
	return 0;
}

static int teardown(void **state)
{
	struct test *t = *state;

	disk_boot_fini(&t->boot);
	assert_true(loop_free(t->loop));
	shell("rm -rf %s", t->dir);
	free(t);
	return 0;
}

static void file(struct test *t, const char *name, size_t bytes, char content)
{
	shell("head -c %zu /dev/zero | tr '\\0' '%c' > %s/root/%s", bytes, content, t->dir, name);
}

static void make(struct test *t, const char *options)
{
	shell("PATH=$PATH:/usr/sbin:/sbin; mke2fs -q -F -t ext4 %s -d %s/root %s 16M > /dev/null 2>&1",
	      options, t->dir, t->image);
}

static size_t size_of(const struct boot_file *file)
{
	struct stat st;

	return file->path && !fstat(file->fd, &st) ? (size_t)st.st_size : 0;
}

static void on_done(void *arg, const struct boot_files *found, const struct err *err)
{
	struct test *t = arg;

	t->done = true;
	t->err = err ? *err : (struct err){ 0 };
	if (found) {
		t->kernel_bytes = size_of(&found->kernel);
		t->initrd_bytes = size_of(&found->initrd);
		snprintf(t->cmdline, sizeof(t->cmdline), "%s", found->cmdline);
		assert_int_equal(pread(found->kernel.fd, t->first, 4, 0), 4);
	}
	if (t->more) {
		t->more--;
		t->done = false;
		t->fetched = disk_boot_fetch(&t->boot, on_done, t, &t->err);
		if (!t->fetched && !t->end)
			return;
		if (t->end) {
			assert_int_equal(disk_boot_fetch(&t->boot, on_done, t, &t->err), -EBUSY);
			disk_boot_fini(&t->boot);
		}
	}
	loop_stop(t->loop);
}

static int fetch(struct test *t)
{
	int r;

	t->done = false;
	r = disk_boot_fetch(&t->boot, on_done, t, &t->err);
	if (r < 0)
		return r;
	loop_run(t->loop);
	assert_true(t->done);
	return t->err.code;
}

static void test_links_in_the_root_come_first(void **state)
{
	struct test *t = *state;

	file(t, "boot/vmlinuz-1.0", KERNEL_BYTES, 'a');
	file(t, "boot/initrd.img-1.0", 5000, 'i');
	file(t, "boot/vmlinuz-2.0", 9000, 'b');
	shell("cd %s/root; ln -s boot/vmlinuz-1.0 vmlinuz; ln -s /boot/initrd.img-1.0 initrd.img",
	      t->dir);
	make(t, "");
	t->boot.append = "quiet";
	assert_int_equal(fetch(t), 0);
	assert_int_equal(t->kernel_bytes, KERNEL_BYTES);
	assert_int_equal(t->initrd_bytes, 5000);
	assert_memory_equal(t->first, "aaaa", 4);
	assert_string_equal(t->cmdline, "console=ttyS0 root=/dev/vda rw quiet");
	disk_boot_drop(&t->boot);
}

static void test_else_the_newest_kernel_and_again_after_a_change(void **state)
{
	struct test *t = *state;
	char value[100];

	file(t, "boot/vmlinuz-6.1.0-9", 1000, '9');
	file(t, "boot/vmlinuz-6.1.0-10", 1010, 't');
	file(t, "boot/initramfs-6.1.0-10.img", 77, 'i');
	shell("ln -s nowhere %s/root/vmlinuz; mkdir %s/root/boot/vmlinuz-7", t->dir, t->dir);
	make(t, "");
	snprintf(value, sizeof(value), "%s,readonly,serial=x", t->image);
	t->boot.disk = value;
	assert_int_equal(fetch(t), 0);
	assert_int_equal(t->kernel_bytes, 1010);
	assert_int_equal(t->initrd_bytes, 77);
	assert_string_equal(t->cmdline, "console=ttyS0 root=/dev/vda ro");
	file(t, "boot/vmlinuz-6.1.0-11", 1011, 'e');
	make(t, "");
	t->boot.cmdline = "only this";
	assert_int_equal(fetch(t), 0);
	assert_int_equal(t->kernel_bytes, 1011);
	assert_int_equal(t->initrd_bytes, 0);
	assert_string_equal(t->cmdline, "only this");
}

/* A comma of a name is written twice, and what is no name is no URI. */
static void test_names_as_disk_takes_them(void **state)
{
	struct test *t = *state;
	char value[200];

	snprintf(t->image, sizeof(t->image), "%s/a,b.raw", t->dir);
	file(t, "boot/vmlinuz-1.0", 1000, 'a');
	make(t, "");
	snprintf(value, sizeof(value), "%s/a,,b.raw,readonly,serial=nbd://x/y", t->dir);
	t->boot.disk = value;
	if (fetch(t) < 0)
		fail_msg("%s", t->err.text);
	assert_int_equal(t->kernel_bytes, 1000);
	assert_string_equal(t->cmdline, "console=ttyS0 root=/dev/vda ro");
	/* Nothing but the word is it. */
	snprintf(value, sizeof(value), "%s/a,,b.raw,serial=readonly", t->dir);
	assert_int_equal(fetch(t), 0);
	assert_string_equal(t->cmdline, "console=ttyS0 root=/dev/vda rw");
	snprintf(value, sizeof(value), "%s/a,,b.raw,readonlyy", t->dir);
	assert_int_equal(fetch(t), -EINVAL);
}

static void test_no_kernel(void **state)
{
	struct test *t = *state;

	make(t, "");
	assert_int_equal(fetch(t), -ENOENT);
	assert_non_null(strstr(t->err.text, "no kernel"));
	assert_non_null(strstr(t->err.text, t->image));
	shell("ln -s vmlinuz %s/root/vmlinuz", t->dir);	/* a link to itself */
	make(t, "");
	assert_int_equal(fetch(t), -ENOENT);
	file(t, "boot/vmlinuz", 0, 'x');
	make(t, "");
	assert_int_equal(fetch(t), -EINVAL);
	assert_non_null(strstr(t->err.text, "0 bytes"));
}

/*
 * What is taken out lies in the host's memory, and none of the limits of a
 * process counts it there.
 */
static void test_what_does_not_fit_into_the_guest(void **state)
{
	struct test *t = *state;

	file(t, "boot/vmlinuz-1.0", KERNEL_BYTES, 'a');
	file(t, "boot/initrd.img-1.0", 2000000, 'i');
	make(t, "");
	t->boot.memory_bytes = KERNEL_BYTES + 2000000;
	assert_int_equal(fetch(t), 0);
	assert_int_equal(t->initrd_bytes, 2000000);
	t->boot.memory_bytes--;
	assert_int_equal(fetch(t), -EFBIG);
	assert_non_null(strstr(t->err.text, "/boot/initrd.img-1.0: its 2000000 bytes"));
	assert_non_null(strstr(t->err.text, "1999999 bytes"));
	t->boot.memory_bytes = 2u << 20;
	assert_int_equal(fetch(t), -EFBIG);
	assert_non_null(strstr(t->err.text, "/boot/vmlinuz-1.0: its 3000001 bytes"));
	assert_non_null(strstr(t->err.text, "2097152 bytes"));
}

/* Whatever bytes are changed, the answer comes, and the process that asks lives. */
static void test_damage_is_an_error_or_harmless(void **state)
{
	struct test *t = *state;
	unsigned int round, i, seed = 1;
	uint8_t byte;
	int fd;

	file(t, "boot/vmlinuz-1.0", 100000, 'a');
	for (round = 0; round < 12; round++) {
		make(t, round & 1 ? "-O ^metadata_csum" : "");
		fd = open(t->image, O_RDWR | O_CLOEXEC);
		assert_true(fd >= 0);
		for (i = 0; i < 200; i++) {
			byte = (uint8_t)rand_r(&seed);
			assert_int_equal(pwrite(fd, &byte, 1,
						1024 + rand_r(&seed) % (round < 4 ? 1024 : 300000)),
					 1);
		}
		close(fd);
		fetch(t);
		assert_true(t->err.code <= 0);
	}
}

/* As a reset that is asked for just when another is done. */
static void test_one_can_follow_at_once(void **state)
{
	struct test *t = *state;

	file(t, "boot/vmlinuz-1.0", 1000, 'a');
	make(t, "");
	t->more = 2;
	assert_int_equal(fetch(t), 0);
	assert_int_equal(t->fetched, 0);
	assert_int_equal(t->more, 0);
	assert_int_equal(t->kernel_bytes, 1000);
	/* What goes wrong is told in the same way. */
	t->more = 1;
	assert_int_equal(disk_boot_fetch(&t->boot, on_done, t, &t->err), 0);
	t->done = false;
	shell("rm %s", t->image);
	loop_run(t->loop);
	assert_true(t->done);
	assert_int_equal(t->fetched, 0);
	assert_int_equal(t->err.code, -ENOENT);
}

/* One that has not begun is forgotten. */
static void test_one_that_follows_can_be_ended(void **state)
{
	struct test *t = *state;

	file(t, "boot/vmlinuz-1.0", 1000, 'a');
	make(t, "");
	t->more = 1;
	t->end = true;
	assert_int_equal(disk_boot_fetch(&t->boot, on_done, t, &t->err), 0);
	loop_run(t->loop);
	assert_int_equal(t->fetched, 0);
	assert_int_equal(t->more, 0);
	while (t->boot.closing)
		uv_run(loop_uv(t->loop), UV_RUN_NOWAIT);
	uv_run(loop_uv(t->loop), UV_RUN_NOWAIT);
	assert_false(t->done);
	assert_false(t->boot.busy);
}

/* Its reader is gone at once, and reaped. */
static void test_one_under_way_can_be_ended(void **state)
{
	struct test *t = *state;

	file(t, "boot/vmlinuz-1.0", 1000, 'a');
	make(t, "");
	assert_int_equal(disk_boot_fetch(&t->boot, on_done, t, &t->err), 0);
	disk_boot_fini(&t->boot);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
	while (t->boot.closing)
		uv_run(loop_uv(t->loop), UV_RUN_NOWAIT);
	assert_false(t->done);
}

static void test_what_is_no_disk(void **state)
{
	struct test *t = *state;

	assert_int_equal(fetch(t), -ENOENT);
	assert_non_null(strstr(t->err.text, "--kernel"));
	t->boot.disk = t->dir;
	assert_int_equal(fetch(t), -EINVAL);
	t->boot.disk = "/dev/zero";
	assert_int_equal(fetch(t), -EINVAL);
	t->boot.disk = "nbd://host/disk";
	assert_int_equal(fetch(t), -EINVAL);
	t->boot.disk = "/dev/zero,format=qcow2";
	assert_int_equal(fetch(t), -EINVAL);
	assert_non_null(strstr(t->err.text, "--kernel"));
}

static void test_it_can_be_ended_at_once(void **state)
{
	struct test *t = *state;

	file(t, "boot/vmlinuz-1.0", KERNEL_BYTES, 'a');
	make(t, "");
	assert_int_equal(disk_boot_fetch(&t->boot, on_done, t, &t->err), 0);
	assert_int_equal(disk_boot_fetch(&t->boot, on_done, t, &t->err), -EBUSY);
	disk_boot_fini(&t->boot);
	assert_false(t->done);
}

/*
 * The reader limits itself before it looks at the disk, and does so here: what
 * it has then is what whoever takes it over has. (A name of libc's that this
 * program defines is this one's.)
 */
static bool reader;

int setrlimit(__rlimit_resource_t resource, const struct rlimit *limit)
{
	int fd;

	for (fd = DISK_CHILD_FDS; reader && fd < 1024; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			_exit(99);
	return (int)syscall(SYS_prlimit64, 0, resource, limit, NULL);
}

/* Such as those of --net fd=N. */
static void test_the_reader_has_no_other_descriptors(void **state)
{
	struct test *t = *state;
	int fds[3];
	size_t i;

	file(t, "boot/vmlinuz-1.0", 1000, 'a');
	make(t, "");
	for (i = 0; i < 3; i++) {
		fds[i] = fcntl(STDERR_FILENO, F_DUPFD, i ? 100 * (int)i : 5);
		assert_true(fds[i] >= 5);
	}
	if (fetch(t) < 0)
		fail_msg("%s", t->err.text);
	for (i = 0; i < 3; i++)
		close(fds[i]);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_links_in_the_root_come_first, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_else_the_newest_kernel_and_again_after_a_change, setup, teardown),
		cmocka_unit_test_setup_teardown(test_names_as_disk_takes_them, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_kernel, setup, teardown),
		cmocka_unit_test_setup_teardown(test_what_does_not_fit_into_the_guest, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_damage_is_an_error_or_harmless, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_one_can_follow_at_once, setup, teardown),
		cmocka_unit_test_setup_teardown(test_one_that_follows_can_be_ended, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_one_under_way_can_be_ended, setup, teardown),
		cmocka_unit_test_setup_teardown(test_what_is_no_disk, setup, teardown),
		cmocka_unit_test_setup_teardown(test_it_can_be_ended_at_once, setup, teardown),
		cmocka_unit_test_setup_teardown(test_the_reader_has_no_other_descriptors, setup,
						teardown),
	};

	reader = argc == 3 && !strcmp(argv[1], "disk-child");
	if (reader)
		return cmd_disk_child(argc - 1, argv + 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
