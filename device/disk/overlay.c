// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * overlay.c - see overlay.h. The image (QEMU's docs/interop/qcow2.txt) is of
 * version 3, with clusters of 64 KiB: the header, the table of refcounts, its
 * one block, and the L1 table, which is empty and so a hole of the file.
 */
#include "device/disk/overlay.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "device/disk/disk.h"
#include "device/disk/qcow2_header.h"
#include "device/disk/qcow2_image.h"

#define CLUSTER_BITS 16u
#define CLUSTER_BYTES (UINT64_C(1) << CLUSTER_BITS)
/* What an entry of the L1 table stands for: an L2 table's clusters. */
#define L1_ENTRY_BYTES (CLUSTER_BYTES / 8 * CLUSTER_BYTES)
/* QEMU's bound on the L1 table. */
#define L1_BYTES_MAX (UINT64_C(32) << 20)
#define BACKING_FORMAT 0xe2792acau
#define VERSION 3u
#define REFCOUNT_ORDER 4u

enum { CLUSTER_HEADER, CLUSTER_REFCOUNTS, CLUSTER_REFCOUNT_BLOCK, CLUSTER_L1 };

/* All of it is big endian. */
struct header {
	uint8_t magic[4];
	uint32_t version;
	uint64_t backing_at;
	uint32_t backing_bytes, cluster_bits;
	uint64_t bytes;
	uint32_t encryption, l1_entries;
	uint64_t l1_at, refcounts_at;
	uint32_t refcounts_clusters, snapshots;
	uint64_t snapshots_at, incompatible, compatible, autoclear;
	uint32_t refcount_order, header_bytes;
};

/* What follows the header: the format of the image below, and the end. */
struct extensions {
	uint32_t type, bytes;
	char format[8];
	uint32_t end_type, end_bytes;
};

_Static_assert(sizeof(struct header) == 104, "as version 3 has it");

static int bytes_put(int fd, const void *data, size_t len, uint64_t at, struct err *err)
{
	ssize_t n = pwrite(fd, data, len, (off_t)at);

	if (n == (ssize_t)len)
		return 0;
	return err_errno(err, n < 0 ? -errno : -ENOSPC, "writing it");
}

static int header_put(int fd, const char *backing, bool raw, uint64_t bytes, uint32_t l1_entries,
		      struct err *err)
{
	struct {
		struct header header;
		struct extensions extensions;
		char backing[QCOW2_NAME_BYTES];
	} to = { 0 };
	const char *format = raw ? "raw" : "qcow2";

	if (strlen(backing) >= sizeof(to.backing))
		return err_set(err, -ENAMETOOLONG,
			       "its header has room for a name of %zu bytes, the disk's has %zu",
			       sizeof(to.backing) - 1, strlen(backing));
	memcpy(to.header.magic, QCOW2_MAGIC, sizeof(to.header.magic));
	to.header.version = htobe32(VERSION);
	to.header.backing_at = htobe64(offsetof(__typeof__(to), backing));
	to.header.backing_bytes = htobe32((uint32_t)strlen(backing));
	to.header.cluster_bits = htobe32(CLUSTER_BITS);
	to.header.bytes = htobe64(bytes);
	to.header.l1_entries = htobe32(l1_entries);
	to.header.l1_at = htobe64(CLUSTER_L1 * CLUSTER_BYTES);
	to.header.refcounts_at = htobe64(CLUSTER_REFCOUNTS * CLUSTER_BYTES);
	to.header.refcounts_clusters = htobe32(1);
	to.header.refcount_order = htobe32(REFCOUNT_ORDER);
	to.header.header_bytes = htobe32(sizeof(to.header));
	to.extensions.type = htobe32(BACKING_FORMAT);
	to.extensions.bytes = htobe32((uint32_t)strlen(format));
	memcpy(to.extensions.format, format, strlen(format));
	memcpy(to.backing, backing, strlen(backing));
	return bytes_put(fd, &to, sizeof(to), CLUSTER_HEADER * CLUSTER_BYTES, err);
}

