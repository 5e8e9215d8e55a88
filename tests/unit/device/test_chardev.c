// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "base/clock.h"
#include "device/chardev.h"
#include "fixture.h"

/* What the chardev's writes to a socket fail with, or 0. The test's own are spared. */
static int write_error;

ssize_t __wrap_write(int fd, const void *data, size_t len);
ssize_t __real_write(int fd, const void *data, size_t len);

ssize_t __wrap_write(int fd, const void *data, size_t len)
{
	if (write_error && len > 1) {
		errno = write_error;
		return -1;
	}
	return __real_write(fd, data, len);
}

/* A far side, a receiver that takes at most `take` bytes, and the loop between them. */
struct line {
	char dir[32], path[64];
	struct loop *loop;
	struct chardev *chardev;
	uint8_t got[8192];
	size_t got_len, take;
	unsigned int quits;
};

static size_t input(void *arg, const uint8_t *data, size_t len)
{
	struct line *l = arg;
	size_t n = len < l->take ? len : l->take;

	assert_true(l->got_len + n <= sizeof(l->got));
	memcpy(l->got + l->got_len, data, n);
	l->got_len += n;
	l->take -= n;
	return n;
}

static void quit(void *arg)
{
	((struct line *)arg)->quits++;
}

static int setup(void **state)
{
	struct line *l = calloc(1, sizeof(*l));
	struct err err;

	strcpy(l->dir, "/tmp/test_chardev.XXXXXX");
	assert_non_null(mkdtemp(l->dir));
	snprintf(l->path, sizeof(l->path), "%s/far", l->dir);
	assert_int_equal(loop_new(&l->loop, &err), 0);
	l->take = sizeof(l->got);
	*state = l;
	return 0;
}

static int teardown(void **state)
{
	struct line *l = *state;

	chardev_free(l->chardev);
	loop_free(l->loop);
	unlink(l->path);
	assert_int_equal(rmdir(l->dir), 0);
	free(l);
	return 0;
}

static int open_as(struct line *l, const char *kind, struct err *err)
{
	const struct chardev_ops ops = { .input = input, .quit = quit, .arg = l };
	struct chardev_config config;
	char text[128];

	snprintf(text, sizeof(text), "%s%s", kind, kind[strlen(kind) - 1] == ':' ? l->path : "");
	assert_int_equal(chardev_parse(&config, text, err), 0);
	return chardev_new(&l->chardev, l->loop, &config, &ops, err);
}

/* Runs the loop until `condition`, for a test that would otherwise hang at most 10 s. */
#define run_until(l, condition)                                                                \
	do {                                                                                   \
		int64_t end_ = clock_now_ns() + 10 * NS_PER_SEC;                               \
		while (!(condition)) {                                                         \
			assert_true(clock_now_ns() < end_);                                    \
			uv_run(loop_uv((l)->loop), UV_RUN_NOWAIT);                             \
		}                                                                              \
	} while (0)

static int dial(const struct line *l)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	strcpy(addr.sun_path, l->path);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

static size_t drain(int fd, uint8_t *to, size_t size)
{
	ssize_t n = read(fd, to, size);

	return n > 0 ? (size_t)n : 0;
}

static void say(struct line *l, const char *text)
{
	chardev_write(l->chardev, (const uint8_t *)text, strlen(text));
}

#define expect(l, fd, text)                                                                    \
	do {                                                                                   \
		uint8_t got_[256];                                                             \
		size_t len_ = 0;                                                               \
		run_until(l, (len_ += drain(fd, got_ + len_, sizeof(got_) - len_)) >= strlen(text)); \
		assert_int_equal(len_, strlen(text));                                          \
		assert_memory_equal(got_, text, len_);                                         \
	} while (0)

#define expect_input(l, text)                                                                  \
	do {                                                                                   \
		run_until(l, (l)->got_len >= strlen(text));                                    \
		assert_int_equal((l)->got_len, strlen(text));                                  \
		assert_memory_equal((l)->got, text, strlen(text));                             \
		(l)->got_len = 0;                                                              \
	} while (0)

/* ---- the table of specifications ---- */

