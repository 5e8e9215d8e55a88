// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Peers that live, answer Pings, and do not say what is due: in each phase, on both sides, the
 * session is over within the time that it has. All cases of a test pass at the same time, each
 * in a world of its own.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/clock.h"
#include "memory/gup.h"
#include "migrate/message.h"
#include "steps.h"

/* Of both sides: a source waits for five seconds then, a destination for ten. */
#define LINK_MS 1600u

static void timeouts(struct world *w)
{
	struct side *side[] = { &w->from, &w->to };
	struct migration_params params;
	size_t i;

	for (i = 0; i < 2; i++) {
		migration_params_get(side[i]->migration, &params);
		params.link_timeout_ms = LINK_MS;
		assert_int_equal(migration_params_set(side[i]->migration, &params, NULL), 0);
	}
}

static void expect(const char *name, const struct side *side, enum migration_status status,
		   const char *says)
{
	struct migration_info info = query(side);

	if (info.status != status || !strstr(info.error, says))
		fail_msg("%s: %s, '%s' lacks '%s'", name, migration_status_name(info.status),
			 info.error, says);
}

/* ---- messages that are swallowed, between two real sides ---- */

#define F MIGRATION_FAILED
#define S MIGRATION_SETUP
#define P MIGRATION_POSTCOPY_PAUSED
#define C MIGRATION_COMPLETED

static const struct swallowed {
	const char *name;
	enum cut_at at;
	bool resume;		/* on the second link */
	enum migration_status from, to;
	const char *says;	/* the side that gives up, and both then: the other is told */
} swallowed[] = {
	{ "HelloReply", AT_HELLO_REPLY, false, F, S, "the destination lives, but has not answered the Hello within 5000 ms" },
	{ "BootReply", AT_BOOT_REPLY, false, F, S,
	  "has not taken what the guest reboots with within 5000 ms" },
	{ "StateReply", AT_STATE_REPLY, false, F, P, "has not answered the machine's state within 5000 ms" },
	{ "Run", AT_RUN, false, P, P, "has not answered Run within 5000 ms" },
	{ "RunReply", AT_RUN_REPLY, false, P, P, "has not answered Run within 5000 ms" },
	{ "Resume", AT_RESUME, true, P, P, "has not answered the Resume within 5000 ms" },
	{ "MissingEnd", AT_MISSING_END, true, P, P, "has not said all that is missing there within 5000 ms" },
	{ "ResumeAck", AT_RESUME_ACK, true, P, P, "the source lives, but has not gone on after it was told what is missing within 10000 ms" },
	/*
	 * Which of the two gives up first depends on how much was unsent when
	 * the source began to wait.
	 */
	{ "Complete", AT_COMPLETE, false, P, C, " lives, but has not " },
};
#define NSWALLOWED (sizeof(swallowed) / sizeof(*swallowed))

static bool swallow_begin(struct world *w, const struct swallowed *s)
{
	if (!world_new(w))
		return false;
	timeouts(w);
	if (s->at != AT_COMPLETE)
		limit(w, TRICKLE);
	if (!s->resume)
		relay_swallow(w->relay, s->at);
	world_migrate(w, false);
	if (!s->resume)
		return true;
	until_active(w);
	relay_cut_now(w->relay);
	until_paused(w);
	relay_swallow(w->relay, s->at);
	world_migrate(w, true);
	world_until(w, world_status(&w->from) == MIGRATION_POSTCOPY_RECOVER &&
			       world_status(&w->to) == MIGRATION_POSTCOPY_RECOVER);
	return true;
}

/* Both have what becomes of them; one that listens again has been told why. */
static bool has_ended(const struct world *w, const struct swallowed *s)
{
	return world_status(&w->from) == s->from && world_status(&w->to) == s->to &&
	       (s->to != S || *query(&w->to).error);
}

