// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "arch/arm64/image.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"

#define MAGIC 0x644d5241u	/* "ARM\x64" */
#define FLAG_BIG_ENDIAN 1u
#define IMAGE_MAX (1ull << 30)

int image_parse(struct image *image, const uint8_t *data, size_t len, uint64_t file_len,
		struct err *err)
{
	uint64_t flags;

	if (len >= 2 && data[0] == 0x1f && data[1] == 0x8b)
		return err_set(err, -EINVAL, "compressed by gzip: unpack it first");
	if (len >= 8 && !memcmp(data, "MZ", 2) && !memcmp(data + 4, "zimg", 4))
		return err_set(err, -EINVAL,
			       "a compressed EFI image: the Image inside of it is needed");
	if (len < IMAGE_HEAD_BYTES || get32(data + 56) != MAGIC)
		return err_set(err, -EINVAL, "not an arm64 kernel (Image)");
	image->offset = get64(data + 8);
	image->bytes = get64(data + 16);
	flags = get64(data + 24);
	if (!image->bytes)
		return err_set(err, -EINVAL, "an Image without a size, of Linux before 3.17");
	if (flags & FLAG_BIG_ENDIAN)
		return err_set(err, -EINVAL, "a big-endian kernel");
	if (image->offset >= HUGE_BYTES || image->offset % PAGE_BYTES)
		return err_set(err, -EINVAL,
			       "an Image that wants to lie 0x%llx behind a 2 MiB boundary",
			       (unsigned long long)image->offset);
	if (image->bytes > IMAGE_MAX)
		return err_set(err, -EINVAL, "an Image that needs 0x%llx bytes",
			       (unsigned long long)image->bytes);
	/* A file may be cut short of its zeros, or be longer by a signature. */
	if (image->bytes < file_len)
		image->bytes = file_len;
	return 0;
}
