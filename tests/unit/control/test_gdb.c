// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * gdb's session: who is heard, who is let in, attaching and detaching, packets,
 * and the monitor's commands.
 */
#include "gdb_session.h"

static void test_attach(void **state)
{
	struct setup *s = *state;

	assert_non_null(strstr(ask(s, "qSupported:swbreak+;hwbreak+"),
			       "PacketSize=4000;qXfer:features:read+"));
	assert_int_equal(s->machine->state, RUN_STATE_DEBUG);
	ASK("?", "T05thread:1;");
	ASK("qAttached", "1");
	ASK("vMustReplyEmpty", "");
	ASK("qC", "QC1");
	ASK("qfThreadInfo", "m1,2");
	ASK("qsThreadInfo", "l");
	ASK("T2", "OK");
	ASK("T3", "E16");
	ASK("Hg2", "OK");
	ASK("Hg3", "E16");
	ASK("Hx1", "E16");
	ASK("qXfer:features:read:target.xml:0,8", "m<target>");
	ASK("qXfer:features:read:target.xml:8,ffb", "lfake</target>");
	ASK("qXfer:features:read:other.xml:0,8", "E00");
	ASK("D", "OK");
	assert_int_equal(s->machine->state, RUN_STATE_RUNNING);
}

/* A debugger that just goes away leaves what it found. */
static void test_disconnect(void **state)
{
	struct setup *s = *state;

	ASK("Z0,400010,1", "OK");
	assert_int_equal(s->mem->ram[16], 0xcc);
	close(s->fd);
	fake_pump(s->machine, -1, is_running, s->machine);
	assert_int_equal(s->mem->ram[16], 16);
	assert_false(s->machine->vm.vcpu[0].debug.sw_breakpoints);
	/* Stopped before: stopped after. */
	fake_set_state(s->machine, RUN_STATE_PAUSED);
	connect_client(s);
	ASK("?", "T05thread:1;");
	ASK("D", "OK");
	assert_int_equal(s->machine->state, RUN_STATE_PAUSED);
}

/*
 * What a web page can have a browser of this host send: its first bytes are a
 * method, whatever follows.
 */
static void test_what_does_not_begin_as_a_debugger_is_not_heard(void **state)
{
	static const char *const beginnings[] = {
		"POST / HTTP/1.1\r\nHost: 127.0.0.1:1234\r\nContent-Length: 9\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "OPTIONS / HTTP/1.1\r\n\r\n",
		"\r\n", "{\"execute\":\"quit\"}", "\x16\x03\x01\x02", "#", "\xff", " ",
	};
	struct setup *s = *state;
	size_t i;
	int fd;

	for (i = 0; i < sizeof(beginnings) / sizeof(beginnings[0]); i++) {
		fd = fake_connect(s->machine, s->path);
		assert_true(write(fd, beginnings[i], strlen(beginnings[i])) > 0);
		assert_int_equal(write(fd, "$k#6b", 5), 5);
		fake_expect_closed(s->machine, fd);
		assert_false(s->machine->ended);
		assert_int_equal(s->machine->state, RUN_STATE_RUNNING);
		assert_false(s->machine->vm.vcpu[0].parked);
	}
}

/* A connection alone stops nothing, and keeps nobody out. */
static void test_a_session_begins_with_the_first_byte(void **state)
{
	struct setup *s = *state;
	int silent = s->fd;

	connect_client(s);
	fake_expect_closed(s->machine, silent);
	assert_int_equal(s->machine->state, RUN_STATE_RUNNING);
	ASK("qC", "QC1");
	assert_int_equal(s->machine->state, RUN_STATE_DEBUG);
	ASK("D", "OK");
}

/*
 * However many packets a debugger sends at once, the loop carries out some a
 * turn; all of them, in order.
 */
static void test_a_flood_of_packets_has_its_turn_like_others(void **state)
{
	struct setup *s = *state;
	struct vm *vm = machine_vm(s->machine);
	unsigned int i;

	ASK("QStartNoAckMode", "OK");
	assert_int_equal(write(s->fd, "+", 1), 1);
	vm->regs_ns = LOOP_TURN_NS / 4;
	vm->regs_read = 0;
	for (i = 0; i < FAKE_FLOOD; i++)
		assert_int_equal(write(s->fd, i % 2 ? "$g#67" : "$p0#a0", i % 2 ? 5 : 6),
				 i % 2 ? 5 : 6);
	fake_expect_turns(s->machine, &vm->regs_read);
	for (i = 0; i < FAKE_FLOOD; i++)
		assert_int_equal(strlen(reply(s)), 2 * (i % 2 ? FAKE_REGS_BYTES : 8));
}

static void test_second_client(void **state)
{
	struct setup *s = *state;
	char text[64] = "";
	int other, third;

	ASK("qC", "QC1");
	other = fake_connect(s->machine, s->path);
	assert_int_equal(write(other, "+$qC#b4", 7), 7);
	fake_pump(s->machine, other, NULL, NULL);
	assert_true(read(other, text, sizeof(text) - 1) > 0);
	assert_string_equal(text, "+$E.another debugger is attached#23");
	/* A third takes the second's place. */
	third = fake_connect(s->machine, s->path);
	fake_pump(s->machine, other, NULL, NULL);
	assert_int_equal(read(other, text, sizeof(text)), 0);
	close(other);
	close(third);
	ASK("qC", "QC1");
}

static void assert_closed(struct setup *s)
{
	char text[16];

	fake_pump(s->machine, s->fd, NULL, NULL);
	assert_int_equal(read(s->fd, text, sizeof(text)), 0);
	close(s->fd);
}