static void test_every_answer_has_its_time(void **state)
{
	static struct world w[NSWALLOWED];
	int64_t deadline;
	size_t i;

	(void)state;
	for (i = 0; i < NSWALLOWED; i++)
		if (!swallow_begin(&w[i], &swallowed[i]))
			skip();
	deadline = world_deadline();
	for (i = 0; i < NSWALLOWED;) {
		size_t k;

		for (k = i; k < NSWALLOWED; k++)
			world_step(&w[k], deadline, swallowed[k].name);
		while (i < NSWALLOWED && has_ended(&w[i], &swallowed[i]))
			i++;
	}
	for (i = 0; i < NSWALLOWED; i++) {
		const struct swallowed *s = &swallowed[i];

		expect(s->name, &w[i].from, s->from, s->says);
		expect(s->name, &w[i].to, s->to, s->to == C ? "" : s->says);
		if (s->from == P) {
			/* Nothing is lost by it. */
			limit(&w[i], 0);
			world_migrate(&w[i], true);
			until_completed(&w[i]);
		}
		world_free(&w[i]);
	}
}

/* ---- a source by hand ---- */

struct hand {
	const char *name;
	/* What it says: all up to here, and then Pings. */
	enum {
		SAYS_NOTHING,
		SAYS_HALF,
		SAYS_HELLO,
		SAYS_PAGES,
		SAYS_STATE,
		SAYS_RUN,
		SAYS_COMPLETE
	} says;
	bool boots;		/* Hello says that there are files to reboot with */
	enum migration_status to;
	const char *error;
	struct world w;
	uint8_t session[SESSION_BYTES];
	int fd[WIRE_CHANNELS];
	bool over;
	int64_t said_ns;
	uint64_t page;
	pthread_t waiter;
};

static struct hand hands[] = {
	{ .name = "nothing", .says = SAYS_NOTHING, .to = S, .error = "the source lives, but has not said Hello within 10000 ms" },
	{ .name = "half a frame", .says = SAYS_HALF, .to = S, .error = "the source lives, but has not said Hello within 10000 ms" },
	{ .name = "Hello", .says = SAYS_HELLO, .to = S, .error = "has not sent the machine's state within 10000 ms" },
	{ .name = "Hello of one with a kernel", .says = SAYS_HELLO, .boots = true, .to = S,
	  .error = "has not sent what its guest reboots with within 10000 ms" },
	{ .name = "pages", .says = SAYS_PAGES, .to = S, .error = "has not sent the machine's state within 10000 ms" },
	{ .name = "State", .says = SAYS_STATE, .to = P, .error = "has not said Run within 10000 ms" },
	{ .name = "Run", .says = SAYS_RUN, .to = P, .error = "has not sent any page that was asked for within 10000 ms" },
	{ .name = "all but CompleteAck", .says = SAYS_COMPLETE, .to = C, .error = "" },
};
#define NHANDS (sizeof(hands) / sizeof(*hands))

static void say(struct hand *hand, wire_body body, const void *content)
{
	uint8_t head[FRAME_BYTES];
	struct buf buf = { 0 };

	assert_int_equal(message_pack(&buf, body, content), 0);
	assert_int_equal(frame_encode_message(head, buf.data, buf.len), 0);
	/* It may have been ended already. */
	if (send(hand->fd[WIRE_CONTROL], head, sizeof(head), MSG_NOSIGNAL) < 0 ||
	    send(hand->fd[WIRE_CONTROL], buf.data, buf.len, MSG_NOSIGNAL) < 0)
		hand->over = true;
	buf_fini(&buf);
}

