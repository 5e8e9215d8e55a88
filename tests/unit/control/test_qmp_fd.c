// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Descriptors that a QMP client passes: getfd, closefd, and who takes one by its name.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/log.h"
#include "control/qmp_fd.h"

#include "qmp_session.h"

#define GETFD(name) "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"" name "\"}}"
#define CLOSEFD(name) "{\"execute\":\"closefd\",\"arguments\":{\"fdname\":\"" name "\"}}"
#define DUMP(name)                                                                                   \
	"{\"execute\":\"dump-guest-memory\",\"arguments\":{\"paging\":false,\"protocol\":\"fd:" name \
	"\"}}"
#define NONE "No file descriptor supplied via SCM_RIGHTS"

/* Sends the text with n copies of this descriptor. */
static void send_fds(struct setup *s, const char *text, int fd, unsigned int n)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(200 * sizeof(int))];
	} control = { 0 };
	struct iovec iov = { (char *)text, strlen(text) };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = &control,
			      .msg_controllen = CMSG_SPACE(n * sizeof(int)) };
	unsigned int i;

	control.header = (struct cmsghdr){ .cmsg_len = CMSG_LEN(n * sizeof(int)),
					   .cmsg_level = SOL_SOCKET,
					   .cmsg_type = SCM_RIGHTS };
	for (i = 0; i < n; i++)
		memcpy(CMSG_DATA(&control.header) + i * sizeof(fd), &fd, sizeof(fd));
	assert_int_equal(sendmsg(s->fd, &msg, 0), (ssize_t)strlen(text));
}

/* The next reply: is it "return", or "error"? */
static void answered(struct setup *s, const char *member)
{
	json_t *reply = receive(s);

	assert_non_null(json_object_get(reply, member));
	json_decref(reply);
}

/* How many of this process's descriptors are of that file. */
static unsigned int open_of(int fd)
{
	struct stat st, other;
	unsigned int n = 0;
	int i;

	assert_int_equal(fstat(fd, &st), 0);
	for (i = 0; i < 1024; i++)
		n += !fstat(i, &other) && other.st_dev == st.st_dev && other.st_ino == st.st_ino;
	return n;
}

static void a_descriptor_gets_a_name_and_is_closed(void **state)
{
	struct setup *s = *state;
	int fd = memfd_create("passed", MFD_CLOEXEC);

	ask(s, "{\"execute\":\"qmp_capabilities\"}", "{\"return\":{}}");
	ask_error(s, GETFD("a"), "GenericError", NONE);
	ask_error(s, CLOSEFD("a"), "GenericError", "File descriptor named 'a' not found");
	send_fds(s, GETFD("a"), fd, 1);
	answered(s, "return");
	assert_int_equal(open_of(fd), 2);
	/* Another in its place; the first of many, and none of the others. */
	send_fds(s, GETFD("a"), fd, 60);
	answered(s, "return");
	assert_int_equal(open_of(fd), 2);
	ask_error(s, GETFD("b"), "GenericError", NONE);
	/* A name that cannot be: it is closed. */
	send_fds(s, GETFD("7"), fd, 1);
	answered(s, "error");
	assert_int_equal(open_of(fd), 2);
	ask_error(s, GETFD("b"), "GenericError", NONE);
	ask(s, CLOSEFD("a"), "{\"return\":{}}");
	assert_int_equal(open_of(fd), 1);
	ask_error(s, CLOSEFD("a"), "GenericError", "File descriptor named 'a' not found");
	close(fd);
}

static bool only_ours(void *fd)
{
	return open_of(*(int *)fd) == 1;
}

