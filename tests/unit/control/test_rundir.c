// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Names of machines: taken, refused, taken over from the dead, listed, given back.
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "control/rundir.h"

static char top[64], base[80];

static int set_up(void **state)
{
	(void)state;
	strcpy(top, "/tmp/postern-rundir-XXXXXX");
	assert_non_null(mkdtemp(top));
	snprintf(base, sizeof(base), "%s/run", top);
	setenv("POSTERN_RUNTIME_DIR", base, 1);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	rmdir(base);
	return rmdir(top);
}

static mode_t mode_of(const char *path)
{
	struct stat st;

	return lstat(path, &st) < 0 ? 0 : st.st_mode & 0777;
}

static void test_a_name_is_held_by_one(void **state)
{
	struct rundir first, second;
	char path[RUNDIR_PATH_MAX];
	struct err err;

	(void)state;
	umask(0277);	/* modes do not depend on it */
	assert_int_equal(rundir_take(&first, "web", &err), 0);
	umask(022);
	assert_int_equal(mode_of(base), 0700);
	assert_int_equal(mode_of(first.path), 0700);
	assert_int_equal(rundir_owner("web"), getpid());
	assert_int_equal(rundir_take(&second, "web", &err), -EADDRINUSE);
	assert_non_null(strstr(err.text, "web"));
	snprintf(path, sizeof(path), "process %d", (int)getpid());
	assert_non_null(strstr(err.text, path));
	rundir_release(&second);	/* holds nothing, removes nothing */
	assert_int_equal(rundir_owner("web"), getpid());
	assert_int_equal(rundir_path(path, "web", "qmp", &err), 0);
	close(open(path, O_CREAT | O_WRONLY, 0600));
	rundir_release(&first);
	assert_int_equal(mode_of(first.path), 0);
	assert_int_equal(rundir_owner("web"), -ESRCH);
	rundir_release(&first);
}

/* Another process takes the name and is killed. Returns when it is gone. */
static void die_with(const char *name)
{
	struct rundir rundir;
	int ready[2], status;
	char byte;
	pid_t pid;

	assert_int_equal(pipe(ready), 0);
	pid = fork();
	if (!pid) {
		if (!rundir_take(&rundir, name, NULL) && write(ready[1], "x", 1) == 1)
			pause();
		_exit(1);
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	assert_int_equal(rundir_owner(name), pid);
	assert_int_equal(rundir_take(&rundir, name, NULL), -EADDRINUSE);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
}

static void test_a_dead_owners_name_is_taken_over(void **state)
{
	struct rundir rundir;
	struct err err;

	(void)state;
	die_with("web");
	assert_int_equal(rundir_owner("web"), -ESRCH);
	assert_int_equal(rundir_take(&rundir, "web", &err), 0);
	assert_int_equal(rundir_owner("web"), getpid());
	rundir_release(&rundir);
}

static void test_only_live_names_are_listed(void **state)
{
	char (*names)[RUNDIR_NAME_MAX + 1];
	struct rundir b, a, dead;
	struct err err;

	(void)state;
	assert_int_equal(rundir_list(&names, &err), 0);
	free(names);
	assert_int_equal(rundir_take(&b, "b", &err), 0);
	assert_int_equal(rundir_take(&a, "a.1", &err), 0);
	die_with("dead");
	assert_int_equal(rundir_list(&names, &err), 2);
	assert_string_equal(names[0], "a.1");
	assert_string_equal(names[1], "b");
	free(names);
	assert_int_equal(rundir_take(&dead, "dead", &err), 0);
	rundir_release(&dead);
	rundir_release(&a);
	rundir_release(&b);
	assert_int_equal(rundir_list(&names, &err), 0);
	free(names);
}

static void test_names_that_would_leave_the_directory_are_refused(void **state)
{
	static const char *const bad[] = { "",
					   ".",
					   "..",
					   "a/b",
					   "/",
					   "-a",
					   ".a",
					   "a b",
					   "a\n",
					   "\xc3\xa9",
					   "0123456789012345678901234567890123456789012345678" };
	struct rundir rundir;
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(rundir_take(&rundir, bad[i], &err), -EINVAL);
		assert_int_equal(rundir_owner(bad[i]), -ESRCH);
	}
	assert_true(rundir_name_is_valid("Web-1_2.3+x"));
}

