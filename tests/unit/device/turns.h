/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Turns of the main loop, for tests of what has a `loop` of its own, and guest memory that may be
 * late.
 */
#ifndef POSTERN_TESTS_DEVICE_TURNS_H
#define POSTERN_TESTS_DEVICE_TURNS_H

#include <errno.h>

#include "base/clock.h"
#include "base/loop.h"
#include "fixture.h"
#include "memory/memory.h"

/* Runs the loop until `condition`; a test that would otherwise hang fails after so many seconds. */
#define run_until_within(has_loop, seconds, condition)                                             \
	do {                                                                                       \
		int64_t end_ = clock_now_ns() + (seconds)*NS_PER_SEC;                              \
		while (!(condition)) {                                                             \
			assert_true(clock_now_ns() < end_);                                        \
			uv_run(loop_uv((has_loop)->loop), UV_RUN_NOWAIT);                          \
		}                                                                                  \
	} while (0)
#define run_until(has_loop, condition) run_until_within(has_loop, 10, condition)

/* Gives the loop its turn, for what must not happen. */
static inline void turns(struct loop *loop)
{
	unsigned int i;

	for (i = 0; i < 20; i++)
		uv_run(loop_uv(loop), UV_RUN_NOWAIT);
}

/*
 * Guest memory from address 0 on; late: all of its pages are missing. Skips the
 * test where none can be.
 */
static inline uint8_t *ram_new(struct memory **mem, uint64_t bytes, bool late)
{
	const struct memory_range range = { GPA(0), bytes };
	struct err err;
	unsigned int n;
	int r;

	assert_int_equal(memory_new(mem, &range, 1, &err), 0);
	r = late ? memory_watch(*mem, &(struct memory_events){ 0 }, &err) : 0;
	if (r == -EPERM || r == -ENOSYS) {
		memory_free(*mem);
		print_message("skipped: %s\n", err.text);
		skip();
	}
	assert_int_equal(r, 0);
	return memory_regions(*mem, &n)[0].host;
}

static inline void ram_free(struct memory *mem)
{
	memory_shut(mem);
	memory_free(mem);
}

#endif
