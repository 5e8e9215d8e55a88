// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "device/power.h"
#include "fixture.h"

enum { STATUS = 0, ENABLE = 2 };

static int64_t now;

static int64_t now_ns(void)
{
	return now;
}

struct box {
	struct power *power;
	struct fake_irq sci;
	unsigned int resets, shutdowns;
};

static void on_event(void *arg, const struct device_event *event)
{
	struct box *b = arg;

	b->resets += event->type == DEVICE_EVENT_RESET;
	b->shutdowns += event->type == DEVICE_EVENT_SHUTDOWN;
}

static struct box *box_new(void)
{
	struct box *b = calloc(1, sizeof(*b));
	struct power_config config = {
		.sci = { .fn = fake_irq_set, .arg = &b->sci },
		.events = { on_event, b }, .s5_slp_typ = 5, .now_ns = now_ns,
	};
	struct err err;

	assert_int_equal(power_new(&b->power, &config, &err), 0);
	return b;
}

static int setup(void **state)
{
	now = 7 * NS_PER_SEC;
	*state = box_new();
	return 0;
}

static void box_free(struct box *b)
{
	power_free(b->power);
	free(b);
}

static int teardown(void **state)
{
	box_free(*state);
	return 0;
}

static uint32_t timer(struct box *b)
{
	uint8_t data[4];

	power_timer_access(b->power, 0, false, data, 4);
	return data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 | (uint32_t)data[3] << 24;
}

static void only_s5_switches_off(void **state)
{
	struct box *b = *state;

	put8(power_control_access, b->power, 1, 0x20 | 3 << 2);
	assert_int_equal(b->shutdowns, 0);
	put8(power_control_access, b->power, 1, 5 << 2);
	assert_int_equal(b->shutdowns, 0);
	/* As a guest does it: a word, type and enable at once. */
	put8(power_control_access, b->power, 0, 1);
	put8(power_control_access, b->power, 1, 0x20 | 5 << 2);
	assert_int_equal(b->shutdowns, 1);
	/* SLP_EN never reads back, SCI_EN always does. */
	assert_int_equal(get8(power_control_access, b->power, 1), 5 << 2);
	assert_int_equal(get8(power_control_access, b->power, 0), 1);
}

static void the_button_interrupts_if_enabled(void **state)
{
	struct box *b = *state;

	power_press_button(b->power);
	assert_false(b->sci.level);
	assert_int_equal(get8(power_event_access, b->power, STATUS + 1), 1);
	put8(power_event_access, b->power, ENABLE + 1, 1);
	assert_true(b->sci.level);
	put8(power_event_access, b->power, STATUS, 0xff);
	assert_true(b->sci.level);
	put8(power_event_access, b->power, STATUS + 1, 1);
	assert_false(b->sci.level);
	power_press_button(b->power);
	assert_int_equal(b->sci.edges, 2);
}

static void the_timer_runs_at_its_rate(void **state)
{
	struct box *b = *state;
	uint8_t byte;

	assert_int_equal(timer(b), 0);
	now += NS_PER_SEC;
	assert_int_equal(timer(b), 3579545);
	now += 1000 * NS_PER_SEC;
	assert_int_equal(timer(b), (uint32_t)(1001ull * 3579545));
	power_timer_access(b->power, 1, false, &byte, 1);
	assert_int_equal(byte, (uint8_t)(timer(b) >> 8));
	/* Read-only. */
	put8(power_timer_access, b->power, 0, 0);
	assert_int_equal(timer(b), (uint32_t)(1001ull * 3579545));
}

static void the_timer_s_carry_shows_once(void **state)
{
	struct box *b = *state;

	assert_int_equal(get8(power_event_access, b->power, STATUS) & 1, 0);
	now += 600 * NS_PER_SEC;	/* bit 31 changes after 599.93 s */
	assert_int_equal(get8(power_event_access, b->power, STATUS) & 1, 1);
	put8(power_event_access, b->power, STATUS, 1);
	assert_int_equal(get8(power_event_access, b->power, STATUS) & 1, 0);
	now += 600 * NS_PER_SEC;
	assert_int_equal(get8(power_event_access, b->power, STATUS) & 1, 1);
}

