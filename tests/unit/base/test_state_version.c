// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "base/state_version.h"

static void version_n_reads_itself_and_the_one_before(void **state)
{
	uint32_t current, version;

	(void)state;
	for (current = 1; current < 6; current++)
		for (version = 0; version < 8; version++) {
			bool readable = version && (version == current || version + 1 == current);

			assert_int_equal(state_version_check("x", version, current, NULL),
					 readable ? 0 : -EPROTO);
		}
	assert_int_equal(state_version_check("x", UINT32_MAX, 1, NULL), -EPROTO);
	assert_int_equal(state_version_check("x", UINT32_MAX, UINT32_MAX, NULL), 0);
}

static void what_is_refused_is_named_and_what_to_do(void **state)
{
	struct err err;

	(void)state;
	assert_int_equal(state_version_check("state of device rtc", 5, 3, &err), -EPROTO);
	assert_string_equal(err.text, "state of device rtc: version 5, this postern knows 2 and 3: "
				      "a newer one saved it, take one that is as new");
	assert_int_equal(state_version_check("state of device rtc", 3, 5, &err), -EPROTO);
	assert_string_equal(err.text,
			    "state of device rtc: version 3, this postern knows 4 and 5: "
			    "it is too old, go by way of a postern that writes version 4");
	assert_int_equal(state_version_check("VM state", 2, 1, &err), -EPROTO);
	assert_non_null(strstr(err.text, "VM state: version 2, this postern knows 1: "));
	assert_int_equal(state_version_check("VM state", 0, 2, &err), -EPROTO);
	assert_non_null(strstr(err.text, "version 0, this postern knows 1 and 2: it is damaged"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(version_n_reads_itself_and_the_one_before),
		cmocka_unit_test(what_is_refused_is_named_and_what_to_do),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
