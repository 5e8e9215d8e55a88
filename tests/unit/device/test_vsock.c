// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Virtio sockets: who calls whom, who is let in, and what ends a call.
 */
#include <signal.h>
#include <sys/stat.h>

#include "base/log.h"
#include "device/virtio/vsock_host.h"
#include "tests/unit/crowd.h"
#include "vsock_world.h"

/* The device's clock goes so far ahead of the loop's. */
static int64_t ahead_ns;

int __real_clock_gettime(clockid_t clock, struct timespec *to);
int __wrap_clock_gettime(clockid_t clock, struct timespec *to);

int __wrap_clock_gettime(clockid_t clock, struct timespec *to)
{
	int r = __real_clock_gettime(clock, to);

	to->tv_sec += ahead_ns / NS_PER_SEC;
	return r;
}

static int call(struct world *w)
{
	int fd = host_dial(w);

	assert_int_equal(write(fd, "CONNECT 5000\n", 13), 13);
	small_turn(w->s);
	return fd;
}

/* It waits, through the reset that a driver begins with, and is answered. */
static void a_call_before_the_driver_waits_for_it(void **state)
{
	struct world w = world_late(false);
	int fd[3], i;
	char line[32] = { 0 }, want[32];
	struct packet p;

	(void)state;
	for (i = 0; i < 3; i++) {
		fd[i] = call(&w);
	}
	/* One hangs up meanwhile: the guest never hears of it. */
	close(fd[1]);
	small_turn(w.s);
	small_put(w.s->dev, VIRTIO_PCI_COMMON_STATUS, 0, 1);
	small_turn(w.s);
	small_start(w.s, 0);
	for (i = 0; i < 4; i++)
		give_buffer(&w);
	w.guest_port = 5000;
	for (i = 0; i < 3; i += 2) {
		p = expect_op(&w, VIRTIO_VSOCK_OP_REQUEST);
		w.host_port = p.h.src_port;
		guest_send(&w, VIRTIO_VSOCK_OP_RESPONSE, 0, NULL, 0);
		snprintf(want, sizeof(want), "OK %u\n", w.host_port);
		/* Whose turn it is, is the device's matter. */
		small_until(w.s, recv(fd[0], line, strlen(want), MSG_DONTWAIT) > 0 ||
					 recv(fd[2], line, strlen(want), MSG_DONTWAIT) > 0);
		assert_string_equal(line, want);
	}
	expect_silence(&w);
	close(fd[0]);
	close(fd[2]);
	world_free(&w);
}

/* A call, and its time goes by until the device has looked: is it there still? */
static bool call_outlasts(struct world *w, int fd, int64_t seconds)
{
	char byte;

	ahead_ns += seconds * NS_PER_SEC;
	uv_run(loop_uv(w->s->loop), UV_RUN_ONCE);
	small_turn(w->s);
	return recv(fd, &byte, 1, MSG_DONTWAIT) < 0;
}

static void a_call_that_no_driver_takes_ends(void **state)
{
	struct world w = world_late(false);
	int fd = call(&w);

	(void)state;
	assert_true(call_outlasts(&w, fd, 50));
	ahead_ns += 20 * NS_PER_SEC;
	expect_end(&w, fd);
	close(fd);
	/* While the machine does not run, no time passes for its guest. */
	fd = call(&w);
	vdev_stop(w.s->dev);
	assert_true(call_outlasts(&w, fd, 3600));
	vdev_start(w.s->dev);
	assert_true(call_outlasts(&w, fd, 50));
	/* A driver that is up may take its time. */
	small_start(w.s, 0);
	assert_true(call_outlasts(&w, fd, 3600));
	give_buffer(&w);
	w.guest_port = 5000;
	expect_op(&w, VIRTIO_VSOCK_OP_REQUEST);
	world_free(&w);
	close(fd);
}