static void test_what_others_laid_there_is_not_followed(void **state)
{
	struct rundir rundir;
	char path[200];
	struct err err;

	(void)state;
	assert_int_equal(mkdir(base, 0777), 0);
	snprintf(path, sizeof(path), "%s/web", base);
	assert_int_equal(symlink("/tmp", path), 0);
	assert_true(rundir_take(&rundir, "web", &err) < 0);
	assert_non_null(strstr(err.text, path));
	assert_int_equal(mode_of("/tmp") & 0777, 0777);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(path, sizeof(path), "%s/web/pid", base);
	assert_int_equal(symlink("/dev/null", path), 0);
	assert_true(rundir_take(&rundir, "web", &err) < 0);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(rundir_take(&rundir, "web", &err), 0);
	rundir_release(&rundir);
	assert_int_equal(mode_of(base), 0755);	/* theirs: not ours to change */
	assert_int_equal(chmod(base, 0775), 0);
	assert_int_equal(rundir_take(&rundir, "web", &err), -EPERM);
	assert_non_null(strstr(err.text, "775"));
	assert_int_equal(mode_of(base), 0775);
	assert_int_equal(chmod(base, 0700), 0);
	if (!geteuid()) {
		assert_int_equal(chown(base, 1, 1), 0);
		assert_int_equal(rundir_take(&rundir, "web", &err), -EPERM);
	}
}

/* Many take and give back the same name at once: never two at a time, and nothing is left. */
static void test_takers_race_and_never_share(void **state)
{
	struct rundir rundir;
	char path[120];
	int i, k, status, r, fd;
	pid_t pid[4];

	(void)state;
	snprintf(path, sizeof(path), "%s/inside", top);
	for (i = 0; i < 4; i++) {
		pid[i] = fork();
		if (pid[i])
			continue;
		for (k = 0; k < 500; k++) {
			r = rundir_take(&rundir, "web", NULL);
			if (r == -EADDRINUSE)
				continue;
			if (r < 0)
				_exit(2);
			fd = open(path, O_CREAT | O_EXCL | O_CLOEXEC, 0600);
			if (fd < 0 || unlink(path) < 0)
				_exit(3);
			close(fd);
			rundir_release(&rundir);
		}
		_exit(0);
	}
	for (i = 0; i < 4; i++) {
		assert_int_equal(waitpid(pid[i], &status, 0), pid[i]);
		assert_int_equal(status, 0);
	}
	assert_int_equal(rundir_take(&rundir, "web", NULL), 0);
	rundir_release(&rundir);
	assert_int_equal(mode_of(rundir.path), 0);
}

static void test_without_a_base_it_says_what_to_set(void **state)
{
	struct rundir rundir;
	struct err err;

	(void)state;
	setenv("POSTERN_RUNTIME_DIR", "relative", 1);
	assert_int_equal(rundir_take(&rundir, "web", &err), -ENOENT);
	assert_non_null(strstr(err.text, "POSTERN_RUNTIME_DIR"));
	setenv("POSTERN_RUNTIME_DIR", base, 1);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_a_name_is_held_by_one, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_a_dead_owners_name_is_taken_over, set_up,
						tear_down),
		cmocka_unit_test_setup_teardown(test_only_live_names_are_listed, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			test_names_that_would_leave_the_directory_are_refused, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_what_others_laid_there_is_not_followed, set_up,
						tear_down),
		cmocka_unit_test_setup_teardown(test_takers_race_and_never_share, set_up,
						tear_down),
		cmocka_unit_test_setup_teardown(test_without_a_base_it_says_what_to_set, set_up,
						tear_down),
	};

	return cmocka_run_group_tests_name("rundir", tests, NULL, NULL);
}
