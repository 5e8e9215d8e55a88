/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A device's state of arbitrary bytes, for targets whose input has it.
 */
#ifndef POSTERN_TESTS_FUZZ_STATE_H
#define POSTERN_TESTS_FUZZ_STATE_H

#include "device/device.h"

/* Of the version that is written, or of the one before where that is read. */
static inline void fuzz_load(const struct device_ops *ops, void *dev, const uint8_t *data,
			     size_t size)
{
	const struct device device = { ops, dev };
	struct err err;

	device_load(&device, ops->version > 1 && size % 2 ? ops->version - 1 : ops->version, data,
		    size, &err);
}

#endif
