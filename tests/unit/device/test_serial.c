// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include <stdlib.h>
#include <string.h>

#include "device/serial.h"
#include "fixture.h"

enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR };
#define FCR IIR

struct port {
	struct serial *serial;
	struct fake_irq irq;
	uint8_t out[64];
	size_t out_len;
	unsigned int invited;
};

static void output(void *arg, const uint8_t *data, size_t len)
{
	struct port *p = arg;

	assert_true(p->out_len + len <= sizeof(p->out));
	memcpy(p->out + p->out_len, data, len);
	p->out_len += len;
}

static void accept_input(void *arg)
{
	struct port *p = arg;

	p->invited++;
}

static struct port *port_new(void)
{
	struct port *p = calloc(1, sizeof(*p));
	struct irq_line irq = { .fn = fake_irq_set, .arg = &p->irq };
	struct serial_wire wire = { .output = output, .accept_input = accept_input, .arg = p };
	struct err err;

	assert_int_equal(serial_new(&p->serial, &irq, &wire, &err), 0);
	return p;
}

static int setup(void **state)
{
	*state = port_new();
	return 0;
}

static int teardown(void **state)
{
	struct port *p = *state;

	serial_free(p->serial);
	free(p);
	return 0;
}

static uint8_t in(struct port *p, unsigned int reg)
{
	return get8(serial_access, p->serial, reg);
}

static void out(struct port *p, unsigned int reg, unsigned int value)
{
	put8(serial_access, p->serial, reg, value);
}

static size_t feed(struct port *p, const char *text)
{
	return serial_input(p->serial, (const uint8_t *)text, strlen(text));
}

/* A polling guest: LSR says there is room, always; IIR shows a 16550A's FIFO. */
static void a_polling_guest_prints(void **state)
{
	struct port *p = *state;
	const char *c;

	out(p, FCR, 0x07);
	assert_int_equal(in(p, IIR), 0xc1);
	for (c = "hello"; *c; c++) {
		assert_int_equal(in(p, LSR), 0x60);
		out(p, DATA, *c);
	}
	assert_int_equal(p->out_len, 5);
	assert_memory_equal(p->out, "hello", 5);
	assert_int_equal(p->irq.edges, 0);
}

static void divisor_and_scratch_are_kept(void **state)
{
	struct port *p = *state;

	out(p, SCR, 0x5a);
	out(p, LCR, 0x83);
	out(p, 0, 0x34);
	out(p, 1, 0x12);
	assert_int_equal(in(p, 0), 0x34);
	assert_int_equal(in(p, 1), 0x12);
	out(p, LCR, 0x03);
	assert_int_equal(in(p, IER), 0);
	assert_int_equal(in(p, SCR), 0x5a);
	assert_int_equal(p->out_len, 0);
	out(p, IER, 0xff);
	assert_int_equal(in(p, IER), 0x0f);
}

/* Linux 8250_port.c, serial8250_do_startup: the tests for a broken THRE and TXEN. */
static void thre_passes_the_driver_s_tests(void **state)
{
	struct port *p = *state;
	uint8_t first, second;

	out(p, IER, 0x02);
	first = in(p, IIR);
	out(p, IER, 0x00);
	out(p, IER, 0x02);
	second = in(p, IIR);
	out(p, IER, 0x00);
	assert_int_equal(first, 0x02);
	assert_int_equal(second, 0x02);
	out(p, IER, 0x02);
	assert_int_equal(in(p, LSR) & 0x40, 0x40);
	assert_int_equal(in(p, IIR), 0x02);
}

static void thre_interrupt_comes_once_a_byte(void **state)
{
	struct port *p = *state;

	out(p, MCR, 0x08);
	out(p, IER, 0x02);
	assert_true(p->irq.level);
	assert_int_equal(p->irq.edges, 1);
	assert_int_equal(in(p, IIR), 0x02);
	assert_false(p->irq.level);
	assert_int_equal(in(p, IIR), 0x01);
	out(p, DATA, 'a');
	assert_true(p->irq.level);
	assert_int_equal(p->irq.edges, 2);
	/* An edge-triggered controller sees the next one only if the line has been low. */
	out(p, DATA, 'b');
	assert_int_equal(p->irq.edges, 3);
	out(p, IER, 0x00);
	assert_false(p->irq.level);
}

