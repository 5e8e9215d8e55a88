// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "migrate/uri.h"

static void test_good_tcp(void **state)
{
	static const struct {
		const char *text, *host, *port;
	} good[] = {
		{ "tcp:host:4444", "host", "4444" },
		{ "tcp::0", "", "0" },
		{ "tcp:127.0.0.1:65535", "127.0.0.1", "65535" },
		{ "tcp:[::1]:7", "::1", "7" },
		{ "tcp:[fe80::1%eth0]:7", "fe80::1%eth0", "7" },
		{ "tcp:h:007", "h", "7" },
	};
	struct uri uri;
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(good) / sizeof(*good); i++) {
		assert_int_equal(uri_parse(&uri, good[i].text, &err), 0);
		assert_int_equal(uri.type, URI_TCP);
		assert_string_equal(uri.address.host, good[i].host);
		assert_string_equal(uri.address.port, good[i].port);
	}
}

static void test_good_unix_and_fd(void **state)
{
	struct uri uri;
	struct err err;

	(void)state;
	assert_int_equal(uri_parse(&uri, "unix:/a/b:c", &err), 0);
	assert_int_equal(uri.type, URI_UNIX);
	assert_string_equal(uri.address.path, "/a/b:c");
	assert_int_equal(uri_parse(&uri, "fd:12", &err), 0);
	assert_int_equal(uri.type, URI_FD);
	assert_int_equal(uri.nfd, 1);
	assert_int_equal(uri.fd[0], 12);
	assert_int_equal(uri_parse(&uri, "fd:3,5,4", &err), 0);
	assert_int_equal(uri.nfd, 3);
	assert_int_equal(uri.fd[WIRE_CONTROL], 3);
	assert_int_equal(uri.fd[WIRE_URGENT], 5);
	assert_int_equal(uri.fd[WIRE_BULK], 4);
}

static void test_bad(void **state)
{
	static const char *const bad[] = {
		"", "tcp", "tcp:", "tcp:host", "tcp:host:", "tcp:host:x", "tcp:host:65536", "tcp:host:-1",
		"tcp:host: 1", "tcp:host:1 ", "tcp:::1:4444", "tcp:[::1]", "tcp:[::1:4444", "tcp:[::1]4444", "tcp:host:1,x",
		"tcp:host:99999999999999999999", "unix:", "unix", "fd:", "fd:x", "fd:1,2", "fd:1,2,3,4", "fd:1,2,",
		"fd:1,2,3,", "fd:1,1,2", "fd:1,2,1", "fd:-1", "fd:99999999999", "exec:cat", "/path", "TCP:h:1",
	};
	char long_text[600];
	struct uri uri;
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		err.text[0] = 0;
		if (uri_parse(&uri, bad[i], &err) != -EINVAL)
			fail_msg("'%s' was taken", bad[i]);
		assert_int_not_equal(err.text[0], 0);
	}
	memset(long_text, 'a', sizeof(long_text) - 1);
	long_text[sizeof(long_text) - 1] = 0;
	memcpy(long_text, "unix:", 5);
	assert_int_equal(uri_parse(&uri, long_text, &err), -EINVAL);
	memcpy(long_text, "tcp:a", 5);
	memcpy(long_text + 500, ":1", 3);
	assert_int_equal(uri_parse(&uri, long_text, &err), -EINVAL);
}

static void test_longest_unix_path_fits(void **state)
{
	char text[5 + 108 + 1];
	struct uri uri;
	struct err err;

	(void)state;
	memset(text, 'p', sizeof(text));
	memcpy(text, "unix:", 5);
	text[5 + 107] = 0;
	assert_int_equal(uri_parse(&uri, text, &err), 0);
	text[5 + 107] = 'p';
	text[5 + 108] = 0;
	assert_int_equal(uri_parse(&uri, text, &err), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good_tcp),
		cmocka_unit_test(test_good_unix_and_fd),
		cmocka_unit_test(test_bad),
		cmocka_unit_test(test_longest_unix_path_fits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
