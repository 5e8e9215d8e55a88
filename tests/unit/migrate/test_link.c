// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * One end of a link; the test is the other, and sends what it likes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/conn_socket.h"
#include "migrate/link.h"

#define TIMEOUT_MS 60000u	/* longer than any test: nothing here is about heartbeats */

struct end {
	struct loop *loop;
	struct link *link;
	int far[WIRE_CHANNELS];
	unsigned int messages, pages, lost;
	unsigned int turns;	/* of the loop */
	int64_t each_ns;	/* how long each piece takes */
	bool in_order;
	gfn_t next;
	struct err err;
};

static void take_time(const struct end *end)
{
	int64_t until = clock_now_ns() + end->each_ns;

	while (end->each_ns && clock_now_ns() < until)
		;
}

static void on_message(void *arg, wire_message *message)
{
	struct end *end = arg;

	(void)message;
	end->messages++;
	take_time(end);
}

static void on_pages(void *arg, const struct frame *frame, const uint8_t *payload)
{
	struct end *end = arg;

	(void)payload;
	end->in_order &= frame->gfn.v == end->next.v++;
	end->pages++;
	take_time(end);
}

static void on_lost(void *arg, const struct err *err)
{
	struct end *end = arg;

	end->lost++;
	end->err = *err;
	link_free(end->link);
	end->link = NULL;
}

static const struct link_ops ops = { .message = on_message, .pages = on_pages, .lost = on_lost };

static void end_init(struct end *end)
{
	struct conn *conn[WIRE_CHANNELS];
	int pair[2], i;

	*end = (struct end){ .in_order = true };
	assert_int_equal(loop_new(&end->loop, NULL), 0);
	for (i = 0; i < WIRE_CHANNELS; i++) {
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
		assert_int_equal(conn_socket_new(&conn[i], pair[0], NULL), 0);
		end->far[i] = pair[1];
		fcntl(pair[1], F_SETFL, O_NONBLOCK);
	}
	assert_int_equal(link_new(&end->link, end->loop, conn, TIMEOUT_MS, &ops, end, NULL), 0);
}

static void end_fini(struct end *end)
{
	int i;

	link_free(end->link);
	for (i = 0; i < WIRE_CHANNELS; i++)
		close(end->far[i]);
	loop_free(end->loop);
}

static void turn(struct end *end)
{
	uv_run(loop_uv(end->loop), UV_RUN_NOWAIT);
	end->turns++;
}

/* n ZERO frames of a page each, as many as the socket takes at once; how many those were. */
static unsigned int flood(struct end *end, unsigned int n)
{
	struct frame frame = { .type = FRAME_ZERO, .count = 1 };
	uint8_t head[FRAME_BYTES];
	unsigned int i;

	for (i = 0; i < n; i++) {
		frame.gfn = GFN(i);
		frame_encode(&frame, head);
		if (send(end->far[WIRE_CONTROL], head, sizeof(head), MSG_NOSIGNAL) != sizeof(head))
			break;
	}
	return i;
}

/*
 * What a peer sends at once is carried out in turns, between which the others
 * have theirs; all of it, in order.
 */
static void test_a_flood_of_frames_has_its_turn_like_others(void **state)
{
	unsigned int sent, before;
	struct end end;

	(void)state;
	end_init(&end);
	end.each_ns = LOOP_TURN_NS / 4;
	sent = flood(&end, 100);
	assert_int_equal(sent, 100);
	while (end.pages < sent) {
		before = end.pages;
		turn(&end);
		/* A piece that has begun is finished, and none is begun when the turn is over. */
		assert_in_range(end.pages - before, 0, 5);
		assert_true(end.turns < 10000);
	}
	assert_true(end.turns >= 20);
	assert_true(end.in_order);
	turn(&end);
	assert_int_equal(end.pages, sent);
	assert_int_equal(end.lost, 0);
	end_fini(&end);
}

/* Whatever is left of a turn is delivered before the end of the connection is told. */
static void test_what_was_sent_before_the_end_is_delivered(void **state)
{
	struct end end;

	(void)state;
	end_init(&end);
	end.each_ns = LOOP_TURN_NS / 2;
	assert_int_equal(flood(&end, 40), 40);
	shutdown(end.far[WIRE_CONTROL], SHUT_WR);
	while (!end.lost) {
		turn(&end);
		assert_true(end.turns < 10000);
	}
	assert_int_equal(end.pages, 40);
	assert_non_null(strstr(end.err.text, "closed the connection"));
	end_fini(&end);
}

/* It may be freed by what it delivers, and while there is more. */
static void test_a_link_may_end_in_the_middle_of_a_flood(void **state)
{
	struct end end;

	(void)state;
	end_init(&end);
	end.each_ns = LOOP_TURN_NS;
	assert_int_equal(flood(&end, 40), 40);
	turn(&end);
	assert_in_range(end.pages, 0, 3);
	end_fini(&end);
}

static void send_reply(struct end *end)
{
	Postern__Wire__StateReply reply = POSTERN__WIRE__STATE_REPLY__INIT;
	uint8_t head[FRAME_BYTES];
	struct buf buf = { 0 };

	reply.error = (char *)(uintptr_t)"";
	assert_int_equal(message_pack(&buf, WIRE(STATE_REPLY), &reply), 0);
	assert_int_equal(frame_encode_message(head, buf.data, buf.len), 0);
	assert_int_equal(send(end->far[WIRE_CONTROL], head, sizeof(head), MSG_NOSIGNAL),
			 sizeof(head));
	assert_int_equal(send(end->far[WIRE_CONTROL], buf.data, buf.len, MSG_NOSIGNAL), buf.len);
	buf_fini(&buf);
}

/* More than the sockets hold: it leaves when the far end reads. */
static void say_state(struct end *end)
{
	Postern__Wire__State state = POSTERN__WIRE__STATE__INIT;
	uint8_t *data = calloc(1, 2u << 20);

	assert_non_null(data);
	state.machine.data = data;
	state.machine.len = 2u << 20;
	link_send(end->link, WIRE(STATE), &state);
	assert_true(link_queued(end->link) > 0);
	free(data);
}

static void test_an_answer_before_its_question_was_sent_is_a_lost_link(void **state)
{
	struct end end;

	(void)state;
	end_init(&end);
	say_state(&end);
	send_reply(&end);
	while (!end.lost && !end.messages) {
		turn(&end);
		assert_true(end.turns < 10000);
	}
	assert_int_equal(end.messages, 0);
	assert_int_equal(end.lost, 1);
	assert_non_null(strstr(end.err.text,
			       "a StateReply message that came before what it answers was sent"));
	end_fini(&end);
}

static void test_an_answer_after_its_question_is_delivered(void **state)
{
	static uint8_t sink[65536];
	struct end end;

	(void)state;
	end_init(&end);
	say_state(&end);
	while (link_queued(end.link)) {
		if (recv(end.far[WIRE_CONTROL], sink, sizeof(sink), 0) < 0)
			assert_int_equal(errno, EAGAIN);
		turn(&end);
		assert_true(end.turns < 100000);
	}
	send_reply(&end);
	while (!end.messages) {
		turn(&end);
		assert_true(end.turns < 100000);
	}
	assert_int_equal(end.lost, 0);
	end_fini(&end);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_flood_of_frames_has_its_turn_like_others),
		cmocka_unit_test(test_what_was_sent_before_the_end_is_delivered),
		cmocka_unit_test(test_a_link_may_end_in_the_middle_of_a_flood),
		cmocka_unit_test(test_an_answer_before_its_question_was_sent_is_a_lost_link),
		cmocka_unit_test(test_an_answer_after_its_question_is_delivered),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