static void out2_and_loopback_gate_the_interrupt(void **state)
{
	struct port *p = *state;

	out(p, IER, 0x02);
	assert_false(p->irq.level);
	out(p, MCR, 0x08);
	assert_true(p->irq.level);
	out(p, MCR, 0x18);
	assert_false(p->irq.level);
}

static void received_bytes_interrupt_by_trigger_and_timeout(void **state)
{
	struct port *p = *state;

	out(p, FCR, 0x81);	/* trigger at 8 */
	out(p, MCR, 0x08);
	out(p, IER, 0x01);
	assert_int_equal(feed(p, "abc"), 3);
	assert_true(p->irq.level);
	assert_int_equal(in(p, IIR), 0xcc);
	assert_int_equal(feed(p, "defgh"), 5);
	assert_int_equal(in(p, IIR), 0xc4);
	assert_int_equal(in(p, LSR), 0x61);
	assert_int_equal(in(p, DATA), 'a');
	assert_int_equal(in(p, IIR), 0xcc);
	while (in(p, LSR) & 1)
		in(p, DATA);
	assert_int_equal(in(p, IIR), 0xc1);
	assert_false(p->irq.level);
}

static void a_full_fifo_pushes_back(void **state)
{
	struct port *p = *state;
	unsigned int i;

	out(p, FCR, 0x01);
	assert_int_equal(feed(p, "0123456789abcdefXYZ"), 16);
	assert_int_equal(feed(p, "XYZ"), 0);
	for (i = 0; i < 16; i++) {
		assert_int_equal(p->invited, 0);
		assert_int_equal(in(p, DATA), "0123456789abcdef"[i]);
	}
	assert_int_equal(p->invited, 1);
	assert_int_equal(feed(p, "XYZ"), 3);
	assert_int_equal(in(p, LSR) & 2, 0);
}

static void without_fifo_there_is_room_for_one(void **state)
{
	struct port *p = *state;

	assert_int_equal(feed(p, "ab"), 1);
	assert_int_equal(in(p, LSR), 0x61);
	assert_int_equal(in(p, DATA), 'a');
	assert_int_equal(p->invited, 1);
	assert_int_equal(in(p, LSR), 0x60);
	/* Clearing makes room too. */
	out(p, FCR, 0x01);
	assert_int_equal(feed(p, "0123456789abcdefX"), 16);
	out(p, FCR, 0x03);
	assert_int_equal(p->invited, 2);
	assert_int_equal(in(p, LSR), 0x60);
}

static void loopback_turns_the_port_on_itself(void **state)
{
	struct port *p = *state;
	unsigned int i;

	out(p, FCR, 0x01);
	in(p, MSR);
	/* Linux's autoconfig: LOOP, OUT2, RTS must show as DCD, CTS. */
	out(p, MCR, 0x1a);
	assert_int_equal(in(p, MSR) & 0xf0, 0x90);
	out(p, DATA, 'x');
	assert_int_equal(p->out_len, 0);
	assert_int_equal(in(p, DATA), 'x');
	assert_int_equal(feed(p, "a"), 0);
	for (i = 0; i < 17; i++)
		out(p, DATA, 'o');
	assert_int_equal(in(p, LSR), 0x63);
	assert_int_equal(in(p, LSR), 0x61);
	out(p, FCR, 0x03);
	out(p, MCR, 0x0b);
	assert_int_equal(p->invited, 1);
	assert_int_equal(feed(p, "a"), 1);
	assert_int_equal(in(p, DATA), 'a');
}

static void modem_deltas_clear_on_read(void **state)
{
	struct port *p = *state;

	assert_int_equal(in(p, MSR), 0xb0);
	out(p, MCR, 0x10);
	assert_int_equal(in(p, MSR), 0x0b);
	assert_int_equal(in(p, MSR), 0x00);
	out(p, MCR, 0x14);
	assert_int_equal(in(p, MSR), 0x40);
	out(p, MCR, 0x10);
	assert_int_equal(in(p, MSR), 0x04);
}