static void the_host_reaches_the_guest(void **state)
{
	struct world w = world_new(8);
	int fd = host_calls(&w);
	char text[8] = { 0 };
	struct packet p;
	struct stat st;

	(void)state;
	assert_int_equal(small_get(w.s->dev, SMALL_CONFIG, 8), CID);
	assert_int_equal(stat(w.path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(write(fd, "hello", 5), 5);
	p = expect_op(&w, VIRTIO_VSOCK_OP_RW);
	assert_int_equal(p.h.len, 5);
	assert_memory_equal(p.data, "hello", 5);
	guest_send(&w, VIRTIO_VSOCK_OP_RW, 0, "world", 5);
	assert_int_equal(host_read(&w, fd, text, 5), 5);
	assert_string_equal(text, "world");
	/* The host ends its direction; the guest still sends, then ends too. */
	assert_int_equal(write(fd, "last", 4), 4);
	shutdown(fd, SHUT_WR);
	assert_int_equal(expect_op(&w, VIRTIO_VSOCK_OP_RW).h.len, 4);
	p = expect_op(&w, VIRTIO_VSOCK_OP_SHUTDOWN);
	assert_int_equal(p.h.flags, VIRTIO_VSOCK_SHUTDOWN_SEND);
	assert_int_equal(p.h.fwd_cnt, 5);
	guest_send(&w, VIRTIO_VSOCK_OP_RW, 0, "after", 5);
	guest_send(&w, VIRTIO_VSOCK_OP_SHUTDOWN, VSOCK_BOTH, NULL, 0);
	assert_int_equal(host_read(&w, fd, text, 5), 5);
	assert_string_equal(text, "after");
	expect_end(&w, fd);
	expect_op(&w, VIRTIO_VSOCK_OP_RST);
	guest_send(&w, VIRTIO_VSOCK_OP_RW, 0, "gone", 4);
	expect_op(&w, VIRTIO_VSOCK_OP_RST);
	close(fd);
	world_free(&w);
}

static void the_guest_reaches_the_host(void **state)
{
	struct world w = world_new(8);
	int fd = guest_calls(&w);
	char text[8] = { 0 };

	(void)state;
	guest_send(&w, VIRTIO_VSOCK_OP_RW, 0, "hello", 5);
	guest_send(&w, VIRTIO_VSOCK_OP_SHUTDOWN, VIRTIO_VSOCK_SHUTDOWN_SEND, NULL, 0);
	assert_int_equal(host_read(&w, fd, text, 5), 5);
	assert_string_equal(text, "hello");
	expect_end(&w, fd);
	assert_int_equal(write(fd, "answer", 6), 6);
	close(fd);
	assert_memory_equal(expect_op(&w, VIRTIO_VSOCK_OP_RW).data, "answer", 6);
	assert_int_equal(expect_op(&w, VIRTIO_VSOCK_OP_SHUTDOWN).h.flags, VSOCK_BOTH);
	guest_send(&w, VIRTIO_VSOCK_OP_RST, 0, NULL, 0);
	expect_silence(&w);
	/* Where nobody listens. */
	w.host_port = 7001;
	guest_send(&w, VIRTIO_VSOCK_OP_REQUEST, 0, NULL, 0);
	expect_op(&w, VIRTIO_VSOCK_OP_RST);
	world_free(&w);
}

static void a_caller_that_is_refused_or_goes_is_closed(void **state)
{
	struct world w = world_new(8);
	int fd = host_dial(&w);

	(void)state;
	assert_int_equal(write(fd, "CONNECT 5000\n", 13), 13);
	w.guest_port = 5000;
	w.host_port = expect_op(&w, VIRTIO_VSOCK_OP_REQUEST).h.src_port;
	guest_send(&w, VIRTIO_VSOCK_OP_RST, 0, NULL, 0);
	expect_end(&w, fd);
	close(fd);
	/* It goes before the guest has answered. */
	fd = host_dial(&w);
	assert_int_equal(write(fd, "CONNECT 5000\n", 13), 13);
	expect_op(&w, VIRTIO_VSOCK_OP_REQUEST);
	close(fd);
	expect_op(&w, VIRTIO_VSOCK_OP_RST);
	/* It has said all that it will say, with its first line. */
	fd = host_dial(&w);
	assert_int_equal(write(fd, "CONNECT 5000\nquestion", 21), 21);
	shutdown(fd, SHUT_WR);
	w.host_port = expect_op(&w, VIRTIO_VSOCK_OP_REQUEST).h.src_port;
	expect_silence(&w);
	guest_send(&w, VIRTIO_VSOCK_OP_RESPONSE, 0, NULL, 0);
	assert_memory_equal(expect_op(&w, VIRTIO_VSOCK_OP_RW).data, "question", 8);
	assert_int_equal(expect_op(&w, VIRTIO_VSOCK_OP_SHUTDOWN).h.flags,
			 VIRTIO_VSOCK_SHUTDOWN_SEND);
	close(fd);
	world_free(&w);
}

/* There is no descriptor for another client: it waits, and the loop does not run in circles. */
static void a_client_waits_for_a_descriptor(void **state)
{
	struct world w = world_new(8);
	int fd;

	(void)state;
	fd = host_dial(&w);
	assert_in_range(turns_without_descriptor(loop_uv(w.s->loop), fd), 1, 20);
	w.guest_port = 5000;
	assert_int_equal(write(fd, "CONNECT 5000\n", 13), 13);
	expect_op(&w, VIRTIO_VSOCK_OP_REQUEST);
	close(fd);
	world_free(&w);
}

static void greetings_are_short_and_few(void **state)
{
	static const char *const bad[] = { "HELLO\n", "G", "POST / HTTP/1.1\r\n", "CONNECTED",
					    "CONNECT \n", "CONNECT x\n", "CONNECT 4294967296\n", "CONNECT 1 2\n", "\n",
					   "CONNECT 00000000000000000000000000000001\n" };
	struct world w = world_new(8);
	int fd, idle[VSOCK_GREETINGS_MAX + 4];
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		fd = host_dial(&w);
		assert_int_equal(write(fd, bad[i], strlen(bad[i])), strlen(bad[i]));
		expect_end(&w, fd);
		close(fd);
	}
	expect_silence(&w);
	/* More than are greeted at a time: the others wait, and come when one has gone. */
	for (i = 0; i < sizeof(idle) / sizeof(idle[0]); i++) {
		idle[i] = host_dial(&w);
		small_turn(w.s);
	}
	w.guest_port = 5000;
	assert_int_equal(write(idle[i - 1], "CONNECT 5000\n", 13), 13);
	expect_silence(&w);
	for (i = 0; i < 4; i++)
		close(idle[i]);
	expect_op(&w, VIRTIO_VSOCK_OP_REQUEST);
	for (; i < sizeof(idle) / sizeof(idle[0]); i++)
		close(idle[i]);
	world_free(&w);
}

static void options_say_what_is_allowed(void **state)
{
	static const char *const bad[] = { "",
					   "cid=3",
					   "cid=2,socket=/a",
					   "cid=4294967295,socket=/a",
					   "cid=3,socket=",
					   "socket=/a,cid=3",
					   "cid=x,socket=/a",
					   "cid=,socket=/a",
					   "cid=3,socket=/a,sever=on" };
	struct vsock_options options;
	char text[200];
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(vsock_options_parse(&options, bad[i], &err), -EINVAL);
		assert_non_null(strstr(err.text, "cid=N,socket=PATH"));
	}
	assert_int_equal(vsock_options_parse(&options, "cid=4294967294,socket=/run/a,b", &err), 0);
	assert_int_equal(options.cid, 4294967294u);
	assert_string_equal(options.path, "/run/a,b");
	/* With the longest port behind it. */
	snprintf(text, sizeof(text), "cid=3,socket=/%095d", 1);
	assert_int_equal(vsock_options_parse(&options, text, &err), 0);
	snprintf(text, sizeof(text), "cid=3,socket=/%096d", 1);
	assert_int_equal(vsock_options_parse(&options, text, &err), -ENAMETOOLONG);
}

