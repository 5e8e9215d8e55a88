// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * board_arm64.c - a serial port is all there is beside what KVM has in the kernel. Power off and reset are PSCI calls, which KVM
 * takes and tells as system events; there is neither a power button nor, without message signalled interrupts, a bus for
 * virtio.
 */
#include <errno.h>
#include <stdlib.h>

#include "arch/arm64/board.h"
#include "base/log.h"
#include "device/serial.h"
#include "machine/board.h"

struct board {
	struct vm *vm;
	struct chardev *chardev;
	struct serial *serial;
	struct device device[1];
	struct device_event_sink events;
};

static void serial_line(void *arg, bool level)
{
	const struct board *board = arg;
	int r = vm_irq_line(board->vm, BOARD_IRQ_LINE(BOARD_SERIAL_SPI), level);

	if (r < 0)
		log_debug("the serial port's interrupt: error %d", r);
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

	device_event(&board->events, &(struct device_event){ .kind = DEVICE_EVENT_QUIT });
}

static int serial_add(struct board *board, const struct board_config *config, struct err *err)
{
	struct irq_line line = { .fn = serial_line, .arg = board };
	struct serial_wire wire = {
		.output = serial_output, .accept_input = serial_accept, .arg = board,
	};
	struct chardev_ops ops = {
		.input = chardev_input, .quit = chardev_quit, .arg = board,
	};
	int r;

	_Static_assert(BOARD_SERIAL_BYTES == SERIAL_PORTS, "a register each byte");
	r = serial_new(&board->serial, &line, &wire, err);
	if (r < 0)
		return r;
	board->device[0] = (struct device){ &serial_device_ops, board->serial };
	r = bus_add(config->mmio, "serial", BOARD_SERIAL, BOARD_SERIAL_BYTES, 1, serial_access, board->serial, err);
	return r < 0 ? r : chardev_new(&board->chardev, config->loop, config->serial, &ops, err);
}

int board_new(struct board **out, const struct board_config *config, struct err *err)
{
	struct board *board;
	int r;

	if (config->virtio->n)
		return err_set(err, -ENOTSUP, "--%s: virtio devices are for x86-64 so far",
			       config->virtio->choice[0].kind->option);
	board = calloc(1, sizeof(*board));
	if (!board)
		return err_set(err, -ENOMEM, "no memory for the board");
	board->vm = config->vm;
	board->events = config->events;
	r = serial_add(board, config, err);
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
	free(board);
}

const struct device *board_devices(const struct board *board, unsigned int *n)
{
	*n = 1;
	return board->device;
}

void board_press_power_button(struct board *board)
{
	(void)board;
	log_warn("this machine has no power button");
}

/* ---- nothing on this board works beside the vCPUs ---- */

void board_start(struct board *board)
{
	(void)board;
}

void board_stop(struct board *board)
{
	(void)board;
}

void board_memory_complete(struct board *board)
{
	(void)board;
}

int board_drain(struct board *board, int64_t deadline_ns, struct err *err)
{
	(void)board, (void)deadline_ns, (void)err;
	return 0;
}

bool board_is_busy(struct board *board)
{
	(void)board;
	return false;
}

/* ---- no virtio devices ---- */

struct vdev *board_balloon(const struct board *board)
{
	(void)board;
	return NULL;
}

int board_claim(struct board *board, struct err *err)
{
	(void)board, (void)err;
	return 0;
}

void board_release(struct board *board)
{
	(void)board;
}

bool board_disk(struct board *board, unsigned int i, struct disk_info *info)
{
	(void)board, (void)i, (void)info;
	return false;
}
