/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * For the tests of all that listens: a process that has no descriptor left for a client.
 */
#ifndef POSTERN_TESTS_UNIT_CROWD_H
#define POSTERN_TESTS_UNIT_CROWD_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>

#include <cmocka.h>
#include <sys/resource.h>
#include <unistd.h>
#include <uv.h>

#include "base/clock.h"

/*
 * Runs the loop for a quarter of a second in which no descriptor can be had;
 * how many turns it took. fd: any that is open.
 */
static inline unsigned int turns_without_descriptor(uv_loop_t *loop, int fd)
{
	struct rlimit old, none;
	unsigned int turns;
	int64_t end;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	none = old;
	none.rlim_cur = (rlim_t)dup(fd);
	close((int)none.rlim_cur);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	end = clock_now_ns() + 250 * NS_PER_MS;
	for (turns = 0; clock_now_ns() < end; turns++)
		uv_run(loop, UV_RUN_ONCE);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	return turns;
}

#endif
