// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * A chardev that is a listening unix socket: who is heard, and who waits.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "line.h"
#include "tests/unit/crowd.h"

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

static int dial(const struct line *l)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	strcpy(addr.sun_path, l->path);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

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

/*
 * The kernel tells of output that nobody reads any more as an error, before all
 * of the input has been read.
 */
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
	struct err err;
	int fd;

	assert_int_equal(open_as(l, "unix:", &err), 0);
	uv_run(loop_uv(l->loop), UV_RUN_NOWAIT);
	fd = dial(l);
	assert_in_range(turns_without_descriptor(loop_uv(l->loop), fd), 1, 20);
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

/* Reads so many bytes of what the far side gets. */
static void get(struct line *l, int fd, uint8_t *got, size_t len)
{
	size_t have = 0;

	run_until(l, (have += drain(fd, got + have, len - have)) == len);
}

#define MARK "\r\n[postern: 123456 bytes are missing here]\r\n"

static void who_comes_late_gets_the_newest_and_is_told_of_the_rest(void **state)
{
	static uint8_t said[CHARDEV_RING_BYTES + 123456];
	static uint8_t got[sizeof(MARK) - 1 + CHARDEV_RING_BYTES];
	struct line *l = *state;
	struct err err;
	size_t i;
	int fd;

	for (i = 0; i < sizeof(said); i++)
		said[i] = (uint8_t)(i / 1000);
	assert_int_equal(open_as(l, "unix:", &err), 0);
	chardev_write(l->chardev, said, CHARDEV_RING_BYTES);
	assert_int_equal(chardev_dropped(l->chardev), 0);
	chardev_write(l->chardev, said + CHARDEV_RING_BYTES, 123456);
	assert_int_equal(chardev_dropped(l->chardev), 123456);
	fd = dial(l);
	get(l, fd, got, sizeof(got));
	assert_memory_equal(got, MARK, sizeof(MARK) - 1);
	assert_memory_equal(got + sizeof(MARK) - 1, said + 123456, CHARDEV_RING_BYTES);
	say(l, "after");
	expect(l, fd, "after");
	close(fd);
}

/*
 * One that is connected and does not read: what was sent stands, then the mark,
 * then the last words.
 */
static void who_reads_again_gets_the_last_words(void **state)
{
	static uint8_t block[4096];
	static char got[8 << 20];
	struct line *l = *state;
	const char *mark;
	size_t i, len = 0;
	struct err err;
	int fd;

	memset(block, 'x', sizeof(block));
	assert_int_equal(open_as(l, "unix:", &err), 0);
	fd = dial(l);
	for (i = 0; i < 512; i++) {
		chardev_write(l->chardev, block, sizeof(block));
		uv_run(loop_uv(l->loop), UV_RUN_NOWAIT);
	}
	assert_true(chardev_dropped(l->chardev) > 0);
	say(l, "Kernel panic - not syncing");
	run_until(l, (len += drain(fd, (uint8_t *)got + len, sizeof(got) - 1 - len)) &&
		  strstr(got, "not syncing"));
	mark = strstr(got, "\r\n[postern: ");
	assert_non_null(mark);
	assert_int_equal(strtoull(mark + strlen("\r\n[postern: "), NULL, 10),
			 chardev_dropped(l->chardev));
	assert_memory_equal(got + len - strlen("Kernel panic - not syncing"),
			    "Kernel panic - not syncing", strlen("Kernel panic - not syncing"));
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
		TEST(a_client_gets_what_was_said_before_it_came),
		TEST(the_next_client_comes_when_the_first_has_gone),
		TEST(who_sends_and_leaves_is_heard),
		TEST(who_leaves_output_unread_makes_room),
		TEST(a_system_without_memory_is_waited_for),
		TEST(a_client_waits_for_a_descriptor),
		TEST(refused_input_is_offered_again),
		TEST(who_comes_late_gets_the_newest_and_is_told_of_the_rest),
		TEST(who_reads_again_gets_the_last_words),
		TEST(a_stale_socket_goes_a_live_one_stays),
		TEST(a_file_in_the_socket_s_place_is_not_ours),
		TEST(writes_of_many_threads_stay_whole),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
