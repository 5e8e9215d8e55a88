/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Power management: ACPI's fixed hardware (event and control block, timer,
 * power button, soft off; ACPI 6.5 section 4.8) and the ports by which a PC is
 * reset.
 */
#ifndef POSTERN_DEVICE_POWER_H
#define POSTERN_DEVICE_POWER_H

#include <stdint.h>

#include "base/err.h"
#include "device/device.h"
#include "device/event.h"

#define POWER_TIMER_HZ 3579545

struct power;

struct power_config {
	struct irq_line sci;
	/* RESET and SHUTDOWN; on a vCPU thread, no lock held. */
	struct device_event_sink events;
	unsigned int s5_slp_typ;	/* the SLP_TYP value that means soft off */
	int64_t (*now_ns)(void);	/* NULL: CLOCK_MONOTONIC */
};

extern const struct device_ops power_device_ops;

int power_new(struct power **out, const struct power_config *config, struct err *err);
void power_free(struct power *power);
/* Presses the power button: an SCI, if the guest has enabled it. Any thread. */
void power_press_button(struct power *power);

/* bus_access_fns. PM1 event block: 4 ports, 1 byte wide; PM1 control: 2, 1; PM timer: 4, 4. */
void power_event_access(void *power, uint64_t offset, bool write, uint8_t *data, unsigned int size);
void power_control_access(void *power, uint64_t offset, bool write, uint8_t *data,
			  unsigned int size);
void power_timer_access(void *power, uint64_t offset, bool write, uint8_t *data, unsigned int size);
/*
 * Reset control register (0xcf9), keyboard controller's command port (0x64),
 * system control port A (0x92): 1 port each.
 */
void power_reset_access(void *power, uint64_t offset, bool write, uint8_t *data, unsigned int size);
void power_i8042_access(void *power, uint64_t offset, bool write, uint8_t *data, unsigned int size);
void power_port_a_access(void *power, uint64_t offset, bool write, uint8_t *data,
			 unsigned int size);

#endif