static void a_socket_that_is_in_use_is_left_alone(void **state)
{
	struct world w = world_new(0);
	const struct vdev_env env = { .mem = w.s->mem,
				      .loop = w.s->loop,
				      .msi = { &fake_msi_ops, &w.s->msi } };
	struct vdev *dev;
	char text[96];
	struct err err;

	(void)state;
	snprintf(text, sizeof(text), "cid=3,socket=%s", w.path);
	assert_int_equal(vsock_type.make(&dev, &env, text, 0, &err), -EADDRINUSE);
	assert_non_null(strstr(err.text, w.path));
	assert_int_equal(access(w.path, F_OK), 0);
	assert_true(vsock_type.make(&dev, &env, "cid=3,socket=/nonexistent/x", 0, &err) < 0);
	world_free(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_host_reaches_the_guest),
		cmocka_unit_test(the_guest_reaches_the_host),
		cmocka_unit_test(a_caller_that_is_refused_or_goes_is_closed),
		cmocka_unit_test(a_call_before_the_driver_waits_for_it),
		cmocka_unit_test(a_call_that_no_driver_takes_ends),
		cmocka_unit_test(a_client_waits_for_a_descriptor),
		cmocka_unit_test(greetings_are_short_and_few),
		cmocka_unit_test(options_say_what_is_allowed),
		cmocka_unit_test(a_socket_that_is_in_use_is_left_alone),
	};

	signal(SIGPIPE, SIG_IGN);
	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
