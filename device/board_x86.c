// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * board_x86.c - the PC's few devices that are not in the kernel's KVM: serial port, power management, clock.
 */
#include <stdlib.h>

#include "arch/x86/board.h"
#include "base/log.h"
#include "device/board.h"
#include "device/power.h"
#include "device/rtc.h"
#include "device/serial.h"

#define RTC_PORT 0x70
#define PORT_A 0x92

/* A line to the interrupt controllers. */
struct wire {
	struct vm *vm;
	unsigned int gsi;
};

struct board {
	struct wire com1, sci;
	struct chardev *chardev;
	struct serial *serial;
	struct power *power;
	struct rtc *rtc;
	struct device device[3];
	void (*quit)(void *arg);
	void *quit_arg;
};

static void wire_set(void *arg, bool level)
{
	const struct wire *wire = arg;
	int r = vm_irq_line(wire->vm, wire->gsi, level);

	if (r < 0)
		log_debug("interrupt line %u: error %d", wire->gsi, r);
}

static void serial_output(void *arg, const uint8_t *data, size_t len)
{
	const struct board *board = arg;

	chardev_write(board->chardev, data, len);
}

static void serial_accept(void *arg)
{
	const struct board *board = arg;

	chardev_accept_input(board->chardev);
}

static size_t chardev_input(void *arg, const uint8_t *data, size_t len)
{
	const struct board *board = arg;

	return serial_input(board->serial, data, len);
}

static void chardev_quit(void *arg)
{
	const struct board *board = arg;

	board->quit(board->quit_arg);
}

static int devices_new(struct board *board, const struct board_config *config, struct err *err)
{
	struct irq_line com1 = { .fn = wire_set, .arg = &board->com1 };
	struct serial_wire wire = {
		.output = serial_output, .accept_input = serial_accept, .arg = board,
	};
	struct power_config power = {
		.sci = { .fn = wire_set, .arg = &board->sci },
		.reset = config->reset, .shutdown = config->shutdown, .arg = config->arg,
		.s5_slp_typ = BOARD_S5_SLP_TYP,
	};
	int r;

	_Static_assert(BOARD_PM_TIMER_HZ == POWER_TIMER_HZ, "one PM timer");
	board->com1 = (struct wire){ config->vm, BOARD_COM1_GSI };
	board->sci = (struct wire){ config->vm, BOARD_SCI_GSI };
	r = serial_new(&board->serial, &com1, &wire, err);
	if (r < 0)
		return r;
	r = power_new(&board->power, &power, err);
	if (r < 0)
		return r;
	r = rtc_new(&board->rtc, NULL, err);
	if (r < 0)
		return r;
	board->device[0] = (struct device){ &serial_device_ops, board->serial };
	board->device[1] = (struct device){ &power_device_ops, board->power };
	board->device[2] = (struct device){ &rtc_device_ops, board->rtc };
	return 0;
}

static int ports_add(const struct board *board, struct bus *pio, struct err *err)
{
	const struct {
		const char *owner;
		uint16_t port, len;
		unsigned int width;
		bus_access_fn access;
		void *arg;
	} ports[] = {
		{ "serial", BOARD_COM1, BOARD_COM1_PORTS, 1, serial_access, board->serial },
		{ "rtc", RTC_PORT, RTC_PORTS, 1, rtc_access, board->rtc },
		{ "pm1 event", BOARD_PM1_EVENT, BOARD_PM1_EVENT_BYTES, 1, power_event_access, board->power },
		{ "pm1 control", BOARD_PM1_CONTROL, BOARD_PM1_CONTROL_BYTES, 1, power_control_access,
		  board->power },
		{ "pm timer", BOARD_PM_TIMER, BOARD_PM_TIMER_BYTES, 4, power_timer_access, board->power },
		{ "reset control", BOARD_RESET_PORT, 1, 1, power_reset_access, board->power },
		{ "i8042", BOARD_I8042_COMMAND, 1, 1, power_i8042_access, board->power },
		{ "port a", PORT_A, 1, 1, power_port_a_access, board->power },
	};
	size_t i;
	int r = 0;

	for (i = 0; i < sizeof(ports) / sizeof(ports[0]) && r == 0; i++)
		r = bus_add(pio, ports[i].owner, ports[i].port, ports[i].len, ports[i].width,
			    ports[i].access, ports[i].arg, err);
	return r;
}

int board_new(struct board **out, const struct board_config *config, struct err *err)
{
	struct board *board = calloc(1, sizeof(*board));
	struct chardev_ops ops = {
		.input = chardev_input, .quit = chardev_quit, .arg = board,
	};
	int r;

	if (!board)
		return err_set(err, -ENOMEM, "no memory for the board");
	board->quit = config->quit;
	board->quit_arg = config->arg;
	r = devices_new(board, config, err);
	if (r == 0)
		r = ports_add(board, config->pio, err);
	if (r == 0)
		r = chardev_new(&board->chardev, config->loop, config->serial, &ops, err);
	if (r < 0) {
		board_free(board);
		return r;
	}
	*out = board;
	return 0;
}

void board_free(struct board *board)
{
	if (!board)
		return;
	chardev_free(board->chardev);
	serial_free(board->serial);
	power_free(board->power);
	rtc_free(board->rtc);
	free(board);
}

const struct device *board_devices(const struct board *board, unsigned int *n)
{
	*n = sizeof(board->device) / sizeof(board->device[0]);
	return board->device;
}

void board_press_power_button(struct board *board)
{
	power_press_button(board->power);
}
