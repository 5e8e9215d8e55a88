// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// The board's devices: a state from a peer, then what a guest does to their
// registers. The first byte says which device.
#include "device/identity.h"
#include "device/power.h"
#include "device/rtc.h"
#include "device/serial.h"
#include "state.h"

static void set_line(void *arg, bool level)
{
	(void)arg, (void)level;
}

static void asked(void *arg)
{
	(void)arg;
}

static void output(void *arg, const uint8_t *data, size_t len)
{
	(void)arg, (void)data, (void)len;
}

static void none_access(void *dev, uint64_t offset, bool write, uint8_t *data, unsigned int size)
{
	(void)dev, (void)offset, (void)write, (void)data, (void)size;
}

typedef void (*access_fn)(void *dev, uint64_t offset, bool write, uint8_t *data, unsigned int size);

/* The first half is a state, the rest pairs of offset (top bit: write) and value. */
static void drive(const struct device_ops *ops, void *dev, access_fn access, unsigned int ports,
		  unsigned int width, const uint8_t *data, size_t size)
{
	uint8_t value[4] = { 0 };
	struct buf state = { 0 };
	struct err err;
	size_t i;

	fuzz_load(ops, dev, data, size / 2);
	for (i = size / 2; i + 1 < size; i += 2) {
		value[0] = data[i + 1];
		access(dev, data[i] % ports, data[i] & 0x80, value, width);
	}
	/* Whatever it went through, its state can be saved and loaded. */
	if (ops->save(dev, &state, &err) || ops->load(dev, state.data, state.len, &err))
		__builtin_trap();
	ops->reset(dev);
	buf_fini(&state);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static _Alignas(PAGE_BYTES) uint8_t pages[IDENTITY_PAGES * PAGE_BYTES];
	const struct irq_line irq = { .fn = set_line };
	const struct serial_wire wire = { .output = output, .accept_input = asked };
	const struct power_config config = { .sci = irq, .s5_slp_typ = 5 };
	struct serial *serial;
	struct power *power;
	struct identity *identity;
	struct rtc *rtc;
	struct err err;

	if (!size || serial_new(&serial, &irq, &wire, &err))
		return 0;
	if (power_new(&power, &config, &err) || rtc_new(&rtc, NULL, &err) ||
	    identity_new(&identity, pages, &irq, &err))
		__builtin_trap();
	switch (data[0] % 4) {
	case 0:
		serial_input(serial, data, size < 16 ? size : 16);
		drive(&serial_device_ops, serial, serial_access, SERIAL_PORTS, 1, data + 1,
		      size - 1);
		break;
	case 1:
		drive(&power_device_ops, power, power_event_access, 4, 1, data + 1, size - 1);
		power_press_button(power);
		break;
	case 2:
		drive(&identity_device_ops, identity, none_access, 1, 1, data + 1, size - 1);
		identity_disrupt(identity);
		break;
	default:
		drive(&rtc_device_ops, rtc, rtc_access, 2, 1, data + 1, size - 1);
	}
	identity_free(identity);
	rtc_free(rtc);
	power_free(power);
	serial_free(serial);
	return 0;
}
