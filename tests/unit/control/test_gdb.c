// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// A gdb session over a real socket, on a fake machine of two vCPUs.
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "control/gdb.h"
#include "control/gdb_packet.h"
#include "fake.h"

#define PAGE_TIMEOUT_MS 50
#define PAGE_TIMEOUT_LONG_MS 4000	/* where the end of the wait is another than the deadline */

struct setup {
	struct machine *machine;
	struct memory *mem;
	struct gdb *gdb;
	char dir[64], path[96];
	int fd;
	struct gdb_packet in;
	uint8_t bytes[4096];
	size_t len;
};

static void connect_client(struct setup *s)
{
	s->fd = fake_connect(s->machine, s->path);
	s->len = 0;
	s->in.state = GDB_IDLE;
}

static enum gdb_packet_event receive(struct setup *s)
{
	enum gdb_packet_event event = GDB_GOT_NOTHING;
	size_t used;
	ssize_t n;

	for (;;) {
		if (s->len) {
			event = gdb_packet_feed(&s->in, s->bytes, s->len, &used);
			s->len -= used;
			memmove(s->bytes, s->bytes + used, s->len);
			if (event != GDB_GOT_NOTHING)
				return event;
		}
		fake_pump(s->machine, s->fd, NULL, NULL);
		n = read(s->fd, s->bytes, sizeof(s->bytes));
		assert_true(n > 0);
		s->len = (size_t)n;
	}
}

static void send_packet(struct setup *s, const void *payload, size_t len)
{
	struct buf out = { 0 };

	assert_int_equal(gdb_packet_frame(&out, payload, len), 0);
	assert_int_equal(write(s->fd, out.data, out.len), out.len);
	buf_fini(&out);
	assert_int_equal(receive(s), GDB_GOT_ACK);
}

static const char *reply(struct setup *s)
{
	assert_int_equal(receive(s), GDB_GOT_PACKET);
	return (const char *)s->in.data;
}

static const char *ask(struct setup *s, const char *payload)
{
	send_packet(s, payload, strlen(payload));
	return reply(s);
}

#define ASK(payload, wanted) assert_string_equal(ask(s, payload), wanted)

/* A "monitor" command and its text. */
static void monitor(struct setup *s, const char *command, char *text, size_t bytes)
{
	struct buf out = { 0 };
	size_t n;

	assert_int_equal(buf_append(&out, "qRcmd,", 6), 0);
	assert_int_equal(gdb_hex_append(&out, command, strlen(command)), 0);
	send_packet(s, out.data, out.len);
	buf_fini(&out);
	assert_int_equal(receive(s), GDB_GOT_PACKET);
	n = s->in.len / 2;
	assert_true(n < bytes && gdb_hex_decode((const char *)s->in.data, (uint8_t *)text, n));
	text[n] = '\0';
}

static int set_up_timeout(void **state, int page_timeout_ms)
{
	struct setup *s = calloc(1, sizeof(*s));
	char spec[128];
	struct err err;
	size_t i;

	if (!s)
		return -1;
	strcpy(s->dir, "/tmp/test-gdb.XXXXXX");
	if (!mkdtemp(s->dir))
		return -1;
	snprintf(s->path, sizeof(s->path), "%s/gdb", s->dir);
	snprintf(spec, sizeof(spec), "unix:%s", s->path);
	s->machine = fake_machine_new();
	s->mem = machine_memory(s->machine);
	for (i = 0; i < sizeof(s->mem->ram); i++)
		s->mem->ram[i] = (uint8_t)i;
	fake_set_state(s->machine, RUN_STATE_RUNNING);
	if (gdb_new(&s->gdb, s->machine, spec, page_timeout_ms, &err) < 0)
		return -1;
	connect_client(s);
	*state = s;
	return 0;
}

static int set_up(void **state)
{
	return set_up_timeout(state, PAGE_TIMEOUT_MS);
}

static int set_up_long(void **state)
{
	return set_up_timeout(state, PAGE_TIMEOUT_LONG_MS);
}

