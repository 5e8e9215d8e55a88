// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * What base/conn.h promises, of a plain socket and of the toy, which reads
 * ahead, has a hello of its own, and whose descriptor is no socket.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/conn_socket.h"
#include "base/conn_watch.h"
#include "tests/unit/toy_conn.h"

#define STREAM_BYTES (3u << 20)

/* Both ends of a connection. */
struct ends {
	struct conn *a, *b;
	struct toy_wrapper toys;
	bool is_toy;
};

static int ends_new(void **state, bool is_toy)
{
	struct ends *e = calloc(1, sizeof(*e));
	struct conn *inner;
	int fd[2];

	toy_wrapper_init(&e->toys);
	e->is_toy = is_toy;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
	assert_int_equal(conn_socket_new(&e->a, fd[0], NULL), 0);
	assert_int_equal(conn_socket_new(&e->b, fd[1], NULL), 0);
	if (is_toy) {
		inner = e->a;
		assert_int_equal(e->toys.wrapper.wrap(&e->toys.wrapper, &e->a, inner, false, NULL),
				 0);
		inner = e->b;
		assert_int_equal(e->toys.wrapper.wrap(&e->toys.wrapper, &e->b, inner, true, NULL),
				 0);
	}
	*state = e;
	return 0;
}

static int plain_setup(void **state)
{
	return ends_new(state, false);
}

static int toy_setup(void **state)
{
	return ends_new(state, true);
}

static int teardown(void **state)
{
	struct ends *e = *state;

	conn_free(e->a);
	conn_free(e->b);
	assert_int_equal(e->toys.made, e->toys.freed);
	free(e);
	return 0;
}

static uint8_t byte_at(uint64_t at)
{
	return (uint8_t)(at * 31 + at / 4099);
}

/* Sends what it takes of the next bytes of a stream, in two pieces; the new place. */
static uint64_t send_some(struct conn *conn, uint64_t at, unsigned int flags)
{
	uint8_t bytes[8192];
	struct iovec iov[2] = { { bytes, 100 }, { bytes + 100, sizeof(bytes) - 100 } };
	struct err err = { .code = 1 };
	ssize_t sent;
	size_t i;

	for (i = 0; i < sizeof(bytes); i++)
		bytes[i] = byte_at(at + i);
	sent = conn_send(conn, iov, 2, flags, &err);
	if (sent == -EAGAIN) {
		assert_true(flags & CONN_NOWAIT);
		assert_int_equal(err.code, 1);
		return at;
	}
	assert_in_range(sent, 1, sizeof(bytes));
	return at + (uint64_t)sent;
}

static uint64_t receive_some(struct conn *conn, uint64_t at, unsigned int flags)
{
	uint8_t bytes[5000];
	size_t len = 1 + at * 7 % sizeof(bytes), pending = conn_pending(conn), i;
	struct err err = { .code = 1 };
	ssize_t got = conn_receive(conn, bytes, len, flags, &err);

	if (got == -EAGAIN) {
		assert_true(flags & CONN_NOWAIT);
		assert_int_equal(err.code, 1);
		assert_int_equal(pending, 0);
		assert_int_equal(conn_pending(conn), 0);
		return at;
	}
	assert_in_range(got, 1, len);
	for (i = 0; i < (size_t)got; i++)
		assert_int_equal(bytes[i], byte_at(at + i));
	return at + (uint64_t)got;
}

static bool is_ready(struct conn *conn, unsigned int wanted)
{
	struct pollfd fd = { .fd = conn_fd(conn), .events = conn_events(conn, wanted) };

	return poll(&fd, 1, 0) > 0;
}

/* As much as it takes; the new place. */
static uint64_t send_all_now(struct conn *conn, uint64_t at, uint64_t until)
{
	uint64_t before;

	do {
		before = at;
		at = send_some(conn, at, CONN_NOWAIT);
	} while (at > before && at < until);
	return at;
}

