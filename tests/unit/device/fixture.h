/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What the device tests share: cmocka with what it needs, an interrupt line
 * that remembers, short ways to a register.
 */
#ifndef POSTERN_TESTS_DEVICE_FIXTURE_H
#define POSTERN_TESTS_DEVICE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "device/bus.h"
#include "device/device.h"

struct fake_irq {
	bool level;
	unsigned int edges;	/* from low to high */
};

static inline void fake_irq_set(void *arg, bool level)
{
	struct fake_irq *irq = arg;

	irq->edges += level && !irq->level;
	irq->level = level;
}

static inline uint8_t get8(bus_access_fn access, void *dev, uint64_t offset)
{
	uint8_t value = 0xa5;

	access(dev, offset, false, &value, 1);
	return value;
}

static inline void put8(bus_access_fn access, void *dev, uint64_t offset, unsigned int value)
{
	uint8_t byte = (uint8_t)value;

	access(dev, offset, true, &byte, 1);
}

/*
 * What save gives, load must take; every shorter piece and every piece with a
 * byte changed must at least do no harm.
 */
static inline void state_torture(const struct device_ops *ops, void *from, void *to)
{
	struct buf state = { 0 }, again = { 0 };
	struct err err;
	size_t i;

	assert_int_equal(ops->save(from, &state, &err), 0);
	for (i = 0; i < state.len; i++) {
		uint8_t keep = state.data[i];
		unsigned int bit;

		ops->load(to, state.data, i, &err);
		for (bit = 0; bit < 8; bit++) {
			state.data[i] = (uint8_t)(keep ^ 1u << bit);
			ops->load(to, state.data, state.len, &err);
		}
		state.data[i] = keep;
	}
	assert_int_equal(ops->load(to, state.data, state.len, &err), 0);
	assert_int_equal(ops->save(to, &again, &err), 0);
	assert_int_equal(again.len, state.len);
	assert_memory_equal(again.data, state.data, state.len);
	buf_fini(&state);
	buf_fini(&again);
}

/* Loads bytes that must be refused, with a message that contains `words`. */
#define assert_refused(ops, dev, bytes, words)                                                 \
	do {                                                                                   \
		struct err err_ = { 0 };                                                       \
		assert_true((ops)->load(dev, (const uint8_t *)(bytes), sizeof(bytes) - 1, &err_) < 0); \
		assert_non_null(strstr(err_.text, words));                                      \
	} while (0)

#endif