/* Each cluster of the file has one user. */
static int refcounts_put(int fd, uint64_t clusters, struct err *err)
{
	uint64_t block = htobe64(CLUSTER_REFCOUNT_BLOCK * CLUSTER_BYTES);
	uint16_t counts[CLUSTER_L1 + L1_BYTES_MAX / CLUSTER_BYTES];
	uint64_t i;
	int r;

	_Static_assert(sizeof(counts) <= CLUSTER_BYTES, "one block has all of them");
	for (i = 0; i < clusters; i++)
		counts[i] = htobe16(1);
	r = bytes_put(fd, &block, sizeof(block), CLUSTER_REFCOUNTS * CLUSTER_BYTES, err);
	return r ? r :
		   bytes_put(fd, counts, clusters * sizeof(counts[0]),
			     CLUSTER_REFCOUNT_BLOCK * CLUSTER_BYTES, err);
}

static int image_put(int fd, const char *backing, bool raw, uint64_t bytes, struct err *err)
{
	uint64_t l1_entries = (bytes + L1_ENTRY_BYTES - 1) / L1_ENTRY_BYTES, clusters;
	int r;

	if (l1_entries > L1_BYTES_MAX / 8)
		return err_set(err, -EFBIG,
			       "a disk of %" PRIu64 " bytes is larger than a qcow2 image can be",
			       bytes);
	clusters = CLUSTER_L1 + (l1_entries * 8 + CLUSTER_BYTES - 1) / CLUSTER_BYTES;
	if (ftruncate(fd, (off_t)(clusters * CLUSTER_BYTES)) < 0)
		return err_errno(err, -errno, "making it %" PRIu64 " bytes long",
				 clusters * CLUSTER_BYTES);
	r = refcounts_put(fd, clusters, err);
	return r ? r : header_put(fd, backing, raw, bytes, (uint32_t)l1_entries, err);
}

/* The disk's size; all is looked at that is looked at when it is opened for reading. */
static int below_look(const struct disk_config *below, uint64_t *bytes, struct err *err)
{
	struct disk_config config = *below;
	struct disk_env env = { 0 };
	struct qcow2_image image;
	struct disk *disk;
	int r;

	config.readonly = true;
	if (config.format == DISK_FORMAT_QCOW2) {
		r = qcow2_image_open(&image, &config, err);
		if (r < 0)
			return err_prefix(err, r, "disk %.200s", below->path);
		*bytes = image.bytes;
		r = image.data_file ? err_set(err, -EINVAL,
					      "disk %.200s: its data is in another file, which is "
					      "not supported below another image",
					      below->path) :
				      0;
		qcow2_image_close(&image);
		return r;
	}
	r = disk_open(&disk, &config, &env, err);
	if (r < 0)
		return r;
	*bytes = disk_bytes(disk);
	disk_close(disk);
	return 0;
}

static int overlay_create(const char *path, struct err *err)
{
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	if (fd < 0 && errno == EEXIST)
		return err_set(err, -EEXIST, "it is there already, and nothing is overwritten");
	return fd < 0 ? err_errno(err, -errno, "making it") : fd;
}

int disk_overlay_make(struct disk_overlay *overlay, const char *path,
		      const struct disk_config *below, struct err *err)
{
	uint64_t bytes = 0;
	struct stat st;
	int fd, r;

	if (below->nbd)
		return err_set(err, -EINVAL,
			       "disk %.200s is at a server: an overlay can be over a file or a "
			       "block device",
			       below->path);
	r = below_look(below, &bytes, err);
	if (r < 0)
		return r;
	fd = overlay_create(path, err);
	if (fd < 0)
		return err_prefix(err, fd, "overlay %.200s", path);
	if (fstat(fd, &st) < 0) {
		r = err_errno(err, -errno, "looking at it");
		unlink(path);
	} else {
		*overlay = (struct disk_overlay){ st.st_dev, st.st_ino };
		r = image_put(fd, below->path, below->format != DISK_FORMAT_QCOW2, bytes, err);
		if (r < 0)
			disk_overlay_remove(overlay, path);
	}
	close(fd);
	return r < 0 ? err_prefix(err, r, "overlay %.200s", path) : 0;
}

void disk_overlay_remove(const struct disk_overlay *overlay, const char *path)
{
	struct stat st;

	if (lstat(path, &st) < 0 || st.st_dev != overlay->dev || st.st_ino != overlay->ino)
		return;
	if (unlink(path) < 0)
		log_warn("overlay %s cannot be removed: %s", path, strerror(errno));
}
