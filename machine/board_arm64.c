// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * board_arm64.c - a serial port and the identity are all there is beside what
 * KVM has in the kernel. Power off and reset are PSCI calls, which KVM takes and tells as
 * system events; there is neither a power button nor, without message signalled
 * interrupts, a bus for virtio.
 */
#include <errno.h>

#include "arch/arm64/board.h"
#include "base/log.h"
#include "machine/board_internal.h"

static void line_set(const struct board *board, unsigned int spi, bool level)
{
	int r = vm_irq_line(board->vm, BOARD_IRQ_LINE(spi), level);

	if (r < 0)
		log_debug("shared interrupt %u: error %d", spi, r);
}

static void serial_line(void *arg, bool level)
{
	line_set(arg, BOARD_SERIAL_SPI, level);
}

static void identity_line(void *arg, bool level)
{
	line_set(arg, BOARD_IDENTITY_SPI, level);
}

int board_own_new(struct board *board, const struct board_config *config, struct err *err)
{
	struct irq_line line = { .fn = serial_line, .arg = board };
	struct irq_line identity = { .fn = identity_line, .arg = board };
	int r;

	if (config->virtio->n)
		return err_set(err, -ENOTSUP, "--%s: virtio devices are for x86-64 so far",
			       config->virtio->option[0].type->option);
	_Static_assert(BOARD_IDENTITY_BYTES == IDENTITY_PAGES * PAGE_BYTES, "two pages");
	_Static_assert(BOARD_SERIAL_BYTES == SERIAL_PORTS, "a register each byte");
	r = board_add_serial(board, &line, err);
	if (!r)
		r = board_add_identity(board, &identity, err);
	if (r < 0)
		return r;
	return bus_add(config->mmio, "serial", BOARD_SERIAL, BOARD_SERIAL_BYTES, 1, serial_access,
		       board->serial, err);
}

void board_own_free(struct board *board)
{
	(void)board;
}

void board_press_power_button(struct board *board)
{
	(void)board;
	log_warn("this machine has no power button");
}
