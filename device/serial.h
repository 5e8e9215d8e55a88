/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A serial port: a 16550A with its 16-byte FIFOs, as in the data sheet of
 * National Semiconductor's PC16550D (1995); section numbers in serial.c are
 * that sheet's.
 */
#ifndef POSTERN_DEVICE_SERIAL_H
#define POSTERN_DEVICE_SERIAL_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "device/device.h"

#define SERIAL_PORTS 8

struct serial;

/*
 * What the port is wired to. Called with the port's lock held, on any thread;
 * must neither wait nor call back.
 */
struct serial_wire {
	void (*output)(void *arg, const uint8_t *data, size_t len);
	/* There is room again after serial_input took less than it was offered. */
	void (*accept_input)(void *arg);
	void *arg;
};

extern const struct device_ops serial_device_ops;

/* -ENOMEM. irq and wire are copied, and outlive the port. */
int serial_new(struct serial **out, const struct irq_line *irq, const struct serial_wire *wire,
	       struct err *err);
void serial_free(struct serial *serial);
/* A bus_access_fn for SERIAL_PORTS ports, 1 byte wide. Any thread. */
void serial_access(void *serial, uint64_t offset, bool write, uint8_t *data, unsigned int size);
/*
 * Bytes arrive on the wire. Any thread. Returns how many the FIFO took;
 * accept_input says when to offer the rest.
 */
size_t serial_input(struct serial *serial, const uint8_t *data, size_t len);

#endif
