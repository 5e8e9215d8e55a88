// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "snapshot/place.h"

static void test_store_and_name_are_told_apart(void **state)
{
	static const struct {
		const char *text, *store, *name;
		bool far;
	} cases[] = {
		{ "/var/lib/images/web1", "/var/lib/images", "web1", false },
		{ "/web1", "/", "web1", false },
		{ "web1", "./", "web1", false },
		{ "a/b/web-1.0", "a/b", "web-1.0", false },
		{ "./web1", ".", "web1", false },
		{ "dir:/a/web1", "dir:/a", "web1", false },
		{ "dir:web1", "dir:./", "web1", false },
		{ "/odd?name/web1", "/odd?name", "web1", false },
		{ "https://host:80/images/web1", "https://host:80/images", "web1", true },
		{ "http://host/web1", "http://host", "web1", true },
		{ "s3://bucket/pre/web1?region=eu-1&endpoint=http://h/x",
		  "s3://bucket/pre?region=eu-1&endpoint=http://h/x", "web1", true },
		{ "s3://bucket/web1", "s3://bucket", "web1", true },
	};
	struct snapshot_place place;
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_int_equal(snapshot_place_parse(&place, cases[i].text, &err), 0);
		assert_string_equal(place.store, cases[i].store);
		assert_string_equal(place.name, cases[i].name);
		assert_int_equal(place.far, cases[i].far);
	}
}

static void test_what_is_no_place_is_refused(void **state)
{
	static const char *const cases[] = {
		"",
		"/",
		"/images/",
		"dir:",
		"s3://bucket",
		"http://host",
		"http://host/",
		"/a/..",
		"/a/.",
		"/a/b c",
		"https://host/?x=/web1",
		"/a/\xc3\xa4",
	};
	struct snapshot_place place;
	char text[2 * STORE_URL_MAX];
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		err.text[0] = 0;
		assert_int_equal(snapshot_place_parse(&place, cases[i], &err), -EINVAL);
		assert_non_null(strstr(err.text, "STORE/NAME"));
	}
	memset(text, 'a', sizeof(text));
	text[0] = '/';
	text[STORE_URL_MAX + 40] = 0;
	assert_int_equal(snapshot_place_parse(&place, text, &err), -EINVAL);
	text[IMAGE_NAME_MAX + 1] = 0;
	assert_int_equal(snapshot_place_parse(&place, text, &err), -EINVAL);
	text[IMAGE_NAME_MAX] = 0;
	assert_int_equal(snapshot_place_parse(&place, text, &err), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_store_and_name_are_told_apart),
		cmocka_unit_test(test_what_is_no_place_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