static int tear_down(void **state)
{
	struct setup *s = *state;

	if (s->fd >= 0)
		close(s->fd);
	gdb_free(s->gdb);
	fake_machine_free(s->machine);
	if (access(s->path, F_OK) == 0 || rmdir(s->dir) < 0)
		return -1;
	free(s);
	return 0;
}

static bool is_running(void *arg)
{
	return machine_is_running(arg);
}

/* ---- tests ---- */

static void test_attach(void **state)
{
	struct setup *s = *state;

	assert_non_null(strstr(ask(s, "qSupported:swbreak+;hwbreak+"), "PacketSize=4000;qXfer:features:read+"));
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

/* Until the other side closes. */
static void expect_closed(struct setup *s, int fd)
{
	char bytes[256];
	ssize_t n;

	do {
		fake_pump(s->machine, fd, NULL, NULL);
		n = read(fd, bytes, sizeof(bytes));
	} while (n > 0);
	assert_true(n == 0 || errno == ECONNRESET);
	close(fd);
}

/* What a web page can have a browser of this host send: its first bytes are a method, whatever follows. */
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
		expect_closed(s, fd);
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
	expect_closed(s, silent);
	assert_int_equal(s->machine->state, RUN_STATE_RUNNING);
	ASK("qC", "QC1");
	assert_int_equal(s->machine->state, RUN_STATE_DEBUG);
	ASK("D", "OK");
}

#define FLOOD 100u

