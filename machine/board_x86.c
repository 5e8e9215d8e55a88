// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * board_x86.c - the PC's few devices that are not in the kernel's KVM: serial
 * port, power management, clock, identity, and the PCI bus.
 */
#include <errno.h>
#include <stdlib.h>

#include "arch/x86/board.h"
#include "base/log.h"
#include "device/power.h"
#include "device/rtc.h"
#include "machine/board_internal.h"

#define RTC_PORT 0x70
#define PORT_A 0x92

/* A line to the interrupt controllers. */
struct wire {
	struct vm *vm;
	unsigned int gsi;
};

struct pc {
	struct wire com1, sci, identity;
	struct power *power;
	struct rtc *rtc;
};

static void wire_set(void *arg, bool level)
{
	const struct wire *wire = arg;
	int r = vm_irq_line(wire->vm, wire->gsi, level);

	if (r < 0)
		log_debug("interrupt line %u: error %d", wire->gsi, r);
}

/* The reset port is byte 1 of the PCI address register, which takes whole words only. */
static void config_port_access(void *arg, uint64_t offset, bool write, uint8_t *data,
			       unsigned int size)
{
	struct board *board = arg;
	const struct pc *pc = board->own;

	if (offset == BOARD_RESET_PORT - BOARD_PCI_CONFIG && size == 1)
		power_reset_access(pc->power, 0, write, data, size);
	else
		pci_host_port_access(board->pci, offset, write, data, size);
}

static int devices_new(struct board *board, const struct board_config *config, struct err *err)
{
	struct pc *pc = board->own;
	struct irq_line com1 = { .fn = wire_set, .arg = &pc->com1 };
	struct irq_line identity = { .fn = wire_set, .arg = &pc->identity };
	struct power_config power = {
		.sci = { .fn = wire_set, .arg = &pc->sci },
		.events = config->events,
		.s5_slp_typ = BOARD_S5_SLP_TYP,
	};
	const struct pci_range windows[PCI_WINDOWS] = {
		{ BOARD_PCI_LOW_BASE, BOARD_PCI_LOW_BYTES },
		{ BOARD_PCI_HIGH_BASE, BOARD_PCI_HIGH_BYTES },
	};
	int r;

	_Static_assert(BOARD_PM_TIMER_HZ == POWER_TIMER_HZ, "one PM timer");
	_Static_assert(BOARD_PCI_ECAM_BYTES == PCI_ECAM_BYTES, "configuration space of one bus");
	pc->com1 = (struct wire){ config->vm, BOARD_COM1_GSI };
	_Static_assert(BOARD_IDENTITY_BYTES == IDENTITY_PAGES * PAGE_BYTES, "two pages");
	pc->sci = (struct wire){ config->vm, BOARD_SCI_GSI };
	pc->identity = (struct wire){ config->vm, BOARD_IDENTITY_GSI };
	r = board_add_serial(board, &com1, err);
	if (r < 0)
		return r;
	r = power_new(&pc->power, &power, err);
	if (r < 0)
		return r;
	r = rtc_new(&pc->rtc, NULL, err);
	if (r < 0)
		return r;
	board_add_device(board, &power_device_ops, pc->power);
	board_add_device(board, &rtc_device_ops, pc->rtc);
	r = board_add_identity(board, &identity, err);
	if (r < 0)
		return r;
	return board_add_pci(board, config->mmio, BOARD_PCI_ECAM, windows, err);
}

static int ports_add(struct board *board, struct bus *pio, struct err *err)
{
	struct pc *pc = board->own;
	const struct {
		const char *owner;
		uint16_t port, len;
		unsigned int width;
		bus_access_fn access;
		void *arg;
	} ports[] = {
		{ "serial", BOARD_COM1, BOARD_COM1_PORTS, 1, serial_access, board->serial },
		{ "rtc", RTC_PORT, RTC_PORTS, 1, rtc_access, pc->rtc },
		{ "pm1 event", BOARD_PM1_EVENT, BOARD_PM1_EVENT_BYTES, 1, power_event_access, pc->power },
		{ "pm1 control", BOARD_PM1_CONTROL, BOARD_PM1_CONTROL_BYTES, 1, power_control_access,
		  pc->power },
		{ "pm timer", BOARD_PM_TIMER, BOARD_PM_TIMER_BYTES, 4, power_timer_access, pc->power },
		{ "PCI configuration", BOARD_PCI_CONFIG, BOARD_PCI_CONFIG_PORTS, 4, config_port_access, board },
		{ "i8042", BOARD_I8042_COMMAND, 1, 1, power_i8042_access, pc->power },
		{ "port a", PORT_A, 1, 1, power_port_a_access, pc->power },
	};
	size_t i;
	int r = 0;

	for (i = 0; i < sizeof(ports) / sizeof(ports[0]) && r == 0; i++)
		r = bus_add(pio, ports[i].owner, ports[i].port, ports[i].len, ports[i].width,
			    ports[i].access, ports[i].arg, err);
	return r;
}

int board_own_new(struct board *board, const struct board_config *config, struct err *err)
{
	int r;

	board->own = calloc(1, sizeof(struct pc));
	if (!board->own)
		return err_set(err, -ENOMEM, "no memory for the board");
	r = devices_new(board, config, err);
	return r < 0 ? r : ports_add(board, config->pio, err);
}

void board_own_free(struct board *board)
{
	struct pc *pc = board->own;

	if (!pc)
		return;
	power_free(pc->power);
	rtc_free(pc->rtc);
	free(pc);
}

void board_press_power_button(struct board *board)
{
	const struct pc *pc = board->own;

	power_press_button(pc->power);
}
