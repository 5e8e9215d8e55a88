// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// store/store.c: which names there may be.
#include "folder.h"

static void test_names_that_can_be(void **state)
{
	static const char *const good[] = {
		"a", "A/b-c/d_e.f", "...", "a/..b/.c", "0", "-", "-rf"
	};
	char longest[STORE_NAME_MAX + 2];
	const char *why = NULL;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		assert_true(store_name_is_valid(good[i], &why));
	memset(longest, 'x', sizeof(longest));
	longest[STORE_NAME_MAX] = 0;
	assert_true(store_name_is_valid(longest, NULL));
	longest[STORE_NAME_MAX] = 'x';
	longest[STORE_NAME_MAX + 1] = 0;
	assert_false(store_name_is_valid(longest, &why));
	assert_string_equal(why, "the name is longer than 255 bytes");
}

static void test_names_that_cannot_be(void **state)
{
	static const char *const bad[] = { "",	    "/",     "/a",	 "a/",	 "a//b",
					   ".",	    "..",    "../a",	 "a/..", "a/../b",
					   "a/./b", "a b",   "a\nb",	 "a~",	 "a\\b",
					   "a?b",   "a%2fb", "\xc3\xa9", "a:b",	 "*" };
	const char *why;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		why = NULL;
		assert_false(store_name_is_valid(bad[i], &why));
		assert_non_null(why);
	}
}

static void test_prefixes(void **state)
{
	static const char *const good[] = { "", "a", "a/", "a/b", "a/b/", "a/.", "..", "a/.." };
	static const char *const bad[] = { "/", "a//", "./", "../", "a/../", "a b", "a/%" };
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		assert_true(store_prefix_is_valid(good[i], NULL));
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_false(store_prefix_is_valid(bad[i], NULL));
}

static void test_requests_that_cannot_be_are_refused(void **state)
{
	struct folder *f = *state;
	struct err err;
	char byte;

	expect_error(store_get(f->store, NULL, "../x", 0, &byte, 1, 0, &err), &err, -EINVAL,
		     "\"../x\"");
	expect_error(store_get(f->store, NULL, "a\033[2J", 0, &byte, 1, 0, &err), &err, -EINVAL,
		     "a?[2J");
	expect_error(store_put(f->store, NULL, "x", &byte, STORE_OBJECT_MAX + 1, 0, &err), &err,
		     -EINVAL, "1 GiB");
	expect_error(store_get(f->store, NULL, "x", UINT64_MAX - 1, &byte, 1, 0, &err), &err,
		     -EINVAL, "offset");
	expect_error(store_list(f->store, NULL, "a/../", 0, NULL, NULL, &err), &err, -EINVAL, "..");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names_that_can_be),
		cmocka_unit_test(test_names_that_cannot_be),
		cmocka_unit_test(test_prefixes),
		cmocka_unit_test_setup_teardown(test_requests_that_cannot_be_are_refused,
						folder_setup, folder_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
