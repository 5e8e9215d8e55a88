// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Which files hold a secret, and that the codes are those of RFC 4231.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "migrate/secret.h"

static char dir[] = "/tmp/postern-test-XXXXXX";
static char path[64];

static void put_file(const char *content, size_t len, mode_t mode)
{
	int fd;

	unlink(path);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, content, len), len);
	assert_int_equal(fchmod(fd, mode), 0);
	close(fd);
}

static int load(struct secret *secret, const char *says)
{
	struct err err = { 0 };
	int r = secret_load(secret, path, &err);

	assert_int_equal(secret->given, !r);
	if (says && !strstr(err.text, says))
		fail_msg("\"%s\" says nothing of \"%s\"", err.text, says);
	return r;
}

/* dlopen(3), as the linker has it (--wrap): nothing is there as long as this is set. */
static bool nothing_there;

void *__real_dlopen(const char *file, int mode);
void *__wrap_dlopen(const char *file, int mode);

void *__wrap_dlopen(const char *file, int mode)
{
	return __real_dlopen(nothing_there ? "libpostern-none.so.9" : file, mode);
}

static void test_a_missing_nettle_says_what_to_install(void **state)
{
	struct secret secret;

	(void)state;
	put_file("a secret of some length", 23, 0600);
	nothing_there = true;
	assert_int_equal(load(&secret, "a secret needs libnettle.so.8: apt install libnettle8"),
			 -ENOSYS);
	nothing_there = false;
	assert_int_equal(load(&secret, NULL), 0);
}

/* Test case 2 of RFC 4231. */
static void test_the_codes_are_hmac_with_sha_256(void **state)
{
	static const uint8_t is[SECRET_MAC_BYTES] = {
		0x5b, 0xdc, 0xc1, 0x46, 0xbf, 0x60, 0x75, 0x4e, 0x6a, 0x04, 0x24,
		0x26, 0x08, 0x95, 0x75, 0xc7, 0x5a, 0x00, 0x3f, 0x08, 0x9d, 0x27,
		0x39, 0x83, 0x9d, 0xec, 0x58, 0xb9, 0x64, 0xec, 0x38, 0x43,
	};
	const char *data = "what do ya want for nothing?";
	struct secret secret;
	uint8_t mac[SECRET_MAC_BYTES];
	struct err err;

	(void)state;
	/* Loads the library; HMAC fills a short key up with zeros. */
	assert_int_equal(secret_derive(&secret, "x", 1, &err), 0);
	memset(secret.key, 0, sizeof(secret.key));
	memcpy(secret.key, "Jefe", 4);
	secret_mac(&secret, data, strlen(data), mac);
	assert_memory_equal(mac, is, sizeof(is));
	assert_true(secret_mac_equal(mac, is));
	mac[31] ^= 1;
	assert_false(secret_mac_equal(mac, is));
}

static void test_the_whole_content_is_the_secret(void **state)
{
	static const char one[] = "sixteen letters.", other[] = "sixteen letters.\n";
	struct secret a, b;
	char *longest = malloc(SECRET_FILE_MAX_BYTES);

	(void)state;
	put_file(one, 16, 0600);
	assert_int_equal(load(&a, NULL), 0);
	put_file(other, 17, 0400);
	assert_int_equal(load(&b, NULL), 0);
	assert_memory_not_equal(a.key, b.key, SECRET_KEY_BYTES);
	memset(longest, 7, SECRET_FILE_MAX_BYTES);
	put_file(longest, SECRET_FILE_MAX_BYTES, 0600);
	assert_int_equal(load(&b, NULL), 0);
	secret_wipe(&b);
	assert_false(b.given);
	free(longest);
}

static void test_a_file_that_is_no_secret_is_refused(void **state)
{
	static const mode_t open_to[] = { 0640, 0604, 0620, 0602, 0610, 0601 };
	char *too_long = calloc(1, SECRET_FILE_MAX_BYTES + 1);
	struct secret secret;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(open_to) / sizeof(*open_to); i++) {
		put_file("sixteen letters.", 16, open_to[i]);
		assert_int_equal(load(&secret, "chmod 600"), -EPERM);
	}
	put_file("fifteen letters", 15, 0600);
	assert_int_equal(load(&secret, "16 to 4096 bytes"), -EINVAL);
	put_file(too_long, SECRET_FILE_MAX_BYTES + 1, 0600);
	assert_int_equal(load(&secret, "16 to 4096 bytes"), -EINVAL);
	free(too_long);
	unlink(path);
	assert_int_equal(load(&secret, path), -ENOENT);
	/* Nobody writes to it, and nobody is waited for. */
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(load(&secret, "no regular file"), -EINVAL);
	unlink(path);
	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(load(&secret, "no regular file"), -EINVAL);
	rmdir(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_missing_nettle_says_what_to_install),
		cmocka_unit_test(test_the_codes_are_hmac_with_sha_256),
		cmocka_unit_test(test_the_whole_content_is_the_secret),
		cmocka_unit_test(test_a_file_that_is_no_secret_is_refused),
	};
	int failed;

	if (!mkdtemp(dir))
		return 1;
	snprintf(path, sizeof(path), "%s/secret", dir);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	unlink(path);
	rmdir(dir);
	return failed;
}