static void three_ports_reset(void **state)
{
	struct box *b = *state;

	put8(power_reset_access, b->power, 0, 0x02);
	assert_int_equal(b->resets, 0);
	put8(power_reset_access, b->power, 0, 0x06);
	assert_int_equal(b->resets, 1);
	put8(power_i8042_access, b->power, 0, 0xaa);
	assert_int_equal(b->resets, 1);
	put8(power_i8042_access, b->power, 0, 0xfe);
	assert_int_equal(b->resets, 2);
	put8(power_port_a_access, b->power, 0, 0x02);
	assert_int_equal(b->resets, 2);
	put8(power_port_a_access, b->power, 0, 0x03);
	assert_int_equal(b->resets, 3);
	assert_int_equal(get8(power_port_a_access, b->power, 0), 0x02);
	/* Output full: a probe ends at once. Input empty: a reset need not wait. */
	assert_int_equal(get8(power_i8042_access, b->power, 0) & 3, 1);
}

static void state_travels(void **state)
{
	struct box *b = *state, *c;
	struct buf buf = { 0 };
	struct err err;

	put8(power_event_access, b->power, ENABLE + 1, 1);
	put8(power_control_access, b->power, 1, 3 << 2);
	power_press_button(b->power);
	now += 5 * NS_PER_SEC;
	assert_int_equal(power_device_ops.save(b->power, &buf, &err), 0);
	now += 1000 * NS_PER_SEC;	/* another host's clock */
	c = box_new();
	state_torture(&power_device_ops, b->power, c->power);
	c->sci = (struct fake_irq){ 0 };
	assert_int_equal(power_device_ops.load(c->power, buf.data, buf.len, &err), 0);
	assert_true(c->sci.level);
	assert_int_equal(timer(c), 5 * 3579545);
	now += NS_PER_SEC;
	assert_int_equal(timer(c), 6 * 3579545);
	assert_int_equal(get8(power_event_access, c->power, STATUS + 1), 1);
	assert_int_equal(get8(power_control_access, c->power, 1), 3 << 2);
	buf_fini(&buf);
	box_free(c);
}

static void the_carry_travels(void **state)
{
	struct box *b = *state, *c = box_new();
	struct buf buf = { 0 };
	struct err err;

	now += 600 * NS_PER_SEC;
	assert_int_equal(power_device_ops.save(b->power, &buf, &err), 0);
	assert_int_equal(power_device_ops.load(c->power, buf.data, buf.len, &err), 0);
	assert_int_equal(get8(power_event_access, c->power, STATUS), 1);
	put8(power_event_access, c->power, STATUS, 1);
	assert_int_equal(get8(power_event_access, c->power, STATUS), 0);
	buf_fini(&buf);
	box_free(c);
}

static void hostile_state_is_refused(void **state)
{
	struct box *b = *state;

	assert_refused(&power_device_ops, b->power, "\x08", "PowerState");
	assert_refused(&power_device_ops, b->power, "\x08\x01", "bits");		/* TMR_STS is no bit of it */
	assert_refused(&power_device_ops, b->power, "\x10\x80\x80\x04", "bits");	/* enable 0x10000 */
	assert_refused(&power_device_ops, b->power, "\x18\x80\x40", "bits");	/* SLP_EN */
	assert_refused(&power_device_ops, b->power, "\x30\x04", "bits");		/* RST_CPU */
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(only_s5_switches_off),
		TEST(the_button_interrupts_if_enabled),
		TEST(the_timer_runs_at_its_rate),
		TEST(the_timer_s_carry_shows_once),
		TEST(three_ports_reset),
		TEST(state_travels),
		TEST(the_carry_travels),
		TEST(hostile_state_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