/* They may come with any part of any message, and many at a time. */
static void they_come_with_whatever_is_sent(void **state)
{
	static const char text[] = "{\"execute\":\"query-name\"} " GETFD("a");
	struct setup *s = *state;
	int fd = memfd_create("passed", MFD_CLOEXEC), other = memfd_create("other", MFD_CLOEXEC);

	ask(s, "{\"execute\":\"qmp_capabilities\"}", "{\"return\":{}}");
	send_fds(s, text, fd, 1);
	answered(s, "return");
	answered(s, "return");
	/* The last that came counts, the one before is closed. */
	send_fds(s, "{\"execute\":\"query-name\"}", other, 200);
	answered(s, "return");
	send_fds(s, " ", fd, 1);
	ask(s, GETFD("b"), "{\"return\":{}}");
	assert_int_equal(open_of(other), 1);
	assert_int_equal(open_of(fd), 3);
	/* With its connection they go. */
	send_fds(s, " ", fd, 1);
	close(s->fd);
	connect_client(s);
	answered(s, "QMP");
	ask(s, "{\"execute\":\"qmp_capabilities\"}", "{\"return\":{}}");
	ask_error(s, CLOSEFD("a"), "GenericError", "File descriptor named 'a' not found");
	fake_pump(s->machine, -1, only_ours, &fd);
	close(fd);
	close(other);
}

static void names_are_bounded(void **state)
{
	char text[256], name[QMP_FD_NAME_MAX + 2];
	struct setup *s = *state;
	int fd = memfd_create("passed", MFD_CLOEXEC), i;

	ask(s, "{\"execute\":\"qmp_capabilities\"}", "{\"return\":{}}");
	for (i = 0; i <= QMP_FDS_MAX; i++) {
		snprintf(text, sizeof(text), GETFD("fd%d"), i);
		send_fds(s, text, fd, 1);
		answered(s, i < QMP_FDS_MAX ? "return" : "error");
	}
	assert_int_equal(open_of(fd), 1 + QMP_FDS_MAX);
	ask(s, CLOSEFD("fd7"), "{\"return\":{}}");
	memset(name, 'x', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	snprintf(text, sizeof(text), GETFD("%s"), name);
	send_fds(s, text, fd, 1);
	answered(s, "error");
	send_fds(s, GETFD(""), fd, 1);
	answered(s, "error");
	snprintf(text, sizeof(text), GETFD("%s"), name + 1);
	send_fds(s, text, fd, 1);
	answered(s, "return");
	assert_int_equal(open_of(fd), 1 + QMP_FDS_MAX);
	close(fd);
}

static void a_dump_takes_its_descriptor(void **state)
{
	struct setup *s = *state;
	int fd = memfd_create("passed", MFD_CLOEXEC);

	ask(s, "{\"execute\":\"qmp_capabilities\"}", "{\"return\":{}}");
	ask_error(s, DUMP("core"), "GenericError", "File descriptor named 'core' not found");
	send_fds(s, GETFD("core"), fd, 1);
	answered(s, "return");
	ask(s, DUMP("core"), "{\"return\":{}}");
	ask_error(s, CLOSEFD("core"), "GenericError", "File descriptor named 'core' not found");
	close(fd);
}

/* Nobody waits for what a descriptor still has to bring. */
static void what_is_whole_is_known(void **state)
{
	int fds[2], fd = memfd_create("file", MFD_CLOEXEC);

	(void)state;
	assert_true(qmp_fd_is_whole(fd));
	close(fd);
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	assert_false(qmp_fd_is_whole(fds[0]));
	assert_int_equal(write(fds[1], "x", 1), 1);
	assert_false(qmp_fd_is_whole(fds[0]));
	close(fds[1]);
	assert_true(qmp_fd_is_whole(fds[0]));
	close(fds[0]);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(write(fds[1], "x", 1), 1);
	assert_false(qmp_fd_is_whole(fds[0]));
	shutdown(fds[1], SHUT_WR);
	assert_true(qmp_fd_is_whole(fds[0]));
	close(fds[0]);
	close(fds[1]);
	assert_false(qmp_fd_is_whole(-1));
}

static int set_up_greeted(void **state)
{
	int r = set_up(state);

	if (!r)
		answered(*state, "QMP");
	return r;
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up_greeted, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(a_descriptor_gets_a_name_and_is_closed),
		TEST(they_come_with_whatever_is_sent),
		TEST(names_are_bounded),
		TEST(a_dump_takes_its_descriptor),
		cmocka_unit_test(what_is_whole_is_known),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
