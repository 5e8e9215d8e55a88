// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "cli/disk_partition.h"

#include <endian.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define SECTOR 512u
#define EXT_MAGIC_OFFSET 1080u
#define EXT_MAGIC 0xef53
#define MBR_ENTRIES 446u
#define MBR_LINUX 0x83
#define MBR_PROTECTIVE 0xee
#define GPT_HEADER_MIN 92u
#define GPT_ENTRIES_MAX 1024u
#define GPT_ENTRY_MIN 128u
#define GPT_ENTRY_MAX 1024u

struct gpt_header {
	char signature[8];
	uint32_t revision, header_bytes, header_crc, reserved;
	uint64_t this_lba, other_lba, first_lba, last_lba;
	uint8_t disk_uuid[16];
	uint64_t entries_lba;
	uint32_t entries, entry_bytes, entries_crc;
} __attribute__((packed));

struct gpt_entry {
	uint8_t type[16], uuid[16];
	uint64_t first_lba, last_lba;
} __attribute__((packed));

struct mbr_entry {
	uint8_t status, first_chs[3], type, last_chs[3];
	uint32_t first_lba, sectors;
} __attribute__((packed));

/*
 * As they lie on the disk: Linux data, root of x86-64 and of arm64
 * (Discoverable Partitions Specification).
 */
static const uint8_t linux_types[][16] = {
	{ 0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4 },
	{ 0xe3, 0xbc, 0x68, 0x4f, 0xcd, 0xe8, 0xb1, 0x4d, 0x96, 0xe7, 0xfb, 0xca, 0xf9, 0x84, 0xb7, 0x09 },
	{ 0x45, 0xb0, 0x21, 0xb9, 0xf0, 0x1d, 0xc3, 0x41, 0xaf, 0x44, 0x4c, 0x6f, 0x28, 0x0d, 0x3f, 0xae },
};

