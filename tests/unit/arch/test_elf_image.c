// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "common.h"

#include "arch/x86/elf_image.h"

static uint8_t file[TEST_ELF_BYTES];

#define PHDR(n, at) (TEST_ELF_PHDR + 56 * (n) + (at))
#define NOTE(at) (TEST_ELF_NOTE + (at))
#define DESC(at) (TEST_ELF_NOTE + 20 + (at))

static int parse(struct elf *elf, const uint8_t *data, size_t len, struct err *err)
{
	struct ram_file bytes;

	ram_file_of_bytes(&bytes, "elf", data, len);
	return elf_parse(elf, &bytes, err);
}

static void test_good(void **state)
{
	struct elf elf;
	struct err err = { 0 };

	(void)state;
	test_elf(file, 0);
	assert_int_equal(parse(&elf, file, sizeof(file), &err), 0);
	assert_false(elf.bare);
	assert_int_equal(elf.segments, 2);
	assert_int_equal(elf.segment[0].gpa, 0x100000);
	assert_int_equal(elf.segment[0].file_bytes, 16);
	assert_int_equal(elf.segment[0].mem_bytes, 0x2000);
	assert_int_equal(elf.entry, 0x100000);
	assert_int_equal(elf_end(&elf), 0x200008);

	test_elf(file, 1);
	assert_int_equal(parse(&elf, file, sizeof(file), &err), 0);
	assert_true(elf.bare);
	assert_int_equal(elf.note.max_cpus, 4);
	assert_int_equal(elf.note.cr3, 0x101000);
	assert_int_equal(elf.note.stack_stride, 0x1000);
	assert_int_equal(elf.note.stats, 0x120000);
}

/* Descending segments come out sorted. */
static void test_sorts(void **state)
{
	struct elf elf;
	uint8_t swap[56];

	(void)state;
	test_elf(file, 0);
	memcpy(swap, file + PHDR(0, 0), sizeof(swap));
	memcpy(file + PHDR(0, 0), file + PHDR(1, 0), sizeof(swap));
	memcpy(file + PHDR(1, 0), swap, sizeof(swap));
	assert_int_equal(parse(&elf, file, sizeof(file), NULL), 0);
	assert_int_equal(elf.segment[0].gpa, 0x100000);
	assert_int_equal(elf.segment[1].gpa, 0x200000);
}

static const struct {
	uint16_t at, bytes;
	uint64_t value;
	const char *part;
} bad[] = {
	{ 0, 4, 0, "not an ELF file" },
	{ 4, 1, 1, "not a 64-bit x86" },
	{ 18, 2, 183, "not a 64-bit x86" },
	{ 16, 2, 1, "not an executable" },
	{ 54, 2, 32, "program headers of 32" },
	{ 56, 2, 0, "0 program headers" },
	{ 56, 2, 65, "65 program headers" },
	{ 32, 8, TEST_ELF_BYTES, "program headers lie outside" },
	{ 32, 8, UINT64_MAX - 8, "program headers lie outside" },
	{ 24, 8, 0x300000, "entry 0x300000" },
	{ PHDR(0, 8), 8, TEST_ELF_BYTES - 8, "segment 0 lies outside" },
	{ PHDR(0, 8), 8, UINT64_MAX - 7, "segment 0 lies outside" },
	{ PHDR(0, 32), 8, 0x3000, "more bytes in the file" },
	{ PHDR(0, 24), 8, UINT64_MAX - 0xfff, "cannot be" },
	{ PHDR(0, 40), 8, UINT64_MAX, "cannot be" },
	{ PHDR(0, 40), 8, 0x100001, "overlap at 0x200000" },
	{ PHDR(1, 24), 8, 0x101ff8, "overlap at 0x101ff8" },
	{ PHDR(2, 8), 8, TEST_ELF_BYTES, "segment 2 lies outside" },
	{ NOTE(0), 4, UINT32_MAX, "note lies outside" },
	{ NOTE(4), 4, UINT32_MAX, "note lies outside" },
	{ NOTE(4), 4, 40, "note has 40 bytes" },
	{ DESC(0), 4, 2, "version 2" },
	{ DESC(4), 4, 0, "impossible" },
	{ DESC(8), 8, 0x101001, "impossible" },
	{ DESC(8), 8, 0x900000, "entry or page table" },
	{ DESC(16), 8, 0x900000, "entry or page table" },
	{ DESC(24), 8, 0x3000, "impossible" },
	{ DESC(32), 8, UINT64_MAX / 4, "impossible" },
};

static void test_bad(void **state)
{
	struct elf elf;
	unsigned int i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct err err = { 0 };

		test_elf(file, 1);
		memcpy(file + bad[i].at, &bad[i].value, bad[i].bytes);
		assert_err(parse(&elf, file, sizeof(file), &err), -EINVAL, err, bad[i].part);
	}
}

static void test_nothing_to_load(void **state)
{
	struct elf elf;
	struct err err = { 0 };

	(void)state;
	test_elf(file, 0);
	put32(file + PHDR(0, 0), 0);
	put32(file + PHDR(1, 0), 0);
	assert_err(parse(&elf, file, sizeof(file), &err), -EINVAL, err, "nothing to load");
}

/* As for bzImages: nothing behind the end is read, whatever the length. */
static void test_truncated(void **state)
{
	struct elf elf;
	size_t len;

	(void)state;
	test_elf(file, 1);
	for (len = 1; len < TEST_ELF_DATA + 24; len++) {
		uint8_t *copy = malloc(len);

		assert_non_null(copy);
		memcpy(copy, file, len);
		assert_int_equal(parse(&elf, copy, len, NULL), -EINVAL);
		free(copy);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),
		cmocka_unit_test(test_sorts),
		cmocka_unit_test(test_bad),
		cmocka_unit_test(test_nothing_to_load),
		cmocka_unit_test(test_truncated),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