/* Without any wait, and only where a poll or something pending says that there may be work. */
static void test_bytes_arrive_without_waiting(void **state)
{
	struct ends *e = *state;
	uint64_t sent = 0, got = 0, back = 0, home = 0;
	int64_t end = clock_now_ns() + 60 * NS_PER_SEC;

	while (home < STREAM_BYTES) {
		assert_true(clock_now_ns() < end);
		if (sent < STREAM_BYTES && is_ready(e->a, CONN_SEND))
			sent = send_all_now(e->a, sent, STREAM_BYTES);
		if (conn_pending(e->b) || is_ready(e->b, CONN_RECEIVE))
			got = receive_some(e->b, got, CONN_NOWAIT);
		/* Of the same bytes, so that nothing has to be kept. */
		if (back < got && is_ready(e->b, CONN_SEND))
			back = send_all_now(e->b, back, got);
		if (conn_pending(e->a) || is_ready(e->a, CONN_RECEIVE))
			home = receive_some(e->a, home, CONN_NOWAIT);
	}
	if (e->is_toy) {
		assert_true(e->toys.parts > 100);
		assert_true(e->toys.hellos_awaited > 0);
		assert_true(e->toys.halves > 0);
	}
}

struct mover {
	pthread_t thread;
	struct conn *conn;
	uint64_t bytes;
	ssize_t ended; /* with this */
};

static void *sender_main(void *arg)
{
	struct mover *m = arg;
	uint64_t at = 0;

	while (at < m->bytes)
		at = send_some(m->conn, at, 0);
	return NULL;
}

/* Two threads an end, all waiting. */
static void test_bytes_arrive_with_waiting_in_both_directions(void **state)
{
	struct ends *e = *state;
	struct mover from_a = { .conn = e->a, .bytes = STREAM_BYTES },
		     from_b = { .conn = e->b, .bytes = STREAM_BYTES };
	uint64_t at_a = 0, at_b = 0;

	assert_int_equal(pthread_create(&from_a.thread, NULL, sender_main, &from_a), 0);
	assert_int_equal(pthread_create(&from_b.thread, NULL, sender_main, &from_b), 0);
	while (at_a < STREAM_BYTES || at_b < STREAM_BYTES) {
		if (at_a < STREAM_BYTES)
			at_a = receive_some(e->a, at_a, 0);
		if (at_b < STREAM_BYTES)
			at_b = receive_some(e->b, at_b, 0);
	}
	pthread_join(from_a.thread, NULL);
	pthread_join(from_b.thread, NULL);
}

/* libuv makes whatever it watches non-blocking. */
static void test_a_call_that_waits_does_so_on_a_nonblocking_descriptor(void **state)
{
	struct ends *e = *state;
	struct mover from_a = { .conn = e->a, .bytes = STREAM_BYTES };
	uint64_t at = 0;

	assert_int_equal(fcntl(conn_fd(e->a), F_SETFL, O_NONBLOCK), 0);
	assert_int_equal(fcntl(conn_fd(e->b), F_SETFL, O_NONBLOCK), 0);
	assert_int_equal(pthread_create(&from_a.thread, NULL, sender_main, &from_a), 0);
	while (at < STREAM_BYTES)
		at = receive_some(e->b, at, 0);
	pthread_join(from_a.thread, NULL);
}

static void *receiver_main(void *arg)
{
	struct mover *m = arg;
	uint8_t byte;

	m->ended = conn_receive(m->conn, &byte, 1, 0, NULL);
	return NULL;
}

static void *stuffer_main(void *arg)
{
	struct mover *m = arg;
	static uint8_t bytes[65536];
	struct iovec iov = { bytes, sizeof(bytes) };

	do
		m->ended = conn_send(m->conn, &iov, 1, 0, NULL);
	while (m->ended > 0);
	return NULL;
}

static void hear_hello(struct ends *e)
{
	uint8_t byte = 1;
	struct iovec iov = { &byte, 1 };

	conn_receive(e->a, &byte, 1, CONN_NOWAIT, NULL);
	conn_receive(e->b, &byte, 1, CONN_NOWAIT, NULL);
	assert_int_equal(conn_send(e->a, &iov, 1, 0, NULL), 1);
	assert_int_equal(conn_receive(e->b, &byte, 1, 0, NULL), 1);
}

