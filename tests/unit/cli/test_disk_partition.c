// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Where file systems may lie on a disk: none, an MBR, a GPT, and tables that lie.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "cli/disk_files.h"
#include "cli/disk_partition.h"

#define DISK_BYTES (1 << 20)
#define SECTOR 512

static uint8_t disk_bytes[DISK_BYTES];
static int read_result;

static int bytes_read(void *arg, uint64_t offset, void *to, size_t len)
{
	(void)arg;
	assert_true(offset <= DISK_BYTES && len <= DISK_BYTES - offset);
	memcpy(to, disk_bytes + offset, len);
	return read_result;
}

static const struct disk_reader disk = { .size_bytes = DISK_BYTES, .read = bytes_read };
static struct disk_partition found[DISK_PARTITIONS_MAX];
static struct err err;

static int setup(void **state)
{
	(void)state;
	memset(disk_bytes, 0, sizeof(disk_bytes));
	memset(&err, 0, sizeof(err));
	read_result = 0;
	return 0;
}

static void put(size_t at, uint64_t value, unsigned int bytes)
{
	for (; bytes; bytes--, value >>= 8)
		disk_bytes[at++] = (uint8_t)value;
}

static uint32_t crc(const uint8_t *data, size_t len)
{
	uint32_t value = ~0u;
	int bit;

	while (len--)
		for (value ^= *data++, bit = 0; bit < 8; bit++)
			value = value >> 1 ^ (value & 1 ? 0xedb88320u : 0);
	return ~value;
}

static void mbr_entry(int i, uint8_t type, uint32_t first, uint32_t sectors)
{
	put(510, 0xaa55, 2);
	put(446 + 16 * (size_t)i + 4, type, 1);
	put(446 + 16 * (size_t)i + 8, first, 4);
	put(446 + 16 * (size_t)i + 12, sectors, 4);
}

static void gpt_entry(int i, const uint8_t *type, uint64_t first, uint64_t last)
{
	size_t at = 1024 + 128 * (size_t)i;
	uint8_t b;

	memcpy(disk_bytes + at, type, 16);
	for (b = 0; b < 16; b++)
		disk_bytes[at + 16 + b] = (uint8_t)(b + 16 * i);
	put(at + 32, first, 8);
	put(at + 40, last, 8);
}

static void gpt_seal(void)
{
	mbr_entry(0, 0xee, 1, DISK_BYTES / SECTOR - 1);
	memcpy(disk_bytes + 512, "EFI PART", 8);
	put(512 + 12, 92, 4);
	put(512 + 16, 0, 4);
	put(512 + 72, 2, 8);
	put(512 + 80, 128, 4);
	put(512 + 84, 128, 4);
	put(512 + 88, crc(disk_bytes + 1024, 128 * 128), 4);
	put(512 + 16, crc(disk_bytes + 512, 92), 4);
}

static const uint8_t linux_data[16] = { 0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47,
					0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4 };
static const uint8_t efi[16] = { 0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11,
				 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b };

static void test_a_file_system_without_a_table(void **state)
{
	(void)state;
	put(1080, 0xef53, 2);
	mbr_entry(0, 0x83, 63, 100);	/* what a boot loader left in the first sector does not count */
	assert_int_equal(disk_partitions(found, &disk, &err), 1);
	assert_int_equal(found[0].offset, 0);
	assert_int_equal(found[0].size_bytes, DISK_BYTES);
	assert_string_equal(found[0].uuid, "");
}

static void test_an_mbr(void **state)
{
	(void)state;
	put(440, 0x1234abcd, 4);
	mbr_entry(0, 0x82, 8, 8);
	mbr_entry(1, 0x83, 16, 100);
	mbr_entry(2, 0x83, DISK_BYTES / SECTOR - 1, 2);	/* not all on the disk */
	mbr_entry(3, 0x83, 200, 0);
	assert_int_equal(disk_partitions(found, &disk, &err), 1);
	assert_int_equal(found[0].offset, 16 * SECTOR);
	assert_int_equal(found[0].size_bytes, 100 * SECTOR);
	assert_string_equal(found[0].uuid, "1234abcd-02");
}

static void test_a_gpt(void **state)
{
	(void)state;
	gpt_entry(0, efi, 40, 50);
	gpt_entry(1, linux_data, 100, 199);
	gpt_entry(2, linux_data, 300, 299);
	gpt_entry(3, linux_data, 300, UINT64_MAX);
	gpt_entry(4, linux_data, UINT64_MAX, UINT64_MAX);
	gpt_entry(127, linux_data, 300, DISK_BYTES / SECTOR - 1);
	gpt_seal();
	assert_int_equal(disk_partitions(found, &disk, &err), 2);
	assert_int_equal(found[0].offset, 100 * SECTOR);
	assert_int_equal(found[0].size_bytes, 100 * SECTOR);
	assert_string_equal(found[0].uuid, "13121110-1514-1716-1819-1a1b1c1d1e1f");
	assert_int_equal(found[1].offset + found[1].size_bytes, DISK_BYTES);
}

static void refused(int code, const char *word)
{
	assert_int_equal(disk_partitions(found, &disk, &err), code);
	assert_int_equal(err.code, code);
	assert_non_null(strstr(err.text, word));
}

static void test_a_damaged_gpt(void **state)
{
	(void)state;
	gpt_entry(0, linux_data, 100, 199);
	gpt_seal();
	disk_bytes[1024 + 60] ^= 1;
	refused(-EINVAL, "entries' checksum");
	disk_bytes[1024 + 60] ^= 1;
	disk_bytes[512 + 40] ^= 1;
	refused(-EINVAL, "header's checksum");
	disk_bytes[512 + 40] ^= 1;
	put(512 + 80, 1u << 30, 4);
	put(512 + 16, 0, 4);
	put(512 + 16, crc(disk_bytes + 512, 92), 4);
	refused(-EINVAL, "cannot be");
	disk_bytes[512] = 'X';
	refused(-EINVAL, "no header");
}

static void test_what_is_no_disk(void **state)
{
	const struct disk_reader small = { .size_bytes = 1081, .read = bytes_read };

	(void)state;
	refused(-EINVAL, "neither");
	memcpy(disk_bytes, "QFI\xfb", 4);
	refused(-EINVAL, "qcow2");
	memset(disk_bytes, 0, 4);
	mbr_entry(0, 7, 8, 8);
	refused(-EINVAL, "no partition for Linux");
	read_result = -EIO;
	refused(-EIO, "reading");
	assert_int_equal(disk_partitions(found, &small, &err), -EINVAL);
}

static void test_versions_are_compared_as_numbers(void **state)
{
	static const char *const order[] = { "6",
					     "6.1~rc1",
					     "6.1",
					     "6.1.0-9-amd64",
					     "6.1.0-10-amd64",
					     "6.1.0-10-cloud-amd64",
					     "6.12.3",
					     "10.0" };
	size_t i, j;

	(void)state;
	for (i = 0; i < sizeof(order) / sizeof(order[0]); i++)
		for (j = 0; j < sizeof(order) / sizeof(order[0]); j++)
			assert_int_equal(disk_version_compare(order[i], order[j]),
					 i < j ? -1 : i > j);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_a_file_system_without_a_table, setup),
		cmocka_unit_test_setup(test_an_mbr, setup),
		cmocka_unit_test_setup(test_a_gpt, setup),
		cmocka_unit_test_setup(test_a_damaged_gpt, setup),
		cmocka_unit_test_setup(test_what_is_no_disk, setup),
		cmocka_unit_test(test_versions_are_compared_as_numbers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
