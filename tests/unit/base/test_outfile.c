// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Files to be written, in directories of all kinds and with what others have
// laid there; pid files and their owners.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/outfile.h"
#include "base/pidfile.h"

#define OTHER 4242	/* a user who is not this one */

static char top[32], path[64], other[64];

static int set_up(void **state)
{
	(void)state;
	strcpy(top, "/tmp/test-outfile.XXXXXX");
	if (!mkdtemp(top))
		return -1;
	snprintf(path, sizeof(path), "%s/file", top);
	snprintf(other, sizeof(other), "%s/other", top);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	unlink(path);
	unlink(other);
	return rmdir(top);
}

static void make(const char *name, const char *content)
{
	FILE *file = fopen(name, "w");

	assert_non_null(file);
	fputs(content, file);
	fclose(file);
}

static long size_of(const char *name)
{
	struct stat st;

	return stat(name, &st) < 0 ? -1 : (long)st.st_size;
}

static void refused(int code, const char *says)
{
	struct err err = { 0 };

	assert_int_equal(outfile_open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600, &err), code);
	if (!strstr(err.text, path) || !strstr(err.text, says))
		fail_msg("\"%s\" says nothing of \"%s\", or not where", err.text, says);
}

static void taken(void)
{
	struct err err = { 0 };
	int fd = outfile_open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600, &err);

	if (fd < 0)
		fail_msg("%s", err.text);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	close(fd);
}

static void a_file_is_made_and_emptied(void **state)
{
	struct stat st;

	(void)state;
	taken();
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	make(path, "old");
	taken();
	assert_int_equal(size_of(path), 0);
	/* Where one is, and relative. */
	assert_int_equal(chdir(top), 0);
	close(outfile_open("file", O_WRONLY | O_CREAT, 0600, NULL));
	assert_int_equal(chdir("/"), 0);
}

static void a_link_is_not_followed_wherever_it_leads(void **state)
{
	static const char *const where[] = { "other", "nowhere", "/dev/null", "file" };
	size_t i;

	(void)state;
	make(other, "precious");
	for (i = 0; i < sizeof(where) / sizeof(*where); i++) {
		assert_int_equal(symlink(where[i], path), 0);
		refused(-ELOOP, "symbolic link");
		unlink(path);
	}
	assert_int_equal(size_of(other), strlen("precious"));
}

static void a_directory_that_others_rule_is_refused(void **state)
{
	(void)state;
	assert_int_equal(chmod(top, 0777), 0);
	refused(-EPERM, "everybody may remove");
	assert_int_equal(chmod(top, 01777), 0);
	taken();
	assert_int_equal(chmod(top, 0775), 0);
	taken();
	if (geteuid())
		return;
	assert_int_equal(chown(top, OTHER, OTHER), 0);
	refused(-EPERM, "belongs to user 4242");
	assert_int_equal(chown(top, 0, 0), 0);
}

static void what_others_put_where_they_may_write_is_refused(void **state)
{
	struct err err = { 0 };
	int code;

	(void)state;
	make(path, "theirs");
	assert_int_equal(link(path, other), 0);
	assert_int_equal(chmod(top, 01777), 0);
	refused(-EPERM, "another name");
	assert_int_equal(size_of(path), strlen("theirs"));
	unlink(other);
	if (!geteuid()) {
		assert_int_equal(chown(path, OTHER, OTHER), 0);
		/* The kernel may have its own word about it first. */
		code = outfile_open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600, &err);
		if (code != -EACCES && (code != -EPERM || !strstr(err.text, "user 4242")))
			fail_msg("%d: %s", code, err.text);
		assert_int_equal(size_of(path), strlen("theirs"));
	}
	/* Where they may not, whoever could has put it there for us. */
	unlink(path);
	assert_int_equal(chmod(top, 0755), 0);
	make(path, "ours");
	assert_int_equal(link(path, other), 0);
	if (!geteuid())
		assert_int_equal(chown(path, OTHER, OTHER), 0);
	taken();
}

static void what_is_no_file_is_an_error_or_taken_as_it_is(void **state)
{
	struct err err = { 0 };
	int fd;

	(void)state;
	assert_int_equal(outfile_open(top, O_WRONLY | O_CREAT, 0600, &err), -EISDIR);
	assert_int_equal(outfile_open("/nowhere/at/all", O_WRONLY | O_CREAT, 0600, &err), -ENOENT);
	assert_non_null(strstr(err.text, "/nowhere/at/all"));
	assert_int_equal(mkfifo(path, 0600), 0);
	refused(-ENXIO, "");	/* nobody reads it: no wait */
	fd = outfile_open("/dev/null", O_WRONLY | O_CREAT | O_TRUNC, 0600, &err);
	assert_true(fd >= 0);
	close(fd);
}

/* ---- pid files ---- */

static void a_pid_file_is_its_holders_until_that_ends(void **state)
{
	struct err err = { 0 };
	pid_t owner = 0;
	char text[32] = "";
	int fd, again;
	FILE *file;

	(void)state;
	/* From one who was killed. */
	make(path, "99999999999\n");
	assert_int_equal(pidfile_owner(path), -ESRCH);
	fd = pidfile_lock(path, 0644, &owner, &err);
	assert_true(fd >= 0);
	assert_int_equal(pidfile_write(fd), 0);
	file = fopen(path, "r");
	assert_non_null(fgets(text, sizeof(text), file));
	fclose(file);
	assert_int_equal(atoi(text), getpid());
	assert_int_equal(pidfile_owner(path), getpid());
	assert_int_equal(pidfile_lock(path, 0644, &owner, &err), -EADDRINUSE);
	assert_int_equal(owner, getpid());
	assert_non_null(strstr(err.text, path));
	assert_int_equal(pidfile_owner(path), getpid());
	pidfile_remove(fd, path);
	assert_int_equal(size_of(path), -1);
	assert_int_equal(pidfile_owner(path), -ESRCH);
	again = pidfile_lock(path, 0644, &owner, &err);
	assert_true(again >= 0);
	/* Not what lies there now instead. */
	unlink(path);
	make(path, "another's");
	pidfile_remove(again, path);
	assert_int_equal(size_of(path), strlen("another's"));
}

static void a_pid_file_is_a_file(void **state)
{
	struct err err = { 0 };
	pid_t owner;

	(void)state;
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(pidfile_lock(path, 0644, &owner, &err), -EEXIST);
	unlink(path);
	make(other, "precious");
	assert_int_equal(symlink("other", path), 0);
	assert_int_equal(pidfile_lock(path, 0644, &owner, &err), -ELOOP);
	assert_int_equal(size_of(other), strlen("precious"));
	assert_int_equal(pidfile_owner(path), -ESRCH);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(a_file_is_made_and_emptied),
		TEST(a_link_is_not_followed_wherever_it_leads),
		TEST(a_directory_that_others_rule_is_refused),
		TEST(what_others_put_where_they_may_write_is_refused),
		TEST(what_is_no_file_is_an_error_or_taken_as_it_is),
		TEST(a_pid_file_is_its_holders_until_that_ends),
		TEST(a_pid_file_is_a_file),
	};

	return cmocka_run_group_tests_name("outfile", tests, NULL, NULL);
}