static void test_shutdown_ends_whoever_waits(void **state)
{
	struct ends *e = *state;
	struct mover receiver = { .conn = e->a, .ended = 1 }, sender = { .conn = e->a };
	int64_t start;

	hear_hello(e);
	assert_int_equal(pthread_create(&receiver.thread, NULL, receiver_main, &receiver), 0);
	assert_int_equal(pthread_create(&sender.thread, NULL, stuffer_main, &sender), 0);
	/* Until nothing fits any more. */
	while (conn_unsent(e->a) < 65536)
		sched_yield();
	start = clock_now_ns();
	conn_shutdown(e->a);
	conn_shutdown(e->a);
	pthread_join(receiver.thread, NULL);
	pthread_join(sender.thread, NULL);
	assert_true(clock_now_ns() - start < 5 * NS_PER_SEC);
	assert_int_equal(receiver.ended, 0);
	assert_int_equal(sender.ended, -EPIPE);
}

static void test_what_was_sent_before_the_end_arrives(void **state)
{
	struct ends *e = *state;
	uint64_t sent = 0, got = 0;
	uint8_t byte = 0;
	struct iovec iov = { &byte, 1 };
	struct err err;

	hear_hello(e);
	while (sent < 50000)
		sent = send_some(e->a, sent, 0);
	conn_finish(e->a);
	assert_int_equal(conn_send(e->a, &iov, 1, 0, &err), -EPIPE);
	assert_int_equal(err.code, -EPIPE);
	while (got < sent)
		got = receive_some(e->b, got, 0);
	assert_int_equal(conn_receive(e->b, &byte, 1, 0, &err), 0);
	/* The other direction is open. */
	assert_int_equal(conn_send(e->b, &iov, 1, 0, NULL), 1);
	assert_int_equal(conn_receive(e->a, &byte, 1, 0, NULL), 1);
}

static void test_what_is_under_way_is_counted(void **state)
{
	struct ends *e = *state;
	uint64_t got = 0;

	hear_hello(e);
	assert_int_equal(conn_unsent(e->a), 0);
	assert_true(send_some(e->a, 0, 0) > 1000);
	assert_true(conn_unsent(e->a) > 1000);
	while (conn_pending(e->b) || is_ready(e->b, CONN_RECEIVE))
		got = receive_some(e->b, got, CONN_NOWAIT);
	assert_int_equal(conn_unsent(e->a), 0);
}

/* ---- watched by a loop ---- */

struct watched {
	struct loop *loop;
	struct conn_watch *watch;
	struct conn *conn;
	uint64_t got;
	unsigned int calls, in_vain, hangups, closed;
	unsigned int free_at; /* the how manieth call frees the watch; 0: none */
	bool idle; /* receives nothing */
};

static void on_closed(void *arg)
{
	((struct watched *)arg)->closed++;
}

static void on_ready(void *arg, unsigned int ready)
{
	struct watched *w = arg;
	uint64_t before = w->got;

	w->calls++;
	w->hangups += !!(ready & CONN_HANGUP);
	if (ready & CONN_RECEIVE && !w->idle) {
		w->got = receive_some(w->conn, w->got, CONN_NOWAIT);
		w->in_vain += w->got == before;
	}
	if (w->calls == w->free_at) {
		conn_watch_free(w->watch, on_closed);
		assert_int_equal(w->closed, 0);
		w->watch = NULL;
	}
}

static void watched_init(struct watched *w, struct conn *conn, unsigned int wanted)
{
	*w = (struct watched){ .conn = conn };
	assert_int_equal(loop_new(&w->loop, NULL), 0);
	assert_int_equal(conn_watch_new(&w->watch, w->loop, conn, on_ready, w, NULL), 0);
	conn_watch_set(w->watch, wanted);
}

static void watched_fini(struct watched *w)
{
	conn_watch_free(w->watch, on_closed);
	loop_free(w->loop);
	assert_int_equal(w->closed, 1);
}

