// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// store/url.c: URLs, and those that are none.
#include "folder.h"

#include "store/url.h"

static const struct {
	const char *text;
	enum store_scheme scheme;
	const char *host;
	unsigned int port;
	const char *path;
} good[] = {
	{ "/var/lib/images", STORE_DIR, "", 0, "/var/lib/images" },
	{ "./here", STORE_DIR, "", 0, "./here" },
	{ "dir:there/a b%20?", STORE_DIR, "", 0, "there/a b%20?" },
	{ "http://host", STORE_HTTP, "host", 0, "" },
	{ "http://host/", STORE_HTTP, "host", 0, "" },
	{ "http://host:8080/a/b%20c//", STORE_HTTP, "host", 8080, "/a/b c" },
	{ "https://[::1]:1/x", STORE_HTTPS, "[::1]", 1, "/x" },
	{ "https://[fe80::1]/x", STORE_HTTPS, "[fe80::1]", 0, "/x" },
	{ "s3://bucket", STORE_S3, "bucket", 0, "" },
	{ "s3://bucket/", STORE_S3, "bucket", 0, "" },
	{ "s3://my.bucket/a/b/", STORE_S3, "my.bucket", 0, "a/b" },
	{ "rados://pool", STORE_RADOS, "pool", 0, "" },
	{ "rados://.my-pool/a/b/", STORE_RADOS, ".my-pool", 0, "a/b" },
};

static void test_urls(void **state)
{
	struct store_url url;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		assert_int_equal(store_url_parse(&url, good[i].text, NULL), 0);
		assert_int_equal(url.scheme, good[i].scheme);
		assert_string_equal(url.host, good[i].host);
		assert_int_equal(url.port, good[i].port);
		assert_string_equal(url.path, good[i].path);
		assert_int_equal(url.parameters, 0);
	}
}

static void test_parameters(void **state)
{
	static const char *const known[] = { "endpoint", "region", NULL }, *const fewer[] = {
		"region", NULL
	};
	struct store_url url;
	struct err err;

	(void)state;
	assert_int_equal(
		store_url_parse(&url, "s3://b/p?endpoint=http%3A%2F%2Fh:9000&region=", &err), 0);
	assert_string_equal(url.path, "p");
	assert_string_equal(store_url_get(&url, "endpoint"), "http://h:9000");
	assert_string_equal(store_url_get(&url, "region"), "");
	assert_null(store_url_get(&url, "endpoin"));
	assert_int_equal(store_url_only(&url, known, &err), 0);
	expect_error(store_url_only(&url, fewer, &err), &err, -EINVAL, "\"endpoint\"");
	assert_int_equal(store_url_parse(&url, "http://h?a=b", &err), 0);
	assert_string_equal(url.path, "");
	assert_string_equal(store_url_get(&url, "a"), "b");
}

static void test_what_is_no_url(void **state)
{
	static const struct {
		const char *text, *words;
	} bad[] = {
		{ "", "has no scheme" },
		{ "images", "has no scheme" },
		{ "ftp://host/x", "has no scheme" },
		{ "htp://host", "has no scheme" },
		{ "HTTP://host", "has no scheme" },
		{ "dir:", "has no path" },
		{ "/a\nb", "control character" },
		{ "http://", "has no host" },
		{ "http:///x", "has no host" },
		{ "s3:///x", "has no bucket" },
		{ "http://a b/", "host that is not one" },
		{ "http://user:secret@host/", "user or password" },
		{ "s3://key@bucket/", "user or password" },
		{ "s3://bucket:80/", "bucket that is not one" },
		{ "rados:///x", "has no pool" },
		{ "rados://pool:80/", "pool that is not one" },
		{ "rados://client.a@pool/", "user or password" },
		{ "http://[::1/", "IPv6" },
		{ "http://[]/", "IPv6" },
		{ "http://[::1]x/", "host that is not one" },
		{ "http://h:/", "port" },
		{ "http://h:0/", "port" },
		{ "http://h:65536/", "port" },
		{ "http://h:655360/", "port" },
		{ "http://h:8o/", "port" },
		{ "http://h/%", "well-formed" },
		{ "http://h/%2", "well-formed" },
		{ "http://h/%zz", "well-formed" },
		{ "http://h/%00", "well-formed" },
		{ "http://h/%0a", "well-formed" },
		{ "http://h/a/../b", "\"..\"" },
		{ "http://h/%2e%2e/b", "\"..\"" },
		{ "http://h/.", "\".\"" },
		{ "http://h/a#b", "fragment" },
		{ "http://h/a?b=c#d", "fragment" },
		{ "http://h/?b", "NAME=VALUE" },
		{ "http://h/?=b", "NAME=VALUE" },
		{ "http://h/?a=b&&", "NAME=VALUE" },
		{ "http://h/?a=b&a=c", "twice" },
		{ "http://h/?a=%1", "well-formed" },
		{ "http://h/?1=&2=&3=&4=&5=&6=&7=&8=&9=", "too many" },
		{ "http://h/?a23456789012345678901234567890123=", "too long" },
	};
	struct store_url url;
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		expect_error(store_url_parse(&url, bad[i].text, &err), &err, -EINVAL, bad[i].words);
		assert_null(strstr(err.text, "secret"));
	}
}

static void test_long_urls(void **state)
{
	char text[2 * STORE_URL_MAX];
	struct store_url url;
	struct err err;

	(void)state;
	memset(text, 'a', sizeof(text));
	memcpy(text, "http://", 7);
	text[7 + 255] = 0;
	assert_int_equal(store_url_parse(&url, text, &err), 0);
	text[7 + 255] = 'a';
	text[7 + 256] = 0;
	expect_error(store_url_parse(&url, text, &err), &err, -EINVAL, "too long");
	memcpy(text, "/", 1);
	text[7 + 256] = 'a';
	text[STORE_URL_MAX - 1] = 0;
	assert_int_equal(store_url_parse(&url, text, &err), 0);
	text[STORE_URL_MAX - 1] = 'a';
	text[STORE_URL_MAX] = 0;
	expect_error(store_url_parse(&url, text, &err), &err, -EINVAL, "longer than");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_urls),
		cmocka_unit_test(test_parameters),
		cmocka_unit_test(test_what_is_no_url),
		cmocka_unit_test(test_long_urls),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
