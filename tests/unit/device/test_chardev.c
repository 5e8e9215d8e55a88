// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Specifications of a chardev, and those of its kinds that are no socket:
 * files, pseudo-terminals, standard input and output.
 */
#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "line.h"

/* ---- the table of specifications ---- */

static void specifications_are_parsed(void **state)
{
	static const struct {
		const char *text;
		int result;
		enum chardev_type type;
		const char *path;	/* or what the error says */
	} cases[] = {
		{ "null", 0, CHARDEV_NULL, "" },
		{ "none", 0, CHARDEV_NULL, "" },
		{ "stdio", 0, CHARDEV_STDIO, "" },
		{ "pty", 0, CHARDEV_PTY, "" },
		{ "pty:/tmp/link", 0, CHARDEV_PTY, "/tmp/link" },
		{ "file:/tmp/out,x", 0, CHARDEV_FILE, "/tmp/out,x" },
		{ "file:/tmp/out,limit=1M", 0, CHARDEV_FILE, "/tmp/out" },
		{ "file:/tmp/out,limit=0", 0, CHARDEV_FILE, "/tmp/out" },
		{ "file:/tmp/out,limit=5", -EINVAL, 0, "limit=" },
		{ "file:/tmp/out,limt=1M", -EINVAL, 0, "\"limt=1M\" is unknown" },
		{ "pty:/tmp/link,wait=off", -EINVAL, 0, "\"wait=off\" is unknown" },
		{ "file:,limit=1M", -EINVAL, 0, "lacks its path" },
		{ "unix:/tmp/s", 0, CHARDEV_UNIX, "/tmp/s" },
		{ "unix:/tmp/s,server=on,wait=off", 0, CHARDEV_UNIX, "/tmp/s" },
		{ "unix:/tmp/s,server,nowait", 0, CHARDEV_UNIX, "/tmp/s" },
		{ "", -EINVAL, 0, "allowed are" },
		{ "stdi", -EINVAL, 0, "allowed are" },
		{ "stdiox", -EINVAL, 0, "allowed are" },
		{ "stdio:x", -EINVAL, 0, "takes no path" },
		{ "pty:", -EINVAL, 0, "lacks its path" },
		{ "file", -EINVAL, 0, "lacks its path" },
		{ "file:", -EINVAL, 0, "lacks its path" },
		{ "unix:,server=on", -EINVAL, 0, "lacks its path" },
		{ "unix:/tmp/s,wait=on", -EINVAL, 0, "wait=on" },
		{ "tcp:1:2", -EINVAL, 0, "allowed are" },
	};
	struct chardev_config config;
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		memset(&err, 0, sizeof(err));
		assert_int_equal(chardev_parse(&config, cases[i].text, &err), cases[i].result);
		if (cases[i].result == 0) {
			assert_int_equal(config.type, cases[i].type);
			assert_string_equal(config.path, cases[i].path);
		} else {
			assert_non_null(strstr(err.text, cases[i].path));
		}
	}
}

static void a_path_too_long_is_refused(void **state)
{
	static char text[PATH_MAX + 16] = "file:";
	struct chardev_config config;
	struct err err;

	(void)state;
	memset(text + 5, 'x', PATH_MAX);
	assert_int_equal(chardev_parse(&config, text, &err), -ENAMETOOLONG);
}

/* ---- file, null, pty ---- */

