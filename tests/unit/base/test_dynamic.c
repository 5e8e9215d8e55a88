// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Libraries that are loaded when they are used: what is not there says what to install.
 */
#include "base/dynamic.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define FUNCTIONS(f) f(strlen) f(atoi)

static struct {
	DYNAMIC_TABLE(FUNCTIONS)
} lib;

static int load(const char *file, const char *last, struct err *err)
{
	const char *const names[] = { "strlen", last };
	const struct dynamic_library library = { file, "libfoo1", "foo" };

	return dynamic_load(&lib, names, 2, &library, err);
}

static void a_library_is_a_table(void **state)
{
	static const char *const names[] = { DYNAMIC_NAMES(FUNCTIONS) };
	struct err err;

	(void)state;
	assert_string_equal(names[1], "atoi");
	assert_int_equal(load("libc.so.6", names[1], &err), 0);
	assert_int_equal(lib.strlen("four"), 4);
	assert_int_equal(lib.atoi("12"), 12);
}

static void what_is_not_there_says_what_to_install(void **state)
{
	struct err err;

	(void)state;
	assert_int_equal(load("libpostern-none.so.9", "atoi", &err), -ENOSYS);
	assert_non_null(strstr(err.text, "foo needs libpostern-none.so.9: apt install libfoo1"));
	assert_int_equal(load("libc.so.6", "no_such_function", &err), -ENOSYS);
	assert_non_null(strstr(
		err.text,
		"foo needs a newer libc.so.6, one with no_such_function: apt install libfoo1"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_library_is_a_table),
		cmocka_unit_test(what_is_not_there_says_what_to_install),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
