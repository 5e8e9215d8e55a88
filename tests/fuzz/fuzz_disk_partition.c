// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// Partition tables. Checksums are made right, so that what lies behind them is reached.
#include <string.h>

#include "cli/disk_files.h"
#include "cli/disk_partition.h"

struct bytes {
	const uint8_t *data;
	size_t size;
};

static int bytes_read(void *arg, uint64_t offset, void *to, size_t len)
{
	const struct bytes *b = arg;

	if (offset > b->size || len > b->size - offset)
		__builtin_trap();
	memcpy(to, b->data + offset, len);
	return 0;
}

static uint32_t crc(const uint8_t *data, size_t len)
{
	uint32_t value = ~0u;
	int bit;

	while (len--) {
		value ^= *data++;
		for (bit = 0; bit < 8; bit++)
			value = value >> 1 ^ (value & 1 ? 0xedb88320u : 0);
	}
	return ~value;
}

/* Of a GPT whose entries are where they usually are. */
static void checksums_set(uint8_t *disk, size_t size)
{
	uint32_t n, bytes, sum;

	memcpy(&n, disk + 512 + 80, 4);
	memcpy(&bytes, disk + 512 + 84, 4);
	if ((uint64_t)n * bytes > size - 1024)
		return;
	sum = crc(disk + 1024, (size_t)n * bytes);
	memcpy(disk + 512 + 88, &sum, 4);
	memset(disk + 512 + 16, 0, 4);
	memcpy(&bytes, disk + 512 + 12, 4);
	if (bytes > 512)
		return;
	sum = crc(disk + 512, bytes);
	memcpy(disk + 512 + 16, &sum, 4);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct disk_partition partitions[DISK_PARTITIONS_MAX];
	static uint8_t copy[16384];
	struct bytes bytes = { copy, size < sizeof(copy) ? size : sizeof(copy) };
	const struct disk_reader disk = { .size_bytes = bytes.size,
					  .read = bytes_read,
					  .arg = &bytes };
	char a[16] = "", b[16] = "";
	struct err err;
	int i, n;

	memcpy(copy, data, bytes.size);
	if (bytes.size > 2048 && !(copy[0] & 1))
		checksums_set(copy, bytes.size);
	n = disk_partitions(partitions, &disk, &err);
	if (!n || n > DISK_PARTITIONS_MAX)
		__builtin_trap();
	for (i = 0; i < n; i++)
		if (!partitions[i].size_bytes || partitions[i].offset > bytes.size ||
		    partitions[i].size_bytes > bytes.size - partitions[i].offset ||
		    strlen(partitions[i].uuid) > 36)
			__builtin_trap();
	if (size > 32) {
		memcpy(a, data, 15);
		memcpy(b, data + 15, 15);
		if ((disk_version_compare(a, b) > 0) != (disk_version_compare(b, a) < 0))
			__builtin_trap();
	}
	return 0;
}