static void specifications_are_parsed(void **state)
{
	static const struct {
		const char *text;
		int result;
		enum chardev_kind kind;
		const char *path;	/* or what the error says */
	} cases[] = {
		{ "null", 0, CHARDEV_NULL, "" },
		{ "none", 0, CHARDEV_NULL, "" },
		{ "stdio", 0, CHARDEV_STDIO, "" },
		{ "pty", 0, CHARDEV_PTY, "" },
		{ "pty:/tmp/link", 0, CHARDEV_PTY, "/tmp/link" },
		{ "file:/tmp/out,x", 0, CHARDEV_FILE, "/tmp/out,x" },
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
			assert_int_equal(config.kind, cases[i].kind);
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

/* ---- unix ---- */

static void a_client_gets_what_was_said_before_it_came(void **state)
{
	struct line *l = *state;
	struct stat st;
	struct err err;
	int fd;

	assert_int_equal(open_as(l, "unix:", &err), 0);
	assert_int_equal(stat(l->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	say(l, "early ");
	fd = dial(l);
	say(l, "late");
	expect(l, fd, "early late");
	assert_int_equal(write(fd, "input", 5), 5);
	expect_input(l, "input");
	close(fd);
}

static void the_next_client_comes_when_the_first_has_gone(void **state)
{
	struct line *l = *state;
	struct err err;
	int first, second;
	uint8_t byte;

	assert_int_equal(open_as(l, "unix:", &err), 0);
	first = dial(l);
	say(l, "one");
	expect(l, first, "one");
	second = dial(l);
	say(l, "two");
	expect(l, first, "two");
	assert_int_equal(drain(second, &byte, 1), 0);
	close(first);
	assert_int_equal(write(second, "x", 1), 1);
	expect_input(l, "x");
	say(l, "three");
	expect(l, second, "three");
	close(second);
}

static void who_sends_and_leaves_is_heard(void **state)
{
	struct line *l = *state;
	struct err err;
	int fd;

	assert_int_equal(open_as(l, "unix:", &err), 0);
	fd = dial(l);
	assert_int_equal(write(fd, "in passing", 10), 10);
	close(fd);
	/* Output to somebody who has gone must not throw the input away. */
	say(l, "anybody there?");
	expect_input(l, "in passing");
	fd = dial(l);
	assert_int_equal(write(fd, "next", 4), 4);
	expect_input(l, "next");
	close(fd);
}

/* The kernel tells of output that nobody reads any more as an error, before all of the input has been read. */
static void who_leaves_output_unread_makes_room(void **state)
{
	struct line *l = *state;
	struct err err;
	int fd, unread;

	assert_int_equal(open_as(l, "unix:", &err), 0);
	fd = dial(l);
	say(l, "hello");
	run_until(l, ioctl(fd, FIONREAD, &unread) == 0 && unread == 5);
	assert_int_equal(write(fd, "x", 1), 1);
	close(fd);
	expect_input(l, "x");
	say(l, "after ");
	fd = dial(l);
	say(l, "all");
	expect(l, fd, "after all");
	assert_int_equal(write(fd, "y", 1), 1);
	expect_input(l, "y");
	close(fd);
}

/* No fault of the client's, and no end of it. */
static void a_system_without_memory_is_waited_for(void **state)
{
	static const int errors[] = { ENOBUFS, ENOMEM };
	struct line *l = *state;
	unsigned int i, turns;
	struct err err;
	int64_t end;
	int fd;

	assert_int_equal(open_as(l, "unix:", &err), 0);
	fd = dial(l);
	say(l, "hello");
	expect(l, fd, "hello");
	for (i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
		write_error = errors[i];
		say(l, "later");
		/* It does not run in circles meanwhile, and input comes. */
		assert_int_equal(write(fd, "x", 1), 1);
		expect_input(l, "x");
		end = clock_now_ns() + 250 * NS_PER_MS;
		for (turns = 0; clock_now_ns() < end; turns++)
			uv_run(loop_uv(l->loop), UV_RUN_ONCE);
		assert_in_range(turns, 1, 20);
		write_error = 0;
		expect(l, fd, "later");
	}
	close(fd);
}

/* There is no descriptor for another client: it waits, and the loop does not run in circles. */
static void a_client_waits_for_a_descriptor(void **state)
{
	struct line *l = *state;
	struct rlimit old, none;
	unsigned int turns;
	struct err err;
	int64_t end;
	int fd;

	assert_int_equal(open_as(l, "unix:", &err), 0);
	uv_run(loop_uv(l->loop), UV_RUN_NOWAIT);
	fd = dial(l);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	none = old;
	none.rlim_cur = (rlim_t)dup(fd);
	close((int)none.rlim_cur);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	end = clock_now_ns() + 250 * NS_PER_MS;
	for (turns = 0; clock_now_ns() < end; turns++)
		uv_run(loop_uv(l->loop), UV_RUN_ONCE);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	assert_in_range(turns, 1, 20);
	say(l, "welcome");
	expect(l, fd, "welcome");
	close(fd);
}

static void refused_input_is_offered_again(void **state)
{
	struct line *l = *state;
	char big[6000];
	struct err err;
	size_t sent = 0, i;
	int fd;

	for (i = 0; i < sizeof(big); i++)
		big[i] = (char)(i * 7);
	l->take = 16;
	assert_int_equal(open_as(l, "unix:", &err), 0);
	fd = dial(l);
	while (sent < sizeof(big))
		sent += (size_t)write(fd, big + sent, sizeof(big) - sent);
	run_until(l, l->got_len == 16);
	while (l->got_len < sizeof(big)) {
		size_t before = l->got_len;

		l->take = 16;
		chardev_accept_input(l->chardev);
		run_until(l, l->got_len > before);
	}
	assert_memory_equal(l->got, big, sizeof(big));
	close(fd);
}

static void a_full_ring_drops_the_newest_and_counts(void **state)
{
	struct line *l = *state;
	static uint8_t block[4096], got[CHARDEV_RING_BYTES];
	size_t i, len = 0, n;
	struct err err;
	int fd;

	assert_int_equal(open_as(l, "unix:", &err), 0);
	for (i = 0; i < CHARDEV_RING_BYTES / sizeof(block); i++) {
		memset(block, (int)i, sizeof(block));
		chardev_write(l->chardev, block, sizeof(block));
	}
	assert_int_equal(chardev_dropped(l->chardev), 0);
	say(l, "too much");
	assert_int_equal(chardev_dropped(l->chardev), 8);
	fd = dial(l);
	do {
		uv_run(loop_uv(l->loop), UV_RUN_NOWAIT);
		n = drain(fd, got + len, sizeof(got) - len);
		len += n;
	} while (len < sizeof(got));
	for (i = 0; i < sizeof(got); i++)
		assert_int_equal(got[i], (uint8_t)(i / sizeof(block)));
	/* There is room again, and order is kept across the ring's end. */
	say(l, "after");
	expect(l, fd, "after");
	close(fd);
}

static void a_stale_socket_goes_a_live_one_stays(void **state)
{
	struct line *l = *state;
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct err err;

	strcpy(addr.sun_path, l->path);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(open_as(l, "unix:", &err), -EADDRINUSE);
	assert_non_null(strstr(err.text, l->path));
	close(fd);
	assert_int_equal(open_as(l, "unix:", &err), 0);
	chardev_free(l->chardev);
	l->chardev = NULL;
	assert_int_equal(access(l->path, F_OK), -1);
}

static void a_file_in_the_socket_s_place_is_not_ours(void **state)
{
	struct line *l = *state;
	struct err err;

	close(open(l->path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	assert_int_equal(open_as(l, "unix:", &err), -EEXIST);
	assert_int_equal(access(l->path, F_OK), 0);
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
	struct chardev_config config = { .kind = CHARDEV_STDIO };
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
	struct chardev_config config = { .kind = CHARDEV_STDIO };

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

/* ---- many writers ---- */

#define WRITERS 4
#define WRITES 2000

struct writer {
	struct chardev *chardev;
	uint8_t name;
};

static void *writer(void *arg)
{
	const struct writer *w = arg;
	uint8_t pair[2] = { w->name, w->name };
	unsigned int i;

	for (i = 0; i < WRITES; i++)
		chardev_write(w->chardev, pair, sizeof(pair));
	return NULL;
}

static void writes_of_many_threads_stay_whole(void **state)
{
	struct line *l = *state;
	static uint8_t got[WRITERS * WRITES * 2];
	unsigned int count[WRITERS] = { 0 };
	struct writer w[WRITERS];
	pthread_t thread[WRITERS];
	size_t len = 0, i;
	struct err err;
	int fd;

	assert_int_equal(open_as(l, "unix:", &err), 0);
	fd = dial(l);
	for (i = 0; i < WRITERS; i++) {
		w[i] = (struct writer){ l->chardev, (uint8_t)i };
		assert_int_equal(pthread_create(&thread[i], NULL, writer, &w[i]), 0);
	}
	run_until(l, (len += drain(fd, got + len, sizeof(got) - len)) == sizeof(got));
	for (i = 0; i < WRITERS; i++)
		pthread_join(thread[i], NULL);
	for (i = 0; i < len; i += 2) {
		assert_int_equal(got[i], got[i + 1]);
		count[got[i]]++;
	}
	for (i = 0; i < WRITERS; i++)
		assert_int_equal(count[i], WRITES);
	assert_int_equal(chardev_dropped(l->chardev), 0);
	close(fd);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(specifications_are_parsed),
		cmocka_unit_test(a_path_too_long_is_refused),
		TEST(a_client_gets_what_was_said_before_it_came),
		TEST(the_next_client_comes_when_the_first_has_gone),
		TEST(who_sends_and_leaves_is_heard),
		TEST(who_leaves_output_unread_makes_room),
		TEST(a_system_without_memory_is_waited_for),
		TEST(a_client_waits_for_a_descriptor),
		TEST(refused_input_is_offered_again),
		TEST(a_full_ring_drops_the_newest_and_counts),
		TEST(a_stale_socket_goes_a_live_one_stays),
		TEST(a_file_in_the_socket_s_place_is_not_ours),
		TEST(a_file_holds_all_when_the_loop_has_ended),
		TEST(a_file_that_cannot_be_is_named),
		TEST(null_swallows),
		TEST(a_pty_speaks_both_ways),
		TEST(stdio_on_pipes_knows_the_escape_key),
		TEST(stdio_reads_a_file_to_its_end),
		TEST(the_rest_is_written_at_the_end),
		TEST(a_second_stdio_is_refused),
		cmocka_unit_test(a_terminal_is_raw_and_then_as_it_was),
		cmocka_unit_test(a_signal_handler_can_restore_the_terminal),
		TEST(writes_of_many_threads_stay_whole),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