/* Nothing is done for who has detached: nobody would take it back. */
static void test_detach(void **state)
{
	struct setup *s = *state;
	struct buf out = { 0 };

	ASK("Z0,400020,1", "OK");
	assert_int_equal(gdb_packet_frame(&out, "D", 1), 0);
	assert_int_equal(gdb_packet_frame(&out, "Z0,400010,1", 11), 0);
	assert_int_equal(gdb_packet_frame(&out, "M400030,1:77", 12), 0);
	assert_int_equal(buf_append(&out, "\x03", 1), 0);
	assert_int_equal(write(s->fd, out.data, out.len), out.len);
	buf_fini(&out);
	assert_int_equal(receive(s), GDB_GOT_ACK);
	assert_string_equal(reply(s), "OK");
	assert_true(machine_is_running(s->machine));
	/* It may ask for the reply again, and goes when it has it. */
	assert_int_equal(write(s->fd, "-", 1), 1);
	assert_string_equal(reply(s), "OK");
	assert_int_equal(write(s->fd, "$qC#b4+", 7), 7);
	assert_closed(s);
	assert_int_equal(s->mem->ram[16], 16);
	assert_int_equal(s->mem->ram[32], 32);
	assert_int_equal(s->mem->ram[48], 48);
	assert_false(s->machine->vm.vcpu[0].debug.sw_breakpoints);
	/* Without acknowledgements, at once. */
	connect_client(s);
	ASK("QStartNoAckMode", "OK");
	assert_int_equal(write(s->fd, "+$D#44", 6), 6);
	assert_string_equal(reply(s), "OK");
	assert_closed(s);
	connect_client(s);
	ASK("qC", "QC1");
}

/* Who stays makes room for the next. */
static void test_detached_and_still_there(void **state)
{
	struct setup *s = *state;
	int old = s->fd;

	ASK("D", "OK");
	connect_client(s);
	ASK("qC", "QC1");
	assert_int_equal(s->machine->state, RUN_STATE_DEBUG);
	close(s->fd);
	s->fd = old;
	assert_closed(s);
	connect_client(s);
}

static void test_monitor(void **state)
{
	struct setup *s = *state;
	char text[1024];

	monitor(s, "help", text, sizeof(text));
	assert_non_null(strstr(text, "faults"));
	monitor(s, "status", text, sizeof(text));
	assert_string_equal(text, "machine: debug\npages: 16, not there 0, asked for 0, lost 0\n");
	monitor(s, "faults", text, sizeof(text));
	assert_string_equal(text, "nobody waits for a page\n");
	s->mem->page[2] = PAGE_REQUESTED;
	s->mem->nwaiters = 1;
	s->mem->waiter[0] = (struct memory_waiter){
		.name = "vcpu1", .cpu = 1, .gpa = GPA(FAKE_GPA + 2 * PAGE_BYTES),
		.since_ns = clock_now_ns() - 12 * NS_PER_MS,
	};
	monitor(s, "faults", text, sizeof(text));
	assert_non_null(
		strstr(text, "vcpu1 waits for page 0x12000 since 12 ms (missing, and asked for)"));
	/* The stop ends the wait; what it was is still told. */
	send_packet(s, "c", 1);
	fake_pump(s->machine, -1, is_running, s->machine);
	assert_int_equal(write(s->fd, "\x03", 1), 1);
	assert_string_equal(reply(s), "T02thread:1;");
	s->mem->nwaiters = 0;
	send_packet(s, "qThreadExtraInfo,2", 18);
	assert_int_equal(receive(s), GDB_GOT_PACKET);
	assert_true(gdb_hex_decode((char *)s->in.data, (uint8_t *)text, s->in.len / 2));
	assert_memory_equal(text, "vCPU 1, waits for page 0x12000, ", 32);
	monitor(s, "faults", text, sizeof(text));
	assert_non_null(strstr(text, "vcpu1 was stopped in its wait for page 0x12000"));
	monitor(s, "nonsense", text, sizeof(text));
	assert_non_null(strstr(text, "not known"));
	ASK("qRcmd,6", "E16");
	ASK("qRcmd,6x", "E16");
}

static void test_framing(void **state)
{
	struct setup *s = *state;
	char *big = malloc(GDB_PACKET_MAX + 16);

	ASK("qC", "QC1");
	/* The last packet again. */
	assert_int_equal(write(s->fd, "-", 1), 1);
	assert_string_equal(reply(s), "QC1");
	assert_int_equal(write(s->fd, "$qC#00", 6), 6);
	assert_int_equal(receive(s), GDB_GOT_NAK);
	assert_non_null(big);
	memset(big, '@', GDB_PACKET_MAX + 16);
	send_packet(s, big, GDB_PACKET_MAX + 16);
	assert_string_equal(reply(s), "E07");
	free(big);
	ASK("QStartNoAckMode", "OK");
	assert_int_equal(write(s->fd, "+$qC#b4", 7), 7);
	assert_string_equal(reply(s), "QC1");
	assert_int_equal(write(s->fd, "$qC#00", 6), 6);
	assert_string_equal(reply(s), "E47");
}

static void test_kill(void **state)
{
	struct setup *s = *state;

	ASK("vKill;1", "OK");
	assert_true(s->machine->ended);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(test_attach),
		TEST(test_disconnect),
		TEST(test_second_client),
		TEST(test_detach),
		TEST(test_what_does_not_begin_as_a_debugger_is_not_heard),
		TEST(test_a_session_begins_with_the_first_byte),
		TEST(test_a_flood_of_packets_has_its_turn_like_others),
		TEST(test_detached_and_still_there),
		TEST(test_monitor),
		TEST(test_framing),
		TEST(test_kill),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