static void a_file_holds_all_when_the_loop_has_ended(void **state)
{
	struct line *l = *state;
	static uint8_t block[100000], got[200001];
	struct err err;
	size_t i;
	int fd;

	fd = open(l->path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	assert_int_equal(write(fd, "old", 3), 3);
	close(fd);
	for (i = 0; i < sizeof(block); i++)
		block[i] = (uint8_t)(i % 251);
	assert_int_equal(open_as(l, "file:", &err), 0);
	chardev_write(l->chardev, block, sizeof(block));
	uv_run(loop_uv(l->loop), UV_RUN_NOWAIT);
	chardev_write(l->chardev, block, sizeof(block));
	chardev_free(l->chardev);
	l->chardev = NULL;
	loop_free(l->loop);
	fd = open(l->path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(read(fd, got, sizeof(got)), 2 * sizeof(block));
	assert_memory_equal(got, block, sizeof(block));
	assert_memory_equal(got + sizeof(block), block, sizeof(block));
	close(fd);
	assert_int_equal(loop_new(&l->loop, &err), 0);
}

static size_t size_of(const char *path)
{
	struct stat st;

	return stat(path, &st) ? 0 : (size_t)st.st_size;
}

static void a_file_has_a_limit(void **state)
{
	struct line *l = *state;
	static uint8_t block[50000];
	struct chardev_config config;
	const struct chardev_ops ops = { .arg = l };
	char text[128], old[80];
	size_t i, before;
	struct err err;

	snprintf(text, sizeof(text), "file:%s,limit=128K", l->path);
	snprintf(old, sizeof(old), "%s.1", l->path);
	assert_int_equal(chardev_parse(&config, text, &err), 0);
	assert_int_equal(chardev_new(&l->chardev, l->loop, &config, &ops, &err), 0);
	memset(block, 'x', sizeof(block));
	for (i = 0; i < 20; i++) {
		before = size_of(l->path);
		chardev_write(l->chardev, block, sizeof(block));
		/* It goes behind the other, or begins anew: never does it find room for a third. */
		run_until(l, size_of(l->path) == (before == sizeof(block) ? 2 : 1) * sizeof(block));
		assert_true(size_of(l->path) <= 128 << 10);
		assert_true(size_of(old) <= 128 << 10);
	}
	assert_int_equal(chardev_dropped(l->chardev), 0);
	assert_int_equal(size_of(l->path) + size_of(old), 4 * sizeof(block));
	unlink(old);
}

/* As a full disk does: at its limit the process may write no more. */
static void disk_limit(rlim_t bytes)
{
	struct rlimit limit;

	assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
	limit.rlim_cur = bytes;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void a_full_disk_is_survived(void **state)
{
	static char said[CHARDEV_RING_BYTES + 300000], got[2 * sizeof(said)];
	struct line *l = *state;
	const char *mark;
	struct err err;
	size_t len;
	FILE *f;

	memset(said, 'x', sizeof(said));
	assert_int_equal(open_as(l, "file:", &err), 0);
	disk_limit(100000);
	chardev_write(l->chardev, (uint8_t *)said, 150000);
	run_until(l, size_of(l->path) == 100000);
	/* More than what waits can hold: the newest are kept. */
	chardev_write(l->chardev, (uint8_t *)said, sizeof(said));
	say(l, "last words");
	for (len = 0; len < 20; len++)
		uv_run(loop_uv(l->loop), UV_RUN_ONCE);
	assert_int_equal(size_of(l->path), 100000);
	disk_limit(RLIM_INFINITY);
	run_until(l, size_of(l->path) > 100000 + CHARDEV_RING_BYTES);
	chardev_free(l->chardev);
	l->chardev = NULL;
	loop_free(l->loop);
	f = fopen(l->path, "re");
	assert_non_null(f);
	len = fread(got, 1, sizeof(got) - 1, f);
	fclose(f);
	assert_memory_equal(got + len - 10, "last words", 10);
	mark = strstr(got, "\r\n[postern: ");
	assert_non_null(mark);
	assert_in_range(mark - got, 100000, 150000);
	assert_int_equal(loop_new(&l->loop, &err), 0);
}

static void a_file_that_cannot_be_is_named(void **state)
{
	struct line *l = *state;
	struct chardev_config config;
	const struct chardev_ops ops = { .arg = l };
	struct err err;

	assert_int_equal(chardev_parse(&config, "file:/nonexistent/dir/out", &err), 0);
	assert_int_equal(chardev_new(&l->chardev, l->loop, &config, &ops, &err), -ENOENT);
	assert_non_null(strstr(err.text, "/nonexistent/dir/out"));
}

static void null_swallows(void **state)
{
	struct line *l = *state;
	struct err err;

	assert_int_equal(open_as(l, "null", &err), 0);
	say(l, "nothing");
	assert_int_equal(chardev_dropped(l->chardev), 0);
}

static void a_pty_speaks_both_ways(void **state)
{
	struct line *l = *state;
	struct stat st;
	struct err err;
	int fd;

	assert_int_equal(open_as(l, "pty:", &err), 0);
	assert_int_equal(lstat(l->path, &st), 0);
	assert_true(S_ISLNK(st.st_mode));
	say(l, "login:\n");
	fd = open(l->path, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	assert_true(fd >= 0);
	expect(l, fd, "login:\n");
	assert_int_equal(write(fd, "root\r\x03", 6), 6);
	expect_input(l, "root\r\x03");
	close(fd);
	/* One goes, another comes. */
	fd = open(l->path, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	say(l, "again");
	expect(l, fd, "again");
	close(fd);
	chardev_free(l->chardev);
	l->chardev = NULL;
	assert_int_equal(lstat(l->path, &st), -1);
}

/* Nobody has opened it, and the guest speaks on: who does then gets its last words. */
static void a_pty_keeps_the_newest(void **state)
{
	static char block[5000], got[4 << 20];
	struct line *l = *state;
	const char *mark;
	size_t i, len = 0;
	struct err err;
	int fd;

	memset(block, 'x', sizeof(block) - 1);
	assert_int_equal(open_as(l, "pty:", &err), 0);
	for (i = 0; i < 200; i++) {
		say(l, block);
		uv_run(loop_uv(l->loop), UV_RUN_NOWAIT);
	}
	say(l, "last words");
	assert_true(chardev_dropped(l->chardev) > 0);
	fd = open(l->path, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	assert_true(fd >= 0);
	run_until(l, (len += drain(fd, (uint8_t *)got + len, sizeof(got) - 1 - len)) &&
		  strstr(got, "last words"));
	mark = strstr(got, "\r\n[postern: ");
	assert_non_null(mark);
	assert_int_equal(strtoull(mark + strlen("\r\n[postern: "), NULL, 10),
			 chardev_dropped(l->chardev));
	close(fd);
}

/* ---- stdio ---- */

/* Puts something else in the place of standard input and output. */
struct stdio {
	int old_in, old_out;
};

static void stdio_swap(struct stdio *s, int in, int out)
{
	fflush(stdout);
	s->old_in = dup(STDIN_FILENO);
	s->old_out = dup(STDOUT_FILENO);
	dup2(in, STDIN_FILENO);
	dup2(out, STDOUT_FILENO);
}

static void stdio_back(struct stdio *s)
{
	fflush(stdout);
	dup2(s->old_in, STDIN_FILENO);
	dup2(s->old_out, STDOUT_FILENO);
	close(s->old_in);
	close(s->old_out);
}

static void stdio_on_pipes_knows_the_escape_key(void **state)
{
	struct line *l = *state;
	struct stdio saved;
	uint8_t got[512];
	size_t len = 0;
	int in[2], out[2], r;
	struct err err;

	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	stdio_swap(&saved, in[0], out[1]);
	r = open_as(l, "stdio", &err);
	stdio_back(&saved);
	assert_int_equal(r, 0);
	assert_int_equal(fcntl(out[1], F_GETFL) & O_NONBLOCK, 0);
	fcntl(out[0], F_SETFL, O_NONBLOCK);
	say(l, "hello");
	expect(l, out[0], "hello");
	assert_int_equal(write(in[1], "a\x01" "ab\x01\x01" "c\x01zd", 10), 10);
	expect_input(l, "a\x01" "b\x01" "cd");
	assert_int_equal(write(in[1], "\x01h\x01", 3), 3);
	run_until(l, (len += drain(out[0], got + len, sizeof(got) - 1 - len)) > 60);
	got[len] = '\0';
	assert_non_null(strstr((char *)got, "Ctrl-A x"));
	assert_int_equal(l->quits, 0);
	assert_int_equal(write(in[1], "x", 1), 1);
	run_until(l, l->quits == 1);
	/* The end of input ends nothing else. */
	close(in[1]);
	uv_run(loop_uv(l->loop), UV_RUN_NOWAIT);
	say(l, "still here");
	len = 0;
	run_until(l, (len += drain(out[0], got + len, sizeof(got) - len)) >= 10);
	chardev_free(l->chardev);
	l->chardev = NULL;
	close(in[0]);
	close(out[0]);
	close(out[1]);
}

static void stdio_reads_a_file_to_its_end(void **state)
{
	struct line *l = *state;
	struct stdio saved;
	struct err err;
	int in, out, r;

	in = open(l->path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	assert_int_equal(write(in, "from a file", 11), 11);
	lseek(in, 0, SEEK_SET);
	out = open("/dev/null", O_WRONLY | O_CLOEXEC);
	l->take = 4;
	stdio_swap(&saved, in, out);
	r = open_as(l, "stdio", &err);
	stdio_back(&saved);
	assert_int_equal(r, 0);
	run_until(l, l->got_len == 4);
	l->take = 100;
	chardev_accept_input(l->chardev);
	expect_input(l, "from a file");
	say(l, "into the void");
	uv_run(loop_uv(l->loop), UV_RUN_NOWAIT);
	close(in);
	close(out);
}

static void the_rest_is_written_at_the_end(void **state)
{
	struct line *l = *state;
	struct stdio saved;
	uint8_t got[32];
	struct err err;
	int in[2], out[2], r;

	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	stdio_swap(&saved, in[0], out[1]);
	r = open_as(l, "stdio", &err);
	stdio_back(&saved);
	assert_int_equal(r, 0);
	say(l, "last words");
	chardev_free(l->chardev);
	l->chardev = NULL;
	assert_int_equal(read(out[0], got, sizeof(got)), 10);
	assert_memory_equal(got, "last words", 10);
	close(in[0]);
	close(in[1]);
	close(out[0]);
	close(out[1]);
}

static void a_second_stdio_is_refused(void **state)
{
	struct line *l = *state;
	const struct chardev_ops ops = { .arg = l };
	struct chardev_config config = { .type = CHARDEV_STDIO };
	struct chardev *second;
	struct stdio saved;
	struct err err;
	int in[2], r;

	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	stdio_swap(&saved, in[0], in[1]);
	r = open_as(l, "stdio", &err);
	stdio_back(&saved);
	assert_int_equal(r, 0);
	assert_int_equal(chardev_new(&second, l->loop, &config, &ops, &err), -EBUSY);
	close(in[0]);
	close(in[1]);
}

/* ---- stdio on a terminal ---- */

/* The child has the terminal; the parent sees its settings from the other side. */
static int terminal_child(bool crash)
{
	struct line l = { .take = 64 };
	const struct chardev_ops ops = { .input = input, .quit = quit, .arg = &l };
	struct chardev_config config = { .type = CHARDEV_STDIO };

	if (loop_new(&l.loop, NULL) < 0 || chardev_new(&l.chardev, l.loop, &config, &ops, NULL) < 0)
		return 1;
	say(&l, "raw");
	while (!l.quits)
		uv_run(loop_uv(l.loop), UV_RUN_ONCE);
	if (crash) {
		chardev_restore_terminal();
		_exit(2);
	}
	chardev_free(l.chardev);
	loop_free(l.loop);
	/* Ctrl-C was input like any other. */
	return l.got_len == 1 && l.got[0] == 3 ? 0 : 3;
}

static tcflag_t local_flags(int fd)
{
	struct termios tio;

	assert_int_equal(tcgetattr(fd, &tio), 0);
	return tio.c_lflag & (ICANON | ECHO | ISIG);
}

static void terminal_is_restored(bool crash, int status_wanted)
{
	char name[64];
	tcflag_t before;
	int fd, slave, status;
	char got[8];
	pid_t child;

	child = forkpty(&fd, name, NULL, NULL);
	assert_true(child >= 0);
	if (child == 0)
		_exit(terminal_child(crash));
	/* Kept open, so that the settings can still be seen when the child has gone. */
	slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	assert_true(slave >= 0);
	before = ICANON | ECHO | ISIG;
	assert_int_equal(read(fd, got, 3), 3);
	assert_int_equal(local_flags(slave), 0);
	assert_int_equal(write(fd, "\x03\x01x", 3), 3);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), status_wanted);
	assert_int_equal(local_flags(slave), before);
	close(slave);
	close(fd);
}

static void a_terminal_is_raw_and_then_as_it_was(void **state)
{
	(void)state;
	terminal_is_restored(false, 0);
}

static void a_signal_handler_can_restore_the_terminal(void **state)
{
	(void)state;
	terminal_is_restored(true, 2);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(specifications_are_parsed),
		cmocka_unit_test(a_path_too_long_is_refused),
		TEST(a_file_holds_all_when_the_loop_has_ended),
		TEST(a_file_has_a_limit),
		TEST(a_full_disk_is_survived),
		TEST(a_file_that_cannot_be_is_named),
		TEST(null_swallows),
		TEST(a_pty_speaks_both_ways),
		TEST(a_pty_keeps_the_newest),
		TEST(stdio_on_pipes_knows_the_escape_key),
		TEST(stdio_reads_a_file_to_its_end),
		TEST(the_rest_is_written_at_the_end),
		TEST(a_second_stdio_is_refused),
		cmocka_unit_test(a_terminal_is_raw_and_then_as_it_was),
		cmocka_unit_test(a_signal_handler_can_restore_the_terminal),
	};

	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
