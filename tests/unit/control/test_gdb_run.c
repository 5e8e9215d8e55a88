// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * gdb lets the machine run, makes steps, interrupts it, and is told of stops: its
 * own, those of others, and such as do not come.
 */
#include "gdb_session.h"

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

/*
 * gdb takes the machine for stopped, and makes a step to get past a breakpoint:
 * it must not wait for its end for ever.
 */
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
	while (sscanf(hex + 1 + 2 * n, "%2hhx", (unsigned char *)&text[n]) == 1 &&
	       n < sizeof(text) - 1)
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

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(test_continue_and_interrupt),
		TEST(test_a_step_of_a_machine_that_others_let_run),
		TEST(test_a_vcpu_that_does_not_come_out),
		TEST(test_a_vcpu_alone_that_does_not_come_out),
		TEST(test_attach_to_a_vcpu_that_does_not_come_out),
		TEST(test_breakpoint),
		TEST(test_breakpoint_and_another_address),
		TEST(test_breakpoint_met_at_another_address),
		TEST(test_watchpoint),
		TEST(test_step),
		TEST(test_no_step_while_a_reset_waits),
		TEST(test_stopped_by_others),
		TEST(test_late_stop),
		TEST(test_inmigrate),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
