// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "machine/run_state.h"

#define STATES (RUN_STATE_SHUTDOWN + 1)

static void names_are_qemus(void **state)
{
	static const char *const names[STATES] = {
		"prelaunch", "inmigrate", "running", "paused", "debug", "finish-migrate", "save-vm",
		"postmigrate",
		"io-error", "internal-error", "guest-panicked", "shutdown",
	};
	unsigned int i;

	(void)state;
	for (i = 0; i < STATES; i++)
		assert_string_equal(run_state_name((enum run_state)i), names[i]);
}

/* One row a state: which may follow, in the order of the enum. */
static void the_table_is_as_documented(void **state)
{
	static const char *const may[STATES] = {
		/*                    PIRpdfsMiegS */
		[RUN_STATE_PRELAUNCH] =		"1.1.111..1.1",
		[RUN_STATE_INMIGRATE] =		".111....11.1",
		[RUN_STATE_RUNNING] =		"..11111.1111",
		[RUN_STATE_PAUSED] =		"1.11111.1111",
		[RUN_STATE_DEBUG] =		"1.11111.1111",
		[RUN_STATE_FINISH_MIGRATE] =	"..11.1.111.1",
		[RUN_STATE_SAVE_VM] =		"1.111.1.1111",
		[RUN_STATE_POSTMIGRATE] =	"..11...111.1",
		[RUN_STATE_IO_ERROR] =		"1.1..11.11.1",
		[RUN_STATE_INTERNAL_ERROR] =	"1.1......1.1",
		[RUN_STATE_GUEST_PANICKED] =	"1.1..11..111",
		[RUN_STATE_SHUTDOWN] =		"...........1",
	};
	unsigned int from, to;

	(void)state;
	for (from = 0; from < STATES; from++)
		for (to = 0; to < STATES; to++)
			assert_int_equal(
				run_state_may_follow((enum run_state)from, (enum run_state)to),
				may[from][to] == '1');
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_are_qemus),
		cmocka_unit_test(the_table_is_as_documented),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