/* However many packets a debugger sends at once, the loop carries out some a turn; all of them, in order. */
static void test_a_flood_of_packets_has_its_turn_like_others(void **state)
{
	struct setup *s = *state;
	struct vm *vm = machine_vm(s->machine);
	unsigned int before, most = 0, turns, i;

	ASK("QStartNoAckMode", "OK");
	assert_int_equal(write(s->fd, "+", 1), 1);
	vm->regs_ns = LOOP_TURN_NS / 4;
	vm->regs_read = 0;
	for (i = 0; i < FLOOD; i++)
		assert_int_equal(write(s->fd, i % 2 ? "$g#67" : "$p0#a0", i % 2 ? 5 : 6), i % 2 ? 5 : 6);
	for (turns = 0; vm->regs_read < FLOOD; turns++) {
		before = vm->regs_read;
		uv_run(loop_uv(s->machine->loop), UV_RUN_NOWAIT);
		if (vm->regs_read - before > most)
			most = vm->regs_read - before;
		assert_true(turns < 100000);
	}
	/* Also where one turn's end and the next one's beginning meet. */
	assert_in_range(most, 1, 10);
	for (i = 0; i < FLOOD; i++)
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

static void test_registers(void **state)
{
	struct setup *s = *state;
	struct vcpu *vcpu = s->machine->vm.vcpu;

	ASK("?", "T05thread:1;");
	vcpu[0].regs[1] = 0x1122;
	vcpu[1].regs[1] = 0x3344;
	ASK("g", "000000000000000022110000000000000000000000000000");
	ASK("p1", "2211000000000000");
	ASK("Hg2", "OK");
	ASK("p1", "4433000000000000");
	ASK("p3", "E16");
	ASK("p", "E16");
	ASK("P2=0807060504030201", "OK");
	assert_int_equal(vcpu[1].regs[2], 0x0102030405060708);
	ASK("P2=08", "E16");
	ASK("P3=0807060504030201", "E16");
	ASK("P2=080706050403020x", "E16");
	ASK("G0100000000000000020000000000000003000000000000ff", "OK");
	assert_int_equal(vcpu[1].regs[0], 1);
	assert_true(vcpu[1].regs[2] == 0xff00000000000003);
	ASK("G01000000000000000200000000000000030000000000000004", "E16");
	ASK("G010", "E16");
}

static void test_memory(void **state)
{
	struct setup *s = *state;

	ASK("m400010,4", "10111213");
	/* Over the end of a page. */
	ASK("m400ffe,4", "feff0001");
	ASK("m0,4", "E0e");
	ASK("m410000,4", "E0e");
	/* As far as memory goes. */
	ASK("m40fffe,4", "feff");
	ASK("m400010", "E16");
	ASK("m400010,", "E16");
	ASK("m400010,0", "");
	ASK("M400010,2:aabb", "OK");
	assert_int_equal(s->mem->ram[17], 0xbb);
	ASK("M400010,2:aab", "E16");
	ASK("M400010,2:aabg", "E16");
	ASK("M410000,1:00", "E0e");
	ASK("X400010,0:", "OK");
	send_packet(s, "X400010,3:\0#}", 13);
	assert_string_equal(reply(s), "OK");
	assert_memory_equal(s->mem->ram + 16, "\0#}", 3);
	ASK("X400010,3:a", "E16");
	assert_int_equal(strlen(ask(s, "m400000,10000")), GDB_PACKET_MAX);
}

/* An error in bounded time, with the reason on demand; what comes before the page is given. */
static void test_missing_page(void **state)
{
	struct setup *s = *state;
	int64_t start, took;
	char text[512];

	ASK("?", "T05thread:1;");
	monitor(s, "missing", text, sizeof(text));
	assert_string_equal(text, "no access to memory has failed\n");
	s->mem->page[1] = PAGE_REQUESTED;
	start = clock_now_ns();
	ASK("m401000,4", "E0e");
	took = clock_now_ns() - start;
	assert_true(took >= PAGE_TIMEOUT_MS * NS_PER_MS && took < 100 * PAGE_TIMEOUT_MS * NS_PER_MS);
	monitor(s, "missing", text, sizeof(text));
	assert_string_equal(text, "0x401000, page 0x11000, has not come within 50 ms\n");
	ASK("m400ffe,4", "feff");
	ASK("M401000,1:00", "E0e");
	ASK("Z0,401000,1", "E0e");
	s->mem->page[1] = PAGE_LOST;
	ASK("m401000,4", "E05");
	monitor(s, "missing 0x401008", text, sizeof(text));
	assert_string_equal(text, "0x401008: physical 0x11008, the page is lost: the source does not have it\n");
	monitor(s, "missing 0x400000", text, sizeof(text));
	assert_string_equal(text, "0x400000: physical 0x10000, the page is present\n");
	monitor(s, "missing 16", text, sizeof(text));
	assert_string_equal(text, "0x10: not mapped\n");
	monitor(s, "missing 0x410000", text, sizeof(text));
	assert_string_equal(text, "0x410000: physical 0x20000, not RAM\n");
	monitor(s, "missing x", text, sizeof(text));
	assert_string_equal(text, "missing: 'x' is not an address\n");
	s->mem->table_missing = true;
	ASK("m400000,4", "E0e");
	monitor(s, "missing 0x400000", text, sizeof(text));
	assert_string_equal(text, "0x400000: a page of the page tables is missing; it is asked for\n");
}

static bool worker_waits(void *arg)
{
	struct memory *mem = arg;
	bool waits;

	pthread_mutex_lock(&mem->lock);
	waits = mem->waits > 0;
	pthread_mutex_unlock(&mem->lock);
	return waits;
}

static void bring_page(struct memory *mem, unsigned int page)
{
	pthread_mutex_lock(&mem->lock);
	mem->page[page] = PAGE_PRESENT;
	pthread_cond_broadcast(&mem->changed);
	pthread_mutex_unlock(&mem->lock);
}

/* The page's coming ends the wait; what gdb sends meanwhile is answered after. */
static void test_page_comes(void **state)
{
	struct setup *s = *state;

	ASK("?", "T05thread:1;");
	s->mem->page[1] = PAGE_REQUESTED;
	assert_int_equal(write(s->fd, "$m401000,2#f0$qC#b4", 19), 19);
	fake_pump(s->machine, -1, worker_waits, s->mem);
	bring_page(s->mem, 1);
	assert_int_equal(receive(s), GDB_GOT_ACK);
	assert_string_equal(reply(s), "0001");
	assert_int_equal(receive(s), GDB_GOT_ACK);
	assert_string_equal(reply(s), "QC1");
}

/* With the debugger in the middle of a wait, both the client and the stub may go at once. */
static void test_end_while_waiting(void **state)
{
	struct setup *s = *state;
	int64_t start;

	ASK("?", "T05thread:1;");
	s->mem->page[1] = PAGE_REQUESTED;
	assert_int_equal(write(s->fd, "$m401000,2#f0", 13), 13);
	fake_pump(s->machine, -1, worker_waits, s->mem);
	start = clock_now_ns();
	gdb_free(s->gdb);
	s->gdb = NULL;
	assert_true(clock_now_ns() - start < PAGE_TIMEOUT_LONG_MS * NS_PER_MS / 2);
	assert_int_equal(s->machine->state, RUN_STATE_RUNNING);
}

static void test_leave_while_waiting(void **state)
{
	struct setup *s = *state;

	ASK("?", "T05thread:1;");
	s->mem->page[1] = PAGE_REQUESTED;
	assert_int_equal(write(s->fd, "$m401000,2#f0", 13), 13);
	fake_pump(s->machine, -1, worker_waits, s->mem);
	close(s->fd);
	fake_pump(s->machine, -1, is_running, s->machine);
	/* The next one is not hit by the kick. */
	bring_page(s->mem, 1);
	connect_client(s);
	ASK("m401000,2", "0001");
}

static bool first_runs(void *arg)
{
	struct machine *machine = arg;

	return !machine->vm.vcpu[0].parked;
}

static void test_continue_and_interrupt(void **state)
{
	struct setup *s = *state;

	ASK("vCont?", "vCont;c;C;s;S;t");
	send_packet(s, "vCont;c", 7);
	fake_pump(s->machine, -1, is_running, s->machine);
	/* What needs a parked vCPU says so. */
	ASK("g", "E10");
	ASK("m400000,1", "E10");
	ASK("Z0,400000,1", "E10");
	assert_int_equal(write(s->fd, "\x03", 1), 1);
	assert_string_equal(reply(s), "T02thread:1;");
	assert_int_equal(s->machine->state, RUN_STATE_DEBUG);
	/* When it does not run there is nothing to interrupt. */
	assert_int_equal(write(s->fd, "\x03", 1), 1);
	ASK("qC", "QC1");
}

/* A line on gdb's console, of the last packet. */
static void assert_console(const struct setup *s, const char *wanted)
{
	char text[128] = "";

	assert_int_equal(s->in.data[0], 'O');
	assert_true(s->in.len / 2 < sizeof(text));
	assert_true(gdb_hex_decode((const char *)s->in.data + 1, (uint8_t *)text, s->in.len / 2));
	assert_non_null(strstr(text, wanted));
}

/* gdb takes the machine for stopped, and makes a step to get past a breakpoint: it must not wait for its end for ever. */
static void test_a_step_of_a_machine_that_others_let_run(void **state)
{
	struct setup *s = *state;

	ASK("qC", "QC1");
	fake_set_state(s->machine, RUN_STATE_RUNNING);
	send_packet(s, "vCont;s:1;c", 11);
	reply(s);
	assert_console(s, "no step was made");
	assert_string_equal(reply(s), "T02thread:1;");
	assert_int_equal(s->machine->state, RUN_STATE_DEBUG);
}

/* gdb is not told that the machine has stopped as long as a vCPU runs, and can interrupt again. */
static void test_a_vcpu_that_does_not_come_out(void **state)
{
	struct setup *s = *state;
	unsigned int i;

	send_packet(s, "vCont;c", 7);
	fake_pump(s->machine, -1, is_running, s->machine);
	s->machine->vm.stuck = true;
	for (i = 0; i < 2; i++) {
		assert_int_equal(write(s->fd, "\x03", 1), 1);
		reply(s);
		assert_console(s, "vCPU 0 is stuck");
		ASK("g", "E10");
	}
	/* Nor when the other one meets a breakpoint. */
	fake_debug_event(s->machine, 1);
	reply(s);
	assert_console(s, "vCPU 0 is stuck");
	ASK("qC", "QC2");
	s->machine->vm.stuck = false;
	assert_int_equal(write(s->fd, "\x03", 1), 1);
	assert_string_equal(reply(s), "T02thread:2;");
	assert_int_equal(strlen(ask(s, "g")), 2 * FAKE_REGS_BYTES);
}

/* The same of one that runs alone, and of who stops the machine meanwhile. */
static void test_a_vcpu_alone_that_does_not_come_out(void **state)
{
	struct setup *s = *state;

	send_packet(s, "vCont;c:1", 9);
	fake_pump(s->machine, -1, first_runs, s->machine);
	s->machine->vm.stuck = true;
	assert_int_equal(write(s->fd, "\x03", 1), 1);
	reply(s);
	assert_console(s, "vCPU 0 is stuck");
	fake_set_state(s->machine, RUN_STATE_PAUSED);
	reply(s);
	assert_console(s, "vCPU 0 is stuck");
	/* A continue that cannot be is no stop either. */
	send_packet(s, "vCont;c:2", 9);
	reply(s);
	assert_console(s, "has not parked");
	reply(s);
	assert_console(s, "vCPU 0 is stuck");
	s->machine->vm.stuck = false;
	assert_int_equal(write(s->fd, "\x03", 1), 1);
	assert_string_equal(reply(s), "T02thread:1;");
}

/* Whoever attaches to what has not stopped is answered once it has. */
static void test_attach_to_a_vcpu_that_does_not_come_out(void **state)
{
	struct setup *s = *state;

	ASK("?", "T05thread:1;");
	fake_set_state(s->machine, RUN_STATE_RUNNING);
	s->machine->vm.stuck = true;
	send_packet(s, "?", 1);
	s->machine->vm.stuck = false;
	assert_int_equal(write(s->fd, "\x03", 1), 1);
	assert_string_equal(reply(s), "T02thread:1;");
}

static void test_breakpoint(void **state)
{
	struct setup *s = *state;

	ask(s, "qSupported:swbreak+;hwbreak+");
	ASK("Z0,400020,1", "OK");
	/* gdb reads what it covers. */
	ASK("m400020,2", "2021");
	ASK("M400020,1:99", "OK");
	assert_int_equal(s->mem->ram[32], 0xcc);
	send_packet(s, "c", 1);
	fake_pump(s->machine, -1, is_running, s->machine);
	assert_true(s->machine->vm.vcpu[1].debug.sw_breakpoints);
	s->machine->vm.vcpu[1].regs[2] = 0x400020;
	fake_debug_event(s->machine, 1);
	assert_string_equal(reply(s), "T05swbreak:;thread:2;");
	ASK("qC", "QC2");
	ASK("z0,400020,1", "OK");
	assert_int_equal(s->mem->ram[32], 0x99);
	ASK("z0,400020,1", "E02");
	ASK("Z0,0,1", "E0e");
	ASK("Z7,400020,1", "");
	ASK("Z0,400020", "E16");
	ASK("Z0,400fff,1", "E16");
}

/* By an address that no breakpoint was set at, but the place is that of one. */
static void test_breakpoint_and_another_address(void **state)
{
	struct setup *s = *state;

	ASK("Z0,400020,1", "OK");
	ASK("m800020,2", "2021");
	ASK("M80001f,2:9899", "OK");
	assert_int_equal(s->mem->ram[31], 0x98);
	assert_int_equal(s->mem->ram[32], 0xcc);
	ASK("m400020,2", "9921");
	/* Over the end of a page. */
	ASK("Z0,401000,1", "OK");
	ASK("m800fff,3", "ff0001");
	ASK("M800fff,2:7778", "OK");
	assert_int_equal(s->mem->ram[PAGE_BYTES], 0xcc);
	ASK("m400fff,3", "777801");
	ASK("z0,401000,1", "OK");
	ASK("z0,400020,1", "OK");
	assert_int_equal(s->mem->ram[32], 0x99);
	assert_int_equal(s->mem->ram[PAGE_BYTES], 0x78);
}

static void test_breakpoint_met_at_another_address(void **state)
{
	struct setup *s = *state;
	const char *hex;
	char text[256];
	size_t n = 0;

	ask(s, "qSupported:swbreak+;hwbreak+");
	ASK("Z0,400020,1", "OK");
	send_packet(s, "c", 1);
	fake_pump(s->machine, -1, is_running, s->machine);
	s->machine->vm.vcpu[1].regs[2] = 0x800020;
	fake_debug_event(s->machine, 1);
	hex = reply(s);
	assert_int_equal(*hex, 'O');
	while (sscanf(hex + 1 + 2 * n, "%2hhx", (unsigned char *)&text[n]) == 1 && n < sizeof(text) - 1)
		n++;
	text[n] = '\0';
	assert_non_null(strstr(text, "the breakpoint at 0x400020, met at 0x800020"));
	assert_string_equal(reply(s), "T05thread:2;");
}

static void test_watchpoint(void **state)
{
	struct setup *s = *state;

	ASK("Z2,400100,4", "OK");
	ASK("Z1,400200,1", "OK");
	ASK("Z3,400300,4", "E16");
	ASK("Z2,400300,0", "E16");
	assert_int_equal(s->machine->vm.vcpu[1].debug.nwatch, 2);
	send_packet(s, "vCont;c", 7);
	fake_pump(s->machine, -1, is_running, s->machine);
	s->machine->vm.vcpu[0].hit = 0;
	fake_debug_event(s->machine, 0);
	assert_string_equal(reply(s), "T05watch:400100;thread:1;");
	ASK("z2,400100,4", "OK");
	ASK("z1,400200,1", "OK");
	assert_int_equal(s->machine->vm.vcpu[1].debug.nwatch, 0);
}

static bool runs_alone(void *arg)
{
	struct machine *machine = arg;

	return !machine->vm.vcpu[1].parked && machine->vm.vcpu[0].parked;
}

static void test_step(void **state)
{
	struct setup *s = *state;

	send_packet(s, "vCont;s:2;c", 11);
	fake_pump(s->machine, -1, runs_alone, s->machine);
	assert_true(s->machine->vm.vcpu[1].debug.step);
	assert_false(s->machine->vm.vcpu[0].debug.step);
	assert_int_equal(s->machine->state, RUN_STATE_DEBUG);
	fake_debug_event(s->machine, 1);
	assert_string_equal(reply(s), "T05thread:2;");
	/* A step that does not end, since it waits for a page, is interrupted. */
	send_packet(s, "vCont;s:2", 9);
	fake_pump(s->machine, -1, runs_alone, s->machine);
	assert_int_equal(write(s->fd, "\x03", 1), 1);
	assert_string_equal(reply(s), "T02thread:2;");
	assert_true(s->machine->vm.vcpu[1].parked);
	/* And whoever takes the machine meanwhile finds it parked. */
	send_packet(s, "vCont;s:2", 9);
	fake_pump(s->machine, -1, runs_alone, s->machine);
	fake_set_state(s->machine, RUN_STATE_FINISH_MIGRATE);
	assert_true(s->machine->vm.vcpu[1].parked);
	assert_string_equal(reply(s), "T18thread:2;");
	ASK("vCont;t", "E16");
	ASK("vCont", "");
	ASK("vCont;x", "E16");
	ASK("vCont;c:9", "E16");
	ASK("c400000", "E16");
}

/* Its kernel is about to be loaded: what has stopped stays stopped, one vCPU as well as all. */
static void test_no_step_while_a_reset_waits(void **state)
{
	static const char *const packets[] = { "vCont;s:2;c", "s", "vCont;c:1", "c" };
	struct setup *s = *state;
	size_t i;

	ASK("?", "T05thread:1;");
	fake_set_state(s->machine, RUN_STATE_PAUSED);
	s->machine->reset_waits = true;
	for (i = 0; i < sizeof(packets) / sizeof(packets[0]); i++) {
		assert_int_equal(ask(s, packets[i])[0], 'O');
		assert_string_equal(reply(s), "T02thread:1;");
		assert_true(s->machine->vm.vcpu[0].parked && s->machine->vm.vcpu[1].parked);
		assert_int_equal(s->machine->state, RUN_STATE_PAUSED);
	}
	s->machine->reset_waits = false;
	send_packet(s, "vCont;s:2;c", 11);
	fake_pump(s->machine, -1, runs_alone, s->machine);
}

/* Others stop the machine too. */
static void test_stopped_by_others(void **state)
{
	struct setup *s = *state;

	ASK("Z0,400020,1", "OK");
	send_packet(s, "c", 1);
	fake_pump(s->machine, -1, is_running, s->machine);
	fake_set_state(s->machine, RUN_STATE_PAUSED);
	assert_string_equal(reply(s), "T02thread:1;");
	send_packet(s, "c", 1);
	fake_pump(s->machine, -1, is_running, s->machine);
	/* What travels has no breakpoints in it; when it comes back they are there again. */
	fake_set_state(s->machine, RUN_STATE_FINISH_MIGRATE);
	assert_int_equal(s->mem->ram[32], 32);
	assert_string_equal(reply(s), "T18thread:1;");
	fake_set_state(s->machine, RUN_STATE_RUNNING);
	assert_int_equal(s->mem->ram[32], 0xcc);
	/* gdb thinks that it is stopped: it may stop it in earnest only by going on. */
	ASK("g", "E10");
	send_packet(s, "c", 1);
	fake_set_state(s->machine, RUN_STATE_POSTMIGRATE);
	assert_string_equal(reply(s), "T18thread:1;");
	/* It may not run here: told on gdb's console. */
	send_packet(s, "c", 1);
	assert_int_equal(reply(s)[0], 'O');
	assert_string_equal(reply(s), "T02thread:1;");
}

/* A stop that was on its way when the debugger left. */
static void test_late_stop(void **state)
{
	struct setup *s = *state;

	ASK("D", "OK");
	fake_debug_event(s->machine, 0);
	assert_int_equal(s->machine->state, RUN_STATE_RUNNING);
	fake_set_state(s->machine, RUN_STATE_PAUSED);
	fake_debug_event(s->machine, 0);
	assert_int_equal(s->machine->state, RUN_STATE_PAUSED);
}

static void test_inmigrate(void **state)
{
	struct setup *s = *state;

	ASK("D", "OK");
	close(s->fd);
	fake_set_state(s->machine, RUN_STATE_INMIGRATE);
	s->machine->autostart = true;
	/* The close is seen first. */
	uv_run(loop_uv(s->machine->loop), UV_RUN_NOWAIT);
	connect_client(s);
	ASK("?", "T05thread:1;");
	assert_false(s->machine->autostart);
	send_packet(s, "c", 1);
	assert_true(s->machine->autostart);
	assert_int_equal(write(s->fd, "\x03", 1), 1);
	assert_string_equal(reply(s), "T02thread:1;");
	assert_false(s->machine->autostart);
	ASK("D", "OK");
	/* It was to run when gdb came, and gdb has said continue since. */
	assert_true(s->machine->autostart);
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
	assert_non_null(strstr(text, "vcpu1 waits for page 0x12000 since 12 ms (missing, and asked for)"));
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
#define LONG(name) cmocka_unit_test_setup_teardown(name, set_up_long, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(test_attach), TEST(test_disconnect), TEST(test_second_client), TEST(test_detach),
		TEST(test_what_does_not_begin_as_a_debugger_is_not_heard), TEST(test_a_session_begins_with_the_first_byte),
		TEST(test_a_flood_of_packets_has_its_turn_like_others),
		TEST(test_detached_and_still_there), TEST(test_registers),
		TEST(test_memory), TEST(test_missing_page), LONG(test_page_comes), LONG(test_end_while_waiting),
		LONG(test_leave_while_waiting), TEST(test_continue_and_interrupt), TEST(test_a_step_of_a_machine_that_others_let_run),
		TEST(test_a_vcpu_that_does_not_come_out),
		TEST(test_a_vcpu_alone_that_does_not_come_out), TEST(test_attach_to_a_vcpu_that_does_not_come_out),
		TEST(test_breakpoint), TEST(test_breakpoint_and_another_address),
		TEST(test_breakpoint_met_at_another_address),
		TEST(test_watchpoint), TEST(test_step), TEST(test_no_step_while_a_reset_waits), TEST(test_stopped_by_others), TEST(test_late_stop),
		TEST(test_inmigrate), TEST(test_monitor), TEST(test_framing), TEST(test_kill),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