static uint32_t crc32_add(uint32_t crc, const uint8_t *data, size_t len)
{
	unsigned int bit;

	for (; len; len--) {
		crc ^= *data++;
		for (bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
	}
	return crc;
}

/* One more, if it lies on the disk. */
static void partition_add(struct disk_partition *to, int *n, const struct disk_reader *disk,
			  uint64_t first, uint64_t sectors)
{
	uint64_t all = disk->size_bytes / SECTOR;

	if (*n == DISK_PARTITIONS_MAX || !sectors || first >= all || sectors > all - first)
		return;
	to[*n] =
		(struct disk_partition){ .offset = first * SECTOR, .size_bytes = sectors * SECTOR };
	*n += 1;
}

static bool type_is_linux(const uint8_t *type)
{
	size_t i;

	for (i = 0; i < sizeof(linux_types) / sizeof(linux_types[0]); i++)
		if (!memcmp(type, linux_types[i], 16))
			return true;
	return false;
}

static int gpt_damaged(struct err *err, const char *what)
{
	return err_set(err, -EINVAL, "its partition table (GPT) is damaged: %s", what);
}

static int gpt_header_read(struct gpt_header *h, const struct disk_reader *disk, struct err *err)
{
	uint8_t sector[SECTOR];
	uint32_t bytes, crc;
	int r;

	r = disk_read(disk, SECTOR, sector, sizeof(sector));
	if (r < 0)
		return err_errno(err, r, "reading its partition table");
	memcpy(h, sector, sizeof(*h));
	bytes = le32toh(h->header_bytes);
	if (memcmp(h->signature, "EFI PART", 8) != 0 || bytes < GPT_HEADER_MIN || bytes > SECTOR)
		return gpt_damaged(err, "there is no header");
	memset(sector + offsetof(struct gpt_header, header_crc), 0, 4);
	crc = ~crc32_add(~0u, sector, bytes);
	if (crc != le32toh(h->header_crc))
		return gpt_damaged(err, "the header's checksum is wrong");
	h->entries = le32toh(h->entries);
	h->entry_bytes = le32toh(h->entry_bytes);
	h->entries_lba = le64toh(h->entries_lba);
	if (!h->entries || h->entries > GPT_ENTRIES_MAX || h->entry_bytes < GPT_ENTRY_MIN ||
	    h->entry_bytes > GPT_ENTRY_MAX || h->entries_lba > disk->size_bytes / SECTOR)
		return gpt_damaged(err, "number, size or place of its entries cannot be");
	return 0;
}

static void gpt_entry_take(struct disk_partition *to, int *n, const struct disk_reader *disk,
			   const uint8_t *raw)
{
	struct gpt_entry e;
	uint64_t first, last;
	int before = *n;

	memcpy(&e, raw, sizeof(e));
	first = le64toh(e.first_lba);
	last = le64toh(e.last_lba);
	if (!type_is_linux(e.type) || last < first || last == UINT64_MAX)
		return;
	partition_add(to, n, disk, first, last - first + 1);
	if (*n > before)	/* the first three fields are little endian */
		snprintf(to[before].uuid, sizeof(to[before].uuid),
			 "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
			 e.uuid[3], e.uuid[2], e.uuid[1], e.uuid[0], e.uuid[5], e.uuid[4],
			 e.uuid[7], e.uuid[6], e.uuid[8], e.uuid[9], e.uuid[10], e.uuid[11],
			 e.uuid[12], e.uuid[13], e.uuid[14], e.uuid[15]);
}

static int gpt_read(struct disk_partition *to, const struct disk_reader *disk, struct err *err)
{
	uint8_t entry[GPT_ENTRY_MAX];
	struct gpt_header h;
	uint32_t i, crc = ~0u;
	int r, n = 0;

	r = gpt_header_read(&h, disk, err);
	if (r < 0)
		return r;
	for (i = 0; i < h.entries; i++) {
		r = disk_read(disk, h.entries_lba * SECTOR + (uint64_t)i * h.entry_bytes, entry,
			      h.entry_bytes);
		if (r < 0)
			return err_errno(err, r, "reading its partition table");
		crc = crc32_add(crc, entry, h.entry_bytes);
		gpt_entry_take(to, &n, disk, entry);
	}
	if (~crc != le32toh(h.entries_crc))
		return gpt_damaged(err, "its entries' checksum is wrong");
	return n;
}

static int mbr_read(struct disk_partition *to, const uint8_t *sector,
		    const struct disk_reader *disk)
{
	struct mbr_entry e;
	uint32_t signature;
	int i, n = 0, before;

	memcpy(&signature, sector + 440, sizeof(signature));
	for (i = 0; i < 4; i++) {
		memcpy(&e, sector + MBR_ENTRIES + i * sizeof(e), sizeof(e));
		before = n;
		if (e.type == MBR_LINUX)
			partition_add(to, &n, disk, le32toh(e.first_lba), le32toh(e.sectors));
		if (n > before)
			snprintf(to[before].uuid, sizeof(to[before].uuid), "%08x-%02x",
				 le32toh(signature), i + 1);
	}
	return n;
}

int disk_partitions(struct disk_partition *partitions, const struct disk_reader *disk,
		    struct err *err)
{
	uint8_t head[EXT_MAGIC_OFFSET + 2];
	struct mbr_entry e;
	bool gpt = false;
	int r, i;

	r = disk_read(disk, 0, head, sizeof(head));
	if (r == -ERANGE)
		return err_set(err, -EINVAL, "it is too small to hold a system");
	if (r < 0)
		return err_errno(err, r, "reading it");
	if (!memcmp(head, "QFI\xfb", 4))
		return err_set(
			err, -EINVAL,
			"it is a qcow2 image, out of which no kernel can be taken: give --kernel, or convert "
			"it (qemu-img convert -O raw)");
	if ((head[EXT_MAGIC_OFFSET] | head[EXT_MAGIC_OFFSET + 1] << 8) == EXT_MAGIC) {
		partitions[0] = (struct disk_partition){ .size_bytes = disk->size_bytes };
		return 1;
	}
	if (head[510] != 0x55 || head[511] != 0xaa)
		return err_set(
			err, -EINVAL,
			"it has neither a file system of the ext family nor a partition table");
	for (i = 0; i < 4; i++) {
		memcpy(&e, head + MBR_ENTRIES + i * sizeof(e), sizeof(e));
		gpt |= e.type == MBR_PROTECTIVE;
	}
	r = gpt ? gpt_read(partitions, disk, err) : mbr_read(partitions, head, disk);
	return r ? r :
		   err_set(err, -EINVAL, "its partition table (%s) has no partition for Linux",
			   gpt ? "GPT" : "MBR");
}
