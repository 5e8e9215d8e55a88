// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * gdb reads and writes registers and memory; a page that is missing is an error
 * after a while, or comes in time.
 */
#include "gdb_session.h"

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
	assert_true(took >= PAGE_TIMEOUT_MS * NS_PER_MS &&
		    took < 100 * PAGE_TIMEOUT_MS * NS_PER_MS);
	monitor(s, "missing", text, sizeof(text));
	assert_string_equal(text, "0x401000, page 0x11000, has not come within 50 ms\n");
	ASK("m400ffe,4", "feff");
	ASK("M401000,1:00", "E0e");
	ASK("Z0,401000,1", "E0e");
	s->mem->page[1] = PAGE_LOST;
	ASK("m401000,4", "E05");
	monitor(s, "missing 0x401008", text, sizeof(text));
	assert_string_equal(
		text,
		"0x401008: physical 0x11008, the page is lost: the source does not have it\n");
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
	assert_string_equal(text,
			    "0x400000: a page of the page tables is missing; it is asked for\n");
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

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
#define LONG(name) cmocka_unit_test_setup_teardown(name, set_up_long, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(test_registers),
		TEST(test_memory),
		TEST(test_missing_page),
		LONG(test_page_comes),
		LONG(test_end_while_waiting),
		LONG(test_leave_while_waiting),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
