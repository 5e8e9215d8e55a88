// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// A store's bytes: a frame of pages, behind how many it is to have and its encoding. Never a byte
// beyond them is written.
#include <stdlib.h>

#include "base/types.h"
#include "image/codec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct codec_decoder *decoder;
	struct err err;
	uint8_t *out;
	size_t len;

	if (!decoder)
		decoder = codec_decoder_new();
	if (size < 2)
		return 0;
	len = PAGE_BYTES * (1 + data[0] % 64u);
	/* As long as it may be: the sanitizer sees what goes beyond. */
	out = malloc(len);
	if (codec_decode(decoder, (enum codec_encoding)(data[1] % 3), data + 2, size - 2, out, len,
			 &err) &&
	    err.code >= 0)
		__builtin_trap();
	free(out);
	return 0;
}
