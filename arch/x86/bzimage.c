// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * The set-up header, field by field; offsets are those of the file (boot.rst,
 * "Details of Header Fields").
 */
#include "arch/x86/bzimage.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"

#define SECTOR 512u
#define HEADER_END_MIN 0x268u		/* behind init_size and handover_offset: protocol 2.11 */
#define MAGIC 0x53726448u		/* "HdrS" */
#define XLF_KERNEL_64 0x1u
#define LOADED_HIGH 0x1u
#define ADDRESS_MAX (1ull << 40)
#define ALIGNMENT_MAX (1ull << 30)
#define LOAD_MIN 0x100000ull

bool bzimage_is(const uint8_t *data, size_t len)
{
	return len >= 0x208 && get16(data + 0x1fe) == 0xaa55 && get32(data + 0x202) == MAGIC;
}

static int check_protocol(struct bzimage *image, const uint8_t *data, size_t len, struct err *err)
{
	if (!bzimage_is(data, len))
		return err_set(err, -EINVAL, "no Linux set-up header");
	image->version = get16(data + 0x206);
	if (image->version < 0x20c)
		return err_set(
			err, -EINVAL,
			"boot protocol %u.%u is too old: 2.12 (Linux 3.8) or later is needed",
			image->version >> 8, image->version & 0xff);
	if (len < HEADER_END_MIN)
		return err_set(err, -EINVAL, "truncated: it ends within the set-up header");
	/* The byte after the jump's opcode says where the header ends. */
	image->header_bytes = 0x202u + data[0x201] - BZIMAGE_HEADER;
	if (image->header_bytes < HEADER_END_MIN - BZIMAGE_HEADER ||
	    image->header_bytes > BZIMAGE_HEADER_MAX || BZIMAGE_HEADER + image->header_bytes > len)
		return err_set(err, -EINVAL, "set-up header of %u bytes cannot be",
			       image->header_bytes);
	if (!(data[0x211] & LOADED_HIGH))
		return err_set(err, -EINVAL, "a zImage; only a bzImage can be loaded");
	if (!(get16(data + 0x236) & XLF_KERNEL_64))
		return err_set(err, -EINVAL, "not a 64-bit kernel");
	return 0;
}

int bzimage_parse(struct bzimage *image, const uint8_t *data, size_t len, uint64_t file_len,
		  struct err *err)
{
	uint64_t sectors, protected_bytes;
	int result;

	memset(image, 0, sizeof(*image));
	result = check_protocol(image, data, len, err);
	if (result)
		return result;
	sectors = data[BZIMAGE_HEADER] ? data[BZIMAGE_HEADER] : 4;
	image->payload = (sectors + 1) * SECTOR;
	protected_bytes = get32(data + 0x1f4) * 16ull;
	if (protected_bytes <= BZIMAGE_ENTRY_64)
		return err_set(err, -EINVAL, "kernel of %llu bytes cannot be",
			       (unsigned long long)protected_bytes);
	if (image->payload >= file_len || file_len - image->payload < protected_bytes)
		return err_set(err, -EINVAL,
			       "truncated: the header promises %llu bytes, the file has %llu",
			       (unsigned long long)(image->payload + protected_bytes),
			       (unsigned long long)file_len);
	image->payload_bytes = protected_bytes;
	image->initrd_max = get32(data + 0x22c);
	image->alignment = get32(data + 0x230);
	image->relocatable = data[0x234] != 0;
	image->cmdline_max = get32(data + 0x238);
	image->preferred = get64(data + 0x258);
	image->init_bytes = get32(data + 0x260);
	if (image->init_bytes < protected_bytes)
		return err_set(err, -EINVAL, "needs less memory (%llu bytes) than it is long",
			       (unsigned long long)image->init_bytes);
	if (image->preferred < LOAD_MIN || image->preferred > ADDRESS_MAX)
		return err_set(err, -EINVAL, "load address 0x%llx cannot be",
			       (unsigned long long)image->preferred);
	if (!image->alignment || (image->alignment & (image->alignment - 1)) ||
	    image->alignment > ALIGNMENT_MAX)
		return err_set(err, -EINVAL, "alignment 0x%llx cannot be",
			       (unsigned long long)image->alignment);
	return 0;
}

int bzimage_place(const struct bzimage *image, uint64_t ram_end, uint64_t *load, uint64_t *need)
{
	uint64_t lowest = (LOAD_MIN + image->alignment - 1) & ~(image->alignment - 1);

	*load = image->preferred;
	*need = *load + image->init_bytes;
	if (*need <= ram_end)
		return 0;
	if (!image->relocatable || lowest > image->preferred)
		return -ENOSPC;
	*load = lowest;
	*need = *load + image->init_bytes;
	return *need <= ram_end ? 0 : -ENOSPC;
}