/* Until a message of that kind has come from the other side. */
static void hear(struct hand *hand, wire_body body)
{
	static uint8_t payload[FRAME_MESSAGE_MAX];
	uint8_t head[FRAME_BYTES];
	wire_message *message;
	struct frame frame;
	wire_body is;

	do {
		world_until(&hand->w, recv(hand->fd[WIRE_CONTROL], head, sizeof(head),
					   MSG_DONTWAIT | MSG_PEEK) == FRAME_BYTES);
		assert_int_equal(recv(hand->fd[WIRE_CONTROL], head, sizeof(head), MSG_WAITALL),
				 FRAME_BYTES);
		assert_int_equal(frame_decode(&frame, head, NULL), 0);
		assert_int_equal(
			recv(hand->fd[WIRE_CONTROL], payload, frame.payload_bytes, MSG_WAITALL),
			frame.payload_bytes);
		message = message_unpack(payload, frame.payload_bytes, NULL);
		assert_non_null(message);
		is = message->body_case;
		message_free(message);
	} while (is != body);
}

static void connect_hand(struct hand *hand)
{
	struct preface preface = { .version = WIRE_MAJOR };
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	uint8_t bytes[PREFACE_BYTES];
	int i;

	memcpy(hand->session, hand->name, strlen(hand->name) % SESSION_BYTES);
	memcpy(preface.session, hand->session, SESSION_BYTES);
	memcpy(addr.sun_path, hand->w.direct_uri + 5, strlen(hand->w.direct_uri + 5) + 1);
	for (i = 0; i < WIRE_CHANNELS; i++) {
		hand->fd[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		assert_int_equal(connect(hand->fd[i], (struct sockaddr *)&addr, sizeof(addr)), 0);
		preface.channel = (enum wire_channel)i;
		preface_encode(&preface, bytes);
		assert_int_equal(send(hand->fd[i], bytes, sizeof(bytes), 0), sizeof(bytes));
		world_until(&hand->w, recv(hand->fd[i], bytes, HANDSHAKE_BYTES, MSG_DONTWAIT) ==
					      HANDSHAKE_BYTES);
	}
}

static void say_hello(struct hand *hand)
{
	Postern__Wire__Range low = POSTERN__WIRE__RANGE__INIT, high = POSTERN__WIRE__RANGE__INIT,
			     *ranges[] = { &low, &high };
	Postern__Wire__Shape shape = POSTERN__WIRE__SHAPE__INIT;
	Postern__Wire__Hello hello = POSTERN__WIRE__HELLO__INIT;
	struct utsname name;

	assert_int_equal(uname(&name), 0);
	low.len_bytes = UINT64_C(16) << 20;
	high.start = UINT64_C(1) << 32;
	high.len_bytes = UINT64_C(8) << 20;
	shape.arch = name.machine;
	shape.cpus = 2;
	shape.page_bytes = PAGE_BYTES;
	shape.n_ranges = 2;
	shape.ranges = ranges;
	hello.major = WIRE_MAJOR;
	hello.session.data = hand->session;
	hello.session.len = SESSION_BYTES;
	hello.shape = &shape;
	hello.boot = hand->boots ? POSTERN__WIRE__BOOT_TYPE__BOOT_FILES :
				   POSTERN__WIRE__BOOT_TYPE__BOOT_NOTHING;
	say(hand, WIRE(HELLO), &hello);
	hear(hand, WIRE(HELLO_REPLY));
}

static void say_state(struct hand *hand)
{
	Postern__Wire__State state = POSTERN__WIRE__STATE__INIT;

	state.machine.data = (uint8_t *)WORLD_STATE;
	state.machine.len = sizeof(WORLD_STATE);
	state.run = true;
	say(hand, WIRE(STATE), &state);
	hear(hand, WIRE(STATE_REPLY));
}

/* Zeros, on the bulk connection: all of it. */
static void give_all(struct hand *hand)
{
	struct frame frame[] = {
		{ .type = FRAME_ZERO, .count = 4096 },
		{ .type = FRAME_ZERO, .count = 2048, .gfn = GFN(UINT64_C(1) << 20) },
	};
	uint8_t bytes[FRAME_BYTES];
	size_t i;

	for (i = 0; i < 2; i++) {
		frame_encode(&frame[i], bytes);
		assert_int_equal(send(hand->fd[WIRE_BULK], bytes, sizeof(bytes), MSG_NOSIGNAL),
				 sizeof(bytes));
	}
	hear(hand, WIRE(COMPLETE));
}

static void *wait_for_page(void *arg)
{
	struct hand *hand = arg;
	uint8_t byte;

	gup_read(hand->w.to.machine.mem, GPA(77 * PAGE_BYTES), &byte, 1, 0, NULL);
	return NULL;
}

static bool hand_begin(struct hand *hand)
{
	Postern__Wire__Run run = POSTERN__WIRE__RUN__INIT;

	if (!world_new(&hand->w))
		return false;
	timeouts(&hand->w);
	/* It is as if the guest had come from there. */
	hand->w.from.machine.state = RUN_STATE_POSTMIGRATE;
	connect_hand(hand);
	if (hand->says >= SAYS_HELLO)
		say_hello(hand);
	if (hand->says >= SAYS_STATE)
		say_state(hand);
	if (hand->says >= SAYS_RUN) {
		say(hand, WIRE(RUN), &run);
		hear(hand, WIRE(RUN_REPLY));
	}
	if (hand->says == SAYS_RUN)
		assert_int_equal(pthread_create(&hand->waiter, NULL, wait_for_page, hand), 0);
	if (hand->says == SAYS_COMPLETE)
		give_all(hand);
	return true;
}

/* Ten times a second it shows that it lives. */
static void hand_live(struct hand *hand)
{
	struct frame page = { .type = FRAME_ZERO, .count = 1, .gfn = GFN(hand->page) };
	Postern__Wire__Ping ping = POSTERN__WIRE__PING__INIT;
	static uint8_t waste[65536];
	uint8_t bytes[FRAME_BYTES];
	int64_t now = clock_now_ns();

	if (hand->over || now - hand->said_ns < 100 * NS_PER_MS)
		return;
	hand->said_ns = now;
	while (recv(hand->fd[WIRE_CONTROL], waste, sizeof(waste), MSG_DONTWAIT) > 0)
		;
	say(hand, WIRE(PING), &ping);
	frame_encode(&page, bytes);
	if (hand->says == SAYS_HALF && hand->page < FRAME_BYTES)
		send(hand->fd[WIRE_BULK], &bytes[hand->page++], 1, MSG_NOSIGNAL);
	if (hand->says == SAYS_PAGES && hand->page++ < 4000)
		send(hand->fd[WIRE_CONTROL], bytes, sizeof(bytes), MSG_NOSIGNAL);
}

static bool hand_is_over(const struct hand *hand)
{
	return hand->over && world_status(&hand->w.to) == hand->to;
}

static void hand_end(struct hand *hand)
{
	struct memory_stats stats;
	int i;

	expect(hand->name, &hand->w.to, hand->to, hand->error);
	memory_stats(hand->w.to.machine.mem, &stats);
	if (hand->to == S)
		assert_int_equal(stats.missing, WORLD_PAGES);
	assert_int_equal(hand->w.to.machine.ran, hand->says >= SAYS_RUN);
	if (hand->to == S) {
		/* The next may try. */
		hand->w.from.machine.state = RUN_STATE_RUNNING;
		world_migrate(&hand->w, false);
		until_completed(&hand->w);
	}
	for (i = 0; i < WIRE_CHANNELS; i++)
		close(hand->fd[i]);
	memory_shut(hand->w.to.machine.mem);
	if (hand->says == SAYS_RUN)
		pthread_join(hand->waiter, NULL);
	world_free(&hand->w);
}

static void test_a_source_that_only_lives_is_given_up(void **state)
{
	int64_t deadline;
	size_t i, k;

	(void)state;
	for (i = 0; i < NHANDS; i++)
		if (!hand_begin(&hands[i]))
			skip();
	deadline = world_deadline();
	for (i = 0; i < NHANDS;) {
		for (k = 0; k < NHANDS; k++) {
			hand_live(&hands[k]);
			world_step(&hands[k].w, deadline, hands[k].name);
		}
		while (i < NHANDS && hand_is_over(&hands[i]))
			i++;
	}
	for (i = 0; i < NHANDS; i++)
		hand_end(&hands[i]);
}

/* ---- a destination by hand, that takes no pages ---- */

struct taker {
	int listening;
	unsigned int n;
	int fd[WIRE_CHANNELS];
	struct hand hand;	/* what says and hears, and its world */
};

static void taker_accept(struct taker *t)
{
	struct challenge challenge = { .version = WIRE_MAJOR };
	struct preface preface;
	uint8_t bytes[PREFACE_BYTES];

	for (; t->n < WIRE_CHANNELS; t->n++)
		world_until(&t->hand.w,
			    (t->fd[t->n] = accept4(t->listening, NULL, NULL, SOCK_CLOEXEC)) >= 0);
	for (t->n = 0; t->n < WIRE_CHANNELS; t->n++) {
		world_until(&t->hand.w,
			    recv(t->fd[t->n], bytes, sizeof(bytes), MSG_DONTWAIT) == PREFACE_BYTES);
		assert_int_equal(preface_decode(&preface, bytes, NULL), 0);
		if (preface.channel == WIRE_CONTROL)
			t->hand.fd[WIRE_CONTROL] = t->fd[t->n];
		challenge_encode(&challenge, bytes);
		assert_int_equal(send(t->fd[t->n], bytes, HANDSHAKE_BYTES, 0), HANDSHAKE_BYTES);
	}
}

static void taker_begin(struct taker *t)
{
	Postern__Wire__HelloReply hello = POSTERN__WIRE__HELLO_REPLY__INIT;
	Postern__Wire__StateReply loaded = POSTERN__WIRE__STATE_REPLY__INIT;
	Postern__Wire__RunReply run = POSTERN__WIRE__RUN_REPLY__INIT;

	hello.major = WIRE_MAJOR;
	taker_accept(t);
	hear(&t->hand, WIRE(HELLO));
	say(&t->hand, WIRE(HELLO_REPLY), &hello);
	hear(&t->hand, WIRE(STATE));
	say(&t->hand, WIRE(STATE_REPLY), &loaded);
	hear(&t->hand, WIRE(RUN));
	say(&t->hand, WIRE(RUN_REPLY), &run);
}

static void test_a_destination_that_takes_nothing_is_given_up(void **state)
{
	static struct taker t = { .hand = { .name = "taker", .says = SAYS_NOTHING } };
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	char uri[160];
	struct err err;
	int i;

	(void)state;
	NEEDS(&t.hand.w);
	timeouts(&t.hand.w);
	t.hand.w.from.machine.early_pages = 0;
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%.50s/taker", t.hand.w.dir);
	snprintf(uri, sizeof(uri), "unix:%s", addr.sun_path);
	t.listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_int_equal(bind(t.listening, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(t.listening, WIRE_CHANNELS), 0);
	assert_int_equal(migration_outgoing(t.hand.w.from.migration, uri, false, NULL, &err), 0);
	taker_begin(&t);
	world_until(&t.hand.w, (hand_live(&t.hand), world_status(&t.hand.w.from) == P));
	expect(t.hand.name, &t.hand.w.from, P,
	       "the destination lives, but has not taken any more of the pages that were sent within 5000 ms");
	for (i = 0; i < WIRE_CHANNELS; i++)
		close(t.fd[i]);
	close(t.listening);
	unlink(addr.sun_path);
	world_free(&t.hand.w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_answer_has_its_time),
		cmocka_unit_test(test_a_source_that_only_lives_is_given_up),
		cmocka_unit_test(test_a_destination_that_takes_nothing_is_given_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
