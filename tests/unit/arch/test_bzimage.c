// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "common.h"

#include "arch/x86/bzimage.h"

static uint8_t file[TEST_BZIMAGE_BYTES];

static int fresh(void **state)
{
	(void)state;
	test_bzimage(file);
	return 0;
}

static void test_good(void **state)
{
	struct bzimage image;
	struct err err = { 0 };
	uint64_t load, need;

	(void)state;
	assert_int_equal(bzimage_parse(&image, file, sizeof(file), sizeof(file), &err), 0);
	assert_int_equal(image.version, 0x20f);
	assert_int_equal(image.payload, 1024);
	assert_int_equal(image.payload_bytes, 8192);
	assert_int_equal(image.header_bytes, 0x268 - 0x1f1);
	assert_true(image.relocatable);
	assert_int_equal(image.initrd_max, 0x7fffffff);
	assert_int_equal(image.cmdline_max, 2047);

	assert_int_equal(bzimage_place(&image, 64 << 20, &load, &need), 0);
	assert_int_equal(load, 0x1000000);
	assert_int_equal(need, 0x1400000);
	assert_int_equal(bzimage_place(&image, 16 << 20, &load, &need), 0);
	assert_int_equal(load, 0x200000);
	assert_int_equal(bzimage_place(&image, 4 << 20, &load, &need), -ENOSPC);
	assert_int_equal(need, 0x600000);
	image.relocatable = false;
	assert_int_equal(bzimage_place(&image, 16 << 20, &load, &need), -ENOSPC);
	assert_int_equal(need, 0x1400000);
}

/* One change to a good image each, and what the error says. */
static const struct {
	uint16_t at, bytes;
	uint64_t value;
	const char *part;
} bad[] = {
	{ 0x1fe, 2, 0, "no Linux set-up header" },
	{ 0x202, 4, 0, "no Linux set-up header" },
	{ 0x206, 2, 0x20b, "boot protocol 2.11 is too old" },
	{ 0x201, 1, 0x10, "set-up header of" },
	{ 0x201, 1, 0xff, "set-up header of" },
	{ 0x211, 1, 0, "zImage" },
	{ 0x236, 2, 0, "not a 64-bit kernel" },
	{ 0x1f1, 1, 64, "truncated" },
	{ 0x1f4, 4, 0xffffffff, "truncated" },
	{ 0x1f4, 4, 0x20, "cannot be" },
	{ 0x260, 4, 4096, "needs less memory" },
	{ 0x258, 8, 0x1000, "load address" },
	{ 0x258, 8, UINT64_MAX, "load address" },
	{ 0x230, 4, 0, "alignment" },
	{ 0x230, 4, 0x300000, "alignment" },
	{ 0x230, 4, 0x80000000, "alignment" },
};

static void test_bad(void **state)
{
	struct bzimage image;
	unsigned int i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct err err = { 0 };

		fresh(state);
		memcpy(file + bad[i].at, &bad[i].value, bad[i].bytes);
		assert_err(bzimage_parse(&image, file, sizeof(file), sizeof(file), &err), -EINVAL,
			   err, bad[i].part);
	}
}

/*
 * Every shorter file is an error and nothing behind its end is read: each is
 * parsed in an allocation of its own size.
 */
static void test_truncated(void **state)
{
	struct bzimage image;
	size_t len;

	(void)state;
	for (len = 1; len < sizeof(file); len++) {
		uint8_t *copy = malloc(len);

		assert_non_null(copy);
		memcpy(copy, file, len);
		assert_int_equal(bzimage_parse(&image, copy, len, len, NULL), -EINVAL);
		free(copy);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_good, fresh),
		cmocka_unit_test_setup(test_bad, fresh),
		cmocka_unit_test_setup(test_truncated, fresh),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
