// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// Of no architecture: run wherever the tests are.
#include "../common.h"

#include "arch/arm64/image.h"

#define FILE_BYTES 4096

static uint8_t file[FILE_BYTES];

static int fresh(void **state)
{
	(void)state;
	memset(file, 0, sizeof(file));
	memcpy(file, "MZ", 2);
	put64(file + 16, 0x200000);
	put64(file + 24, 0xa);
	memcpy(file + 56, "ARM\x64", 4);
	return 0;
}

static void test_good(void **state)
{
	struct err err = { 0 };
	struct image image;

	(void)state;
	assert_int_equal(image_parse(&image, file, sizeof(file), sizeof(file), &err), 0);
	assert_int_equal(image.offset, 0);
	assert_int_equal(image.bytes, 0x200000);
	put64(file + 8, 0x80000);
	assert_int_equal(image_parse(&image, file, sizeof(file), sizeof(file), &err), 0);
	assert_int_equal(image.offset, 0x80000);
}

static void test_longer_than_it_says(void **state)
{
	struct err err = { 0 };
	struct image image;

	(void)state;
	put64(file + 16, 64);
	assert_int_equal(image_parse(&image, file, sizeof(file), sizeof(file), &err), 0);
	assert_int_equal(image.bytes, sizeof(file));
}

/* One change to a good image each, and what the error says. */
static const struct {
	unsigned int at;
	uint64_t value;
	const char *part;
} bad[] = {
	{ 56, 0, "not an arm64 kernel" },
	{ 0, 0x8b1f, "compressed by gzip" },
	{ 0, 0x676d697a00005a4d, "EFI" },
	{ 16, 0, "before 3.17" },
	{ 24, 1, "big-endian" },
	{ 8, 0x200000, "0x200000 behind" },
	{ 8, 0x800, "0x800 behind" },
	{ 16, 0x40000001, "needs 0x40000001 bytes" },
	{ 16, ~0ull, "needs" },
};

static void test_bad(void **state)
{
	struct image image;
	struct err err;
	size_t i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		fresh(state);
		put64(file + bad[i].at, bad[i].value);
		memset(&err, 0, sizeof(err));
		assert_err(image_parse(&image, file, sizeof(file), sizeof(file), &err), -EINVAL,
			   err, bad[i].part);
	}
}

static void test_short(void **state)
{
	struct image image;
	struct err err;
	size_t len;

	(void)state;
	for (len = 0; len < 64; len++) {
		memset(&err, 0, sizeof(err));
		assert_err(image_parse(&image, file, len, len, &err), -EINVAL, err,
			   "not an arm64 kernel");
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_good, fresh),
		cmocka_unit_test_setup(test_longer_than_it_says, fresh),
		cmocka_unit_test_setup(test_bad, fresh),
		cmocka_unit_test_setup(test_short, fresh),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