static void a_line_error_interrupts_first(void **state)
{
	struct port *p = *state;

	out(p, MCR, 0x18);
	out(p, IER, 0x07);
	out(p, DATA, 'a');
	out(p, DATA, 'b');
	assert_int_equal(in(p, IIR), 0x06);
	assert_int_equal(in(p, LSR) & 2, 2);
	assert_int_equal(in(p, IIR), 0x04);
	assert_int_equal(in(p, DATA), 'b');
	assert_int_equal(in(p, IIR), 0x02);
	assert_int_equal(in(p, IIR), 0x01);
}

static void state_travels(void **state)
{
	struct port *p = *state, *q = port_new();
	struct buf buf = { 0 };
	struct err err;

	out(p, LCR, 0x83);
	out(p, 0, 1);
	out(p, 1, 0);
	out(p, LCR, 0x13);
	out(p, FCR, 0xc1);
	out(p, MCR, 0x0b);
	out(p, IER, 0x05);
	out(p, SCR, 0x77);
	assert_int_equal(feed(p, "in flight"), 9);
	state_torture(&serial_device_ops, p->serial, q->serial);
	q->irq = (struct fake_irq){ 0 };
	assert_int_equal(serial_device_ops.save(p->serial, &buf, &err), 0);
	assert_int_equal(serial_device_ops.load(q->serial, buf.data, buf.len, &err), 0);
	/* What was pending is pending there, as an edge. */
	assert_true(q->irq.level);
	assert_int_equal(q->irq.edges, 1);
	assert_int_equal(in(q, IIR), 0xcc);
	assert_int_equal(in(q, DATA), 'i');
	assert_int_equal(in(q, DATA), 'n');
	assert_int_equal(in(q, SCR), 0x77);
	assert_int_equal(in(q, LCR), 0x13);
	buf_fini(&buf);
	serial_free(q->serial);
	free(q);
}

static void hostile_state_is_refused(void **state)
{
	struct port *p = *state;

	out(p, SCR, 0x42);
	assert_refused(&serial_device_ops, p->serial, "\x08", "SerialState");
	assert_refused(&serial_device_ops, p->serial, "\x08\x10", "bits that do not exist");	/* IER 0x10 */
	assert_refused(&serial_device_ops, p->serial, "\x10\xc0\x01", "FIFO control");	/* trigger, FIFO off */
	assert_refused(&serial_device_ops, p->serial, "\x38\x80\x02", "bits that do not exist");	/* SCR 0x100 */
	/* 17 bytes for a FIFO of 16; 2 bytes without one. */
	assert_refused(&serial_device_ops, p->serial,
		       "\x10\x01\x52\x11"
		       "0123456789abcdefg",
		       "at most 16");
	assert_refused(&serial_device_ops, p->serial, "\x52\x02" "ab", "at most 1");
	/* A length beyond the end. */
	assert_refused(&serial_device_ops, p->serial,
		       "\x52\xff\xff\xff\xff\x0f"
		       "ab",
		       "SerialState");
	assert_int_equal(in(p, SCR), 0x42);
}

static void reset_forgets(void **state)
{
	struct port *p = *state;

	out(p, FCR, 0x01);
	out(p, MCR, 0x08);
	out(p, IER, 0x03);
	feed(p, "abc");
	assert_true(p->irq.level);
	serial_device_ops.reset(p->serial);
	assert_false(p->irq.level);
	assert_int_equal(in(p, LSR), 0x60);
	assert_int_equal(in(p, IER), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_polling_guest_prints),
		TEST(divisor_and_scratch_are_kept),
		TEST(thre_passes_the_driver_s_tests),
		TEST(thre_interrupt_comes_once_a_byte),
		TEST(out2_and_loopback_gate_the_interrupt),
		TEST(received_bytes_interrupt_by_trigger_and_timeout),
		TEST(a_full_fifo_pushes_back),
		TEST(without_fifo_there_is_room_for_one),
		TEST(loopback_turns_the_port_on_itself),
		TEST(modem_deltas_clear_on_read),
		TEST(a_line_error_interrupts_first),
		TEST(state_travels),
		TEST(hostile_state_is_refused),
		TEST(reset_forgets),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
