/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The arm64 kernel image (Linux: Documentation/arm64/booting.rst, section 4).
 */
#ifndef POSTERN_ARCH_ARM64_IMAGE_H
#define POSTERN_ARCH_ARM64_IMAGE_H

#include "base/err.h"
#include "base/types.h"

/* Where the image wants to lie. */
struct image {
	uint64_t offset;	/* from a 2 MiB boundary */
	uint64_t bytes;		/* from there on, what the kernel needs: no less than the file */
};

#define IMAGE_HEAD_BYTES 64u

/*
 * Hostile input: the first len bytes, IMAGE_HEAD_BYTES where the file has as
 * many, of file_len. -EINVAL says what it is instead: not an Image, compressed,
 * big endian, too old.
 */
int image_parse(struct image *image, const uint8_t *data, size_t len, uint64_t file_len,
		struct err *err);

#endif
