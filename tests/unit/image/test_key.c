// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Keys of images, as files and descriptors have them and as memory keeps them; and the ciphers, by
// the standards' own examples.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/types.h"
#include "image/cipher.h"
#include "image/key.h"

#define HEX "000102030405060708090a0B0C0d0e0f101112131415161718191a1b1c1d1e1F"

static void test_keys_as_files_have_them(void **state)
{
	static const struct {
		const char *content;
		size_t len;
		int error;
	} rows[] = {
		{ HEX, 64, 0 },
		{ HEX "\n", 65, 0 },
		{ HEX " \r\n", 67, 0 },
		{ "0123456789abcdef0123456789abcdeX", 32, 0 },
		{ "0123456789abcdef0123456789abcdeX\n", 33, -EINVAL },
		{ HEX "0", 65, -EINVAL },
		{ " " HEX, 65, -EINVAL },
		{ "g" HEX, 64, -EINVAL },
		{ HEX, 63, -EINVAL },
		{ "", 0, -EINVAL },
		{ "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 32, -EINVAL },
	};
	uint8_t raw[IMAGE_KEY_BYTES];
	struct image_key *key, *same;
	struct err err = { 0 };
	unsigned int i;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		int r = image_key_new(&key, rows[i].content, rows[i].len, "k", &err);

		if (r != rows[i].error)
			fail_msg("row %u: %d", i, r);
		if (r)
			assert_null(strstr(err.text, "0a0B"));
		else
			image_key_free(key);
	}
	for (i = 0; i < sizeof(raw); i++)
		raw[i] = (uint8_t)i;
	assert_int_equal(image_key_new(&key, raw, sizeof(raw), "k", &err), 0);
	assert_int_equal(image_key_new(&same, HEX, 64, "k", &err), 0);
	assert_memory_equal(image_key_id(key), image_key_id(same), IMAGE_KEY_ID_BYTES);
	assert_memory_equal(image_key_bytes(same), raw, sizeof(raw));
	image_key_free(key);
	image_key_free(same);
}

static void write_file(const char *path, const char *text, mode_t mode)
{
	FILE *to = fopen(path, "w");

	assert_non_null(to);
	fputs(text, to);
	fclose(to);
	assert_int_equal(chmod(path, mode), 0);
}

static void test_where_keys_come_from(void **state)
{
	char folder[] = "/tmp/test-key-XXXXXX", path[64];
	struct image_key *key;
	struct err err;
	int fds[2];

	(void)state;
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/key", folder);
	assert_int_equal(image_key_load(&key, path, &err), -ENOENT);
	write_file(path, HEX "\n", 0640);
	assert_int_equal(image_key_load(&key, path, &err), -EPERM);
	assert_non_null(strstr(err.text, "chmod 600"));
	assert_int_equal(chmod(path, 0600), 0);
	assert_int_equal(image_key_load(&key, path, &err), 0);
	image_key_free(key);
	assert_int_equal(unlink(path), 0);
	/* It does not wait for somebody to write. */
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(image_key_load(&key, path, &err), -EINVAL);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(image_key_load(&key, folder, &err), -EINVAL);
	assert_int_equal(rmdir(folder), 0);
	assert_int_equal(pipe(fds), 0);
	assert_int_equal(write(fds[1], HEX, 10), 10);
	assert_int_equal(write(fds[1], &HEX[10], 54), 54);
	close(fds[1]);
	assert_int_equal(image_key_read(&key, fds[0], &err), 0);
	image_key_free(key);
	assert_int_equal(image_key_read(&key, fds[0], &err), -EINVAL);
	close(fds[0]);
	assert_int_equal(image_key_read(&key, fds[0], &err), -EBADF);
}

static struct image_key *key_new(void)
{
	struct image_key *key;
	struct err err;

	if (image_key_new(&key, HEX, 64, "a key", &err))
		fail_msg("%s", err.text);
	return key;
}

/* It is in no core dump; and locked, if this host lets us lock anything. */
static void test_a_key_is_kept_out_of_dumps_and_swap(void **state)
{
	struct image_key *key = key_new();
	unsigned long at = (unsigned long)(uintptr_t)key, from, to;
	bool inside = false, seen = false, may_lock;
	char line[512];
	FILE *maps = fopen("/proc/self/smaps", "r");
	uint8_t *probe =
		mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)state;
	may_lock = !mlock(probe, PAGE_BYTES);
	munmap(probe, PAGE_BYTES);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	may_lock = false; /* they make nothing of mlock(2) */
