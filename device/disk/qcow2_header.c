// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "device/disk/qcow2_header.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define VERSION_2_BYTES 72u
#define VERSION_3_BYTES 104u
#define CLUSTER_BITS_MIN 9
#define CLUSTER_BITS_MAX 21

/* Where a field is. */
enum {
	AT_VERSION = 4, AT_BACKING = 8, AT_BACKING_BYTES = 16, AT_CLUSTER_BITS = 20, AT_BYTES = 24,
	AT_ENCRYPTION = 32,
	AT_INCOMPATIBLE = 72, AT_HEADER_BYTES = 100,
};

/* Dirty, corrupt, external data file, compression type, extended L2 entries. */
#define FEATURES_KNOWN UINT64_C(0x1f)
#define FEATURE_DATA_FILE (UINT64_C(1) << 2)

#define EXTENSION_END 0u
#define EXTENSION_BACKING_FORMAT 0xe2792acau
#define EXTENSION_ENCRYPTION 0x0537be77u
#define EXTENSION_DATA_FILE 0x44415441u

static uint32_t be32_at(const uint8_t *data, size_t at)
{
	uint32_t value;

	memcpy(&value, data + at, sizeof(value));
	return be32toh(value);
}

static uint64_t be64_at(const uint8_t *data, size_t at)
{
	uint64_t value;

	memcpy(&value, data + at, sizeof(value));
	return be64toh(value);
}

static bool is_qcow2(const uint8_t *data, size_t len)
{
	return len >= AT_BYTES && !memcmp(data, QCOW2_MAGIC, 4);
}

size_t qcow2_header_bytes(const uint8_t *data, size_t len)
{
	uint32_t bits;

	if (!is_qcow2(data, len))
		return 0;
	bits = be32_at(data, AT_CLUSTER_BITS);
	/* What is wrong is said by who parses it. */
	if (bits < CLUSTER_BITS_MIN || bits > CLUSTER_BITS_MAX)
		bits = CLUSTER_BITS_MIN;
	return (size_t)1 << bits;
}

/*
 * A name of n bytes at `at`; one with a byte of 0 in it would be another to who
 * reads on.
 */
static int name_take(char *to, size_t room, const uint8_t *data, size_t at, uint32_t n,
		     const char *what, struct err *err)
{
	if (n >= room)
		return err_set(err, -EINVAL,
			       "its header names %s of %u bytes, at most %zu are possible", what,
			       n, room - 1);
	if (memchr(data + at, 0, n))
		return err_set(err, -EINVAL, "its header names %s with a byte of 0 in it", what);
	memcpy(to, data + at, n);
	to[n] = '\0';
	return 0;
}

static int extension_take(struct qcow2_header *header, const uint8_t *data, size_t at,
			  uint32_t type, uint32_t n, struct err *err)
{
	switch (type) {
	case EXTENSION_BACKING_FORMAT:
		return name_take(header->backing_format, sizeof(header->backing_format), data, at,
				 n, "a format", err);
	case EXTENSION_DATA_FILE:
		return name_take(header->data_file, sizeof(header->data_file), data, at, n,
				 "a data file", err);
	case EXTENSION_ENCRYPTION:
		return err_set(err, -EINVAL, "it is encrypted, which is not supported");
	default:
		return 0;
	}
}

/* [at, end): type, length, data, up to the next multiple of 8. */
static int extensions_take(struct qcow2_header *header, const uint8_t *data, size_t at, size_t end,
			   struct err *err)
{
	uint32_t type, n;
	int r = 0;

	while (!r && end - at >= 8) {
		type = be32_at(data, at);
		n = be32_at(data, at + 4);
		if (type == EXTENSION_END)
			return 0;
		at += 8;
		if (n > end - at)
			return err_set(err, -EINVAL,
				       "its header has an extension 0x%x of %u bytes, which has "
				       "no room for it", type, n);
		r = extension_take(header, data, at, type, n, err);
		at += n;
		at += at % 8 && end - at >= 8 - at % 8 ? 8 - at % 8 : 0;
	}
	return r;
}

/* Fixed fields, and where the extensions begin. */
static int fields_take(struct qcow2_header *header, size_t *extensions, const uint8_t *data,
		       size_t len, struct err *err)
{
	uint32_t bits = be32_at(data, AT_CLUSTER_BITS);
	uint64_t features;

	header->version = be32_at(data, AT_VERSION);
	*extensions = header->version == 2 ? VERSION_2_BYTES : VERSION_3_BYTES;
	if (header->version != 2 && header->version != 3)
		return err_set(err, -EINVAL, "it is of version %u of qcow2: 2 and 3 are supported",
			       header->version);
	if (bits < CLUSTER_BITS_MIN || bits > CLUSTER_BITS_MAX)
		return err_set(err, -EINVAL, "its header says that a cluster has 2^%u bytes", bits);
	header->cluster_bytes = 1u << bits;
	if (len < *extensions)
		return err_set(err, -EINVAL, "it ends in its header");
	header->bytes = be64_at(data, AT_BYTES);
	if (!header->bytes || header->bytes > INT64_MAX)
		return err_set(err, -EINVAL, "its header says that the disk has %" PRIu64 " bytes",
			       header->bytes);
	if (be32_at(data, AT_ENCRYPTION))
		return err_set(err, -EINVAL, "it is encrypted, which is not supported");
	if (header->version == 2)
		return 0;
	features = be64_at(data, AT_INCOMPATIBLE);
	if (features & ~FEATURES_KNOWN)
		return err_set(err, -EINVAL, "it has features that are not known (0x%" PRIx64 ")",
			       features & ~FEATURES_KNOWN);
	header->has_data_file = features & FEATURE_DATA_FILE;
	*extensions = be32_at(data, AT_HEADER_BYTES);
	if (*extensions < VERSION_3_BYTES || *extensions > len)
		return err_set(err, -EINVAL, "its header says that it has %zu bytes", *extensions);
	return 0;
}

int qcow2_header_parse(struct qcow2_header *header, const uint8_t *data, size_t len,
		       struct err *err)
{
	size_t at, end;
	uint64_t name;
	uint32_t n;
	int r;

	memset(header, 0, sizeof(*header));
	if (!is_qcow2(data, len))
		return err_set(err, -EINVAL, "it is no qcow2 image");
	r = fields_take(header, &at, data, len, err);
	if (r < 0)
		return r;
	end = len < header->cluster_bytes ? len : header->cluster_bytes;
	name = be64_at(data, AT_BACKING);
	n = be32_at(data, AT_BACKING_BYTES);
	if (at > end || (name && (name < at || name > end || n > end - name)))
		return err_set(err, -EINVAL,
			       "its header names an image below it, outside of its first cluster");
	/*
	 * QEMU takes it for none if it has no bytes, and its place for the end
	 * of the extensions all the same.
	 */
	if (name && n)
		r = name_take(header->backing, sizeof(header->backing), data, (size_t)name, n,
			      "an image below it", err);
	return r < 0 ? r : extensions_take(header, data, at, name ? (size_t)name : end, err);
}