static void turn(struct watched *w)
{
	uv_run(loop_uv(w->loop), UV_RUN_NOWAIT);
}

/* One receive a call, and no poll for what is pending: it is told all the same. */
static void test_a_watch_tells_of_what_no_poll_shows(void **state)
{
	struct ends *e = *state;
	struct watched w;
	uint64_t sent = 0;
	int64_t end = clock_now_ns() + 60 * NS_PER_SEC;

	watched_init(&w, e->b, CONN_RECEIVE);
	/* The hello's two halves. */
	while (!sent) {
		sent = send_some(e->a, sent, CONN_NOWAIT);
		turn(&w);
	}
	while (sent < 30000)
		sent = send_some(e->a, sent, 0);
	while (w.got < sent) {
		turn(&w);
		assert_true(clock_now_ns() < end);
	}
	/* And then there is rest. */
	turn(&w);
	w.calls = 0;
	turn(&w);
	turn(&w);
	assert_int_equal(w.calls, 0);
	/* One that is not asked to tell does not. */
	conn_watch_set(w.watch, 0);
	send_some(e->a, sent, 0);
	turn(&w);
	assert_int_equal(w.calls, 0);
	conn_watch_set(w.watch, CONN_RECEIVE);
	turn(&w);
	assert_true(w.calls > 0);
	watched_fini(&w);
}

static void test_a_watch_calls_again_once_where_it_is_asked_to(void **state)
{
	struct ends *e = *state;
	struct watched w;

	watched_init(&w, e->b, CONN_RECEIVE);
	hear_hello(e);
	turn(&w);
	w.calls = 0;
	w.idle = true;
	conn_watch_again(w.watch);
	assert_int_equal(w.calls, 0);
	turn(&w);
	assert_int_equal(w.calls, 1);
	turn(&w);
	assert_int_equal(w.calls, 1);
	watched_fini(&w);
}

static void test_a_watch_may_end_within_its_call(void **state)
{
	struct ends *e = *state;
	struct watched w;

	hear_hello(e);
	watched_init(&w, e->b, CONN_RECEIVE);
	w.free_at = 2;
	send_some(e->a, 0, 0);
	while (w.calls < 2)
		turn(&w);
	turn(&w);
	assert_int_equal(w.closed, 1);
	assert_int_equal(w.calls, 2);
	watched_fini(&w);
}

static void test_a_watch_tells_that_the_peer_has_gone(void **state)
{
	struct ends *e = *state;
	struct watched w;
	int64_t end = clock_now_ns() + 10 * NS_PER_SEC;

	hear_hello(e);
	watched_init(&w, e->b, CONN_HANGUP);
	w.idle = true;
	send_some(e->a, 0, 0);
	turn(&w);
	assert_int_equal(w.calls, 0);
	conn_finish(e->a);
	while (!w.calls) {
		turn(&w);
		assert_true(clock_now_ns() < end);
	}
	/* In whatever way its descriptor can say it. */
	assert_true(w.hangups > 0);
	watched_fini(&w);
}

int main(void)
{
#define T(test)                                                   \
	{ #test " (socket)", test, plain_setup, teardown, NULL }, \
	{                                                         \
#test " (toy)", test, toy_setup, teardown, NULL   \
	}
	const struct CMUnitTest tests[] = {
		T(test_bytes_arrive_without_waiting),
		T(test_bytes_arrive_with_waiting_in_both_directions),
		{ "test_a_call_that_waits_does_so_on_a_nonblocking_descriptor",
		  test_a_call_that_waits_does_so_on_a_nonblocking_descriptor, plain_setup, teardown,
		  NULL },
		T(test_shutdown_ends_whoever_waits),
		T(test_what_was_sent_before_the_end_arrives),
		T(test_what_is_under_way_is_counted),
		T(test_a_watch_tells_of_what_no_poll_shows),
		T(test_a_watch_calls_again_once_where_it_is_asked_to),
		T(test_a_watch_may_end_within_its_call),
		T(test_a_watch_tells_that_the_peer_has_gone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
