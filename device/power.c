// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * power.c - ACPI's fixed registers, power button, soft off, and the reset
 * ports.
 *
 * There is no SMI command port: the machine is in ACPI mode from the start, so
 * SCI_EN always reads as set.
 *
 * The PM timer is CLOCK_MONOTONIC at 3.579545 MHz, 32 bits wide to the guest.
 * It counts on in a paused machine; in a migrated one it goes on from the count
 * that was saved. TMR_STS is worked out when it is looked at (has bit 31
 * changed since it was last cleared?); the interrupt that TMR_EN asks for is
 * not sent, since nobody has asked for it in decades: a guest that wants a
 * 20-minute tick has better timers.
 */
#include "device/power.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/proto.h"
#include "power.pb-c.h"

enum {
	PM1_TIMER = 1 << 0, PM1_GLOBAL = 1 << 5, PM1_BUTTON = 1 << 8, PM1_RTC = 1 << 10,
	PM1_WAKE = 1 << 15,
	/* What can be enabled. */
	PM1_ENABLES = PM1_TIMER | PM1_GLOBAL | PM1_BUTTON | PM1_RTC,
	CONTROL_SCI_EN = 1 << 0, CONTROL_SLP_TYP_SHIFT = 10, CONTROL_SLP_TYP_MASK = 7,
	CONTROL_SLP_EN = 1 << 13,
	/* What reads back as written: BM_RLD and SLP_TYP. */
	CONTROL_STORED = 1 << 1 | CONTROL_SLP_TYP_MASK << CONTROL_SLP_TYP_SHIFT,
	RESET_CPU = 1 << 2, RESET_STORED = 0x0a,
	I8042_PULSE_RESET = 0xfe,
	PORT_A_RESET = 1 << 0, PORT_A_A20 = 1 << 1,
};

/*
 * The keyboard controller's status while there is no such controller. Output
 * full and never empty, so that a driver that probes gives up at once; input
 * empty, so that whoever waits to write the reset command need not.
 */
#define I8042_STATUS_NONE 0xfd

#define CARRY_BIT 31

struct power {
	struct power_config config;
	pthread_mutex_t lock;	/* guards all below; the interrupt controller's lock comes after it */
	uint16_t status, enable, control;
	int64_t timer_zero_ns;	/* when the timer counted timer_base */
	uint64_t timer_base;
	uint64_t carry_seen;	/* ticks >> CARRY_BIT when TMR_STS was last cleared */
	uint8_t reset_control, port_a;
	bool level;
};

static uint64_t ticks_now(const struct power *p)
{
	int64_t ns = p->config.now_ns() - p->timer_zero_ns;

	if (ns < 0)
		ns = 0;
	return p->timer_base + (uint64_t)((unsigned __int128)ns * POWER_TIMER_HZ / NS_PER_SEC);
}

static bool carry(const struct power *p)
{
	return ticks_now(p) >> CARRY_BIT != p->carry_seen;
}

static void sci_update(struct power *p)
{
	bool level = p->status & p->enable;

	if (level == p->level)
		return;
	p->level = level;
	irq_line_set(&p->config.sci, level);
}

static void put_byte(uint16_t *reg, unsigned int byte, uint8_t value, uint16_t mask)
{
	unsigned int shift = byte * 8;
	uint16_t lane = (uint16_t)(0xffu << shift);

	*reg = (uint16_t)((*reg & ~lane) | ((unsigned int)value << shift & mask & lane));
}

void power_event_access(void *power, uint64_t offset, bool write, uint8_t *data, unsigned int size)
{
	struct power *p = power;
	unsigned int shift = (offset & 1) * 8;

	(void)size;
	pthread_mutex_lock(&p->lock);
	if (write && offset >= 2) {
		put_byte(&p->enable, offset & 1, *data, PM1_ENABLES);
	} else if (write) {
		/* Ones clear. */
		if (offset == 0 && *data & PM1_TIMER)
			p->carry_seen = ticks_now(p) >> CARRY_BIT;
		p->status &= (uint16_t)~((unsigned int)*data << shift);
	} else if (offset >= 2) {
		*data = (uint8_t)(p->enable >> shift);
	} else {
		*data = (uint8_t)((p->status | (carry(p) ? PM1_TIMER : 0)) >> shift);
	}
	sci_update(p);
	pthread_mutex_unlock(&p->lock);
}

static void power_ask(const struct power *p, enum device_event_type what)
{
	device_event(&p->config.events, &(struct device_event){ .type = what });
}

void power_control_access(void *power, uint64_t offset, bool write, uint8_t *data,
			  unsigned int size)
{
	struct power *p = power;
	bool off = false;

	(void)size;
	pthread_mutex_lock(&p->lock);
	if (write) {
		put_byte(&p->control, (unsigned int)offset, *data, CONTROL_STORED);
		off = offset == 1 && *data & CONTROL_SLP_EN >> 8 &&
		      (p->control >> CONTROL_SLP_TYP_SHIFT & CONTROL_SLP_TYP_MASK) ==
			      p->config.s5_slp_typ;
	} else {
		*data = (uint8_t)((p->control | CONTROL_SCI_EN) >> (offset * 8));
	}
	pthread_mutex_unlock(&p->lock);
	if (off)
		power_ask(p, DEVICE_EVENT_SHUTDOWN);
}

