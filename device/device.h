/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What the machine needs to know of every device of its board: its state,
 * versioned, and its reset.
 *
 * save, load and reset are called on the main thread while every vCPU is
 * parked. A device still takes its own lock in them: its back end (a character
 * device, say) may be at work on the main thread's behalf.
 */
#ifndef POSTERN_DEVICE_DEVICE_H
#define POSTERN_DEVICE_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

struct device_ops {
	const char *name;	/* unique on a board; part of the saved state */
	uint32_t version;	/* of what save writes, from 1 on: docs/state.md */
	/* Appends the device's state. 0 or -ENOMEM. */
	int (*save)(void *dev, struct buf *out, struct err *err);
	/*
	 * Of `version`. Hostile input: on an error the device keeps the state that
	 * it had. -EINVAL with what is wrong.
	 */
	int (*load)(void *dev, const uint8_t *data, size_t len, struct err *err);
	/* The same of version - 1; NULL in version 1, and only there. */
	int (*load_previous)(void *dev, const uint8_t *data, size_t len, struct err *err);
	/* To power-on state. */
	void (*reset)(void *dev);
};

struct device {
	const struct device_ops *ops;
	void *dev;
};

/*
 * The one way to load a device. 0 or load's error; of a version that is not
 * read here -EPROTO, as state_version_check says it.
 */
int device_load(const struct device *device, uint32_t version, const uint8_t *data, size_t len,
		struct err *err);
/* May a state of this version be loaded? 0 or -EPROTO. */
int device_version_check(const struct device *device, uint32_t version, struct err *err);

/*
 * An interrupt line, as a device sees it. Any thread; fn must not wait and must
 * not call back into the device.
 */
struct irq_line {
	void (*fn)(void *arg, bool level);
	void *arg;
};

static inline void irq_line_set(const struct irq_line *irq, bool level)
{
	irq->fn(irq->arg, level);
}

#endif
