/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * How much of the host's memory this process has: for tests that say what
 * something may cost.
 */
#ifndef POSTERN_TESTS_RESIDENT_H
#define POSTERN_TESTS_RESIDENT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

/* A line of /proc/self/status, in bytes: "VmRSS:", "VmPTE:". */
static inline int64_t resident_line(const char *name)
{
	char line[128];
	long long kib = -1;
	FILE *f = fopen("/proc/self/status", "re");

	assert_non_null(f);
	while (kib < 0 && fgets(line, sizeof(line), f))
		if (!strncmp(line, name, strlen(name)))
			assert_int_equal(sscanf(line + strlen(name), "%lld", &kib), 1);
	fclose(f);
	assert_true(kib >= 0);
	return (int64_t)kib << 10;
}

/* Memory, and the page tables for it. */
static inline int64_t resident_bytes(void)
{
	return resident_line("VmRSS:") + resident_line("VmPTE:");
}

#endif