#endif
	assert_non_null(maps);
	while (fgets(line, sizeof(line), maps)) {
		if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
			inside = at >= from && at < to;
		if (!inside || strncmp(line, "VmFlags:", 8))
			continue;
		seen = true;
		assert_non_null(strstr(line, " dd"));
		if (may_lock)
			assert_non_null(strstr(line, " lo"));
	}
	fclose(maps);
	assert_true(seen);
	image_key_free(key);
}

/* ---- the standards' examples ---- */

/* RFC 5869, A.1 and A.3, as far as one block goes. */
static void test_hkdf_as_its_standard_has_it(void **state)
{
	static const uint8_t salt[13] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 };
	static const uint8_t prk[32] = { 0x07, 0x77, 0x09, 0x36, 0x2c, 0x2e, 0x32, 0xdf,
					 0x0d, 0xdc, 0x3f, 0x0d, 0xc4, 0x7b, 0xba, 0x63,
					 0x90, 0xb6, 0xc7, 0x3b, 0xb5, 0x0f, 0x9c, 0x31,
					 0x22, 0xec, 0x84, 0x4a, 0xd7, 0xc2, 0xb3, 0xe5 };
	static const uint8_t okm[32] = { 0x3c, 0xb2, 0x5f, 0x25, 0xfa, 0xac, 0xd5, 0x7a,
					 0x90, 0x43, 0x4f, 0x64, 0xd0, 0x36, 0x2f, 0x2a,
					 0x2d, 0x2d, 0x0a, 0x90, 0xcf, 0x1a, 0x5a, 0x4c,
					 0x5d, 0xb0, 0x2d, 0x56, 0xec, 0xc4, 0xc5, 0xbf };
	static const uint8_t bare[32] = { 0x8d, 0xa4, 0xe7, 0x75, 0xa5, 0x63, 0xc1, 0x8f,
					  0x71, 0x5f, 0x80, 0x2a, 0x06, 0x3c, 0x5a, 0x31,
					  0xb8, 0xa1, 0x1f, 0x5c, 0x5e, 0xe1, 0x87, 0x9e,
					  0xc3, 0x45, 0x4e, 0x5f, 0x3c, 0x73, 0x8d, 0x2d };
	uint8_t key[22], out[32];
	struct err err;

	(void)state;
	memset(key, 0x0b, sizeof(key));
	assert_int_equal(cipher_load(&err), 0);
	cipher_extract(salt, sizeof(salt), key, sizeof(key), out);
	assert_memory_equal(out, prk, 32);
	cipher_expand(prk, "\xf0\xf1\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9", out, 32);
	assert_memory_equal(out, okm, 32);
	assert_int_equal(cipher_derive(NULL, 0, key, sizeof(key), "", out, 32, &err), 0);
	assert_memory_equal(out, bare, 32);
}

/* Test case 14 of the GCM specification: a zero key, nonce and block. */
static void test_gcm_as_its_specification_has_it(void **state)
{
	static const uint8_t want[32] = { 0xce, 0xa7, 0x40, 0x3d, 0x4d, 0x60, 0x6b, 0x6e,
					  0x07, 0x4e, 0xc5, 0xd3, 0xba, 0xf3, 0x9d, 0x18,
					  0xd0, 0xd1, 0xc8, 0xa7, 0x99, 0x99, 0x6b, 0xf0,
					  0x26, 0x5b, 0x98, 0xb5, 0xd4, 0x8a, 0xb9, 0x19 };
	static const uint8_t zero[32];
	const struct cipher_message message = { zero, zero, "", 0 };
	uint8_t out[32], back[16];
	struct cipher_gcm work;
	struct err err;

	(void)state;
	assert_int_equal(cipher_load(&err), 0);
	cipher_seal(&work, &message, zero, 16, out);
	assert_memory_equal(out, want, 32);
	assert_int_equal(cipher_open(&work, &message, out, 16, back), 0);
	assert_memory_equal(back, zero, 16);
	out[31] ^= 1;
	memset(back, 1, sizeof(back));
	assert_int_equal(cipher_open(&work, &message, out, 16, back), -EBADMSG);
	assert_memory_equal(back, zero, 16);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_keys_as_files_have_them),
		cmocka_unit_test(test_where_keys_come_from),
		cmocka_unit_test(test_a_key_is_kept_out_of_dumps_and_swap),
		cmocka_unit_test(test_hkdf_as_its_standard_has_it),
		cmocka_unit_test(test_gcm_as_its_specification_has_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