void power_timer_access(void *power, uint64_t offset, bool write, uint8_t *data, unsigned int size)
{
	struct power *p = power;
	uint32_t ticks;
	unsigned int i;

	if (write)
		return;
	pthread_mutex_lock(&p->lock);
	ticks = (uint32_t)ticks_now(p);
	pthread_mutex_unlock(&p->lock);
	for (i = 0; i < size; i++)
		data[i] = (uint8_t)(ticks >> ((offset + i) * 8));
}

void power_reset_access(void *power, uint64_t offset, bool write, uint8_t *data, unsigned int size)
{
	struct power *p = power;
	bool reset = false;

	(void)offset;
	(void)size;
	pthread_mutex_lock(&p->lock);
	if (write) {
		p->reset_control = *data & RESET_STORED;
		reset = *data & RESET_CPU;
	} else {
		*data = p->reset_control;
	}
	pthread_mutex_unlock(&p->lock);
	if (reset)
		power_ask(p, DEVICE_EVENT_RESET);
}

void power_i8042_access(void *power, uint64_t offset, bool write, uint8_t *data, unsigned int size)
{
	struct power *p = power;

	(void)offset;
	(void)size;
	if (!write)
		*data = I8042_STATUS_NONE;
	else if (*data == I8042_PULSE_RESET)
		power_ask(p, DEVICE_EVENT_RESET);
}

void power_port_a_access(void *power, uint64_t offset, bool write, uint8_t *data, unsigned int size)
{
	struct power *p = power;
	bool reset = false;

	(void)offset;
	(void)size;
	pthread_mutex_lock(&p->lock);
	if (write) {
		reset = *data & PORT_A_RESET;
		p->port_a = *data & PORT_A_A20;
	} else {
		*data = p->port_a;
	}
	pthread_mutex_unlock(&p->lock);
	if (reset)
		power_ask(p, DEVICE_EVENT_RESET);
}

void power_press_button(struct power *p)
{
	pthread_mutex_lock(&p->lock);
	p->status |= PM1_BUTTON;
	sci_update(p);
	pthread_mutex_unlock(&p->lock);
}

static void power_regs_reset(struct power *p)
{
	p->status = p->enable = p->control = 0;
	p->timer_zero_ns = p->config.now_ns();
	p->timer_base = p->carry_seen = 0;
	p->reset_control = 0;
	p->port_a = PORT_A_A20;
}

int power_new(struct power **out, const struct power_config *config, struct err *err)
{
	struct power *p = calloc(1, sizeof(*p));

	if (!p)
		return err_set(err, -ENOMEM, "no memory for the power management device");
	pthread_mutex_init(&p->lock, NULL);
	p->config = *config;
	if (!p->config.now_ns)
		p->config.now_ns = clock_now_ns;
	power_regs_reset(p);
	*out = p;
	return 0;
}

void power_free(struct power *p)
{
	if (!p)
		return;
	pthread_mutex_destroy(&p->lock);
	free(p);
}

static void power_reset(void *dev)
{
	struct power *p = dev;

	pthread_mutex_lock(&p->lock);
	power_regs_reset(p);
	sci_update(p);
	pthread_mutex_unlock(&p->lock);
}

static int power_save(void *dev, struct buf *out, struct err *err)
{
	Postern__Device__PowerState msg = POSTERN__DEVICE__POWER_STATE__INIT;
	struct power *p = dev;
	uint8_t *to;

	pthread_mutex_lock(&p->lock);
	msg.status = p->status;
	msg.enable = p->enable;
	msg.control = p->control;
	msg.ticks = ticks_now(p);
	msg.carry = carry(p);
	msg.reset_control = p->reset_control;
	msg.port_a = p->port_a;
	pthread_mutex_unlock(&p->lock);
	to = buf_reserve(out, postern__device__power_state__get_packed_size(&msg));
	if (!to)
		return err_set(err, -ENOMEM, "no memory for the power management state");
	out->len += postern__device__power_state__pack(&msg, to);
	return 0;
}

static int power_load(void *dev, const uint8_t *data, size_t len, struct err *err)
{
	Postern__Device__PowerState *msg = proto_unpack(&postern__device__power_state__descriptor,
							data, len, PROTO_FIELDS_MAX, err);
	struct power *p = dev;

	if (!msg)
		return -EINVAL;
	if (msg->status & ~(uint32_t)(PM1_GLOBAL | PM1_BUTTON | PM1_RTC | PM1_WAKE) ||
	    msg->enable & ~(uint32_t)PM1_ENABLES || msg->control & ~(uint32_t)CONTROL_STORED ||
	    msg->reset_control & ~(uint32_t)RESET_STORED || msg->port_a & ~(uint32_t)PORT_A_A20) {
		postern__device__power_state__free_unpacked(msg, NULL);
		return err_set(err, -EINVAL, "a register has bits that do not exist");
	}
	pthread_mutex_lock(&p->lock);
	p->status = (uint16_t)msg->status;
	p->enable = (uint16_t)msg->enable;
	p->control = (uint16_t)msg->control;
	p->timer_zero_ns = p->config.now_ns();
	p->timer_base = msg->ticks;
	p->carry_seen = (msg->ticks >> CARRY_BIT) - msg->carry;
	p->reset_control = (uint8_t)msg->reset_control;
	p->port_a = (uint8_t)msg->port_a;
	p->level = p->status & p->enable;
	irq_line_set(&p->config.sci, p->level);
	pthread_mutex_unlock(&p->lock);
	postern__device__power_state__free_unpacked(msg, NULL);
	return 0;
}

const struct device_ops power_device_ops = {
	.name = "power",
	.version = 1,
	.save = power_save,
	.load = power_load,
	.reset = power_reset,
};
