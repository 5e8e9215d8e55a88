/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What a qcow2 image's header says (QEMU's docs/interop/qcow2.txt): above all,
 * which other files it names. Its tables and clusters are qemu-nbd's alone. A
 * pure function over the image's first bytes, each of which may be hostile.
 */
#ifndef POSTERN_DEVICE_DISK_QCOW2_HEADER_H
#define POSTERN_DEVICE_DISK_QCOW2_HEADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define QCOW2_MAGIC "QFI\xfb"
/*
 * Of a name in the header, as QEMU has it; and of a cluster, in the first of
 * which all of it is.
 */
#define QCOW2_NAME_BYTES 1024
#define QCOW2_CLUSTER_MAX (2u << 20)

struct qcow2_header {
	unsigned int version;			/* 2 or 3 */
	uint32_t cluster_bytes;
	uint64_t bytes;				/* the disk's */
	char backing[QCOW2_NAME_BYTES];		/* the image below it; "": none */
	char backing_format[16];		/* "": it does not say */
	/* Its data is in another file, whose name may be there */
	bool has_data_file;
	char data_file[QCOW2_NAME_BYTES];
};

/*
 * How many bytes qcow2_header_parse wants of an image that begins with these,
 * of which 24 are enough: its first cluster, or 0: no qcow2.
 */
size_t qcow2_header_bytes(const uint8_t *data, size_t len);
/*
 * data: the image's first bytes, as many as qcow2_header_bytes said, or all
 * that it has. -EINVAL: it is no qcow2 image, or a wrong one, or one that is
 * not supported: encrypted, or with features that are not known.
 */
int qcow2_header_parse(struct qcow2_header *header, const uint8_t *data, size_t len,
		       struct err *err);

#endif
