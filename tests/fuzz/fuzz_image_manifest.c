// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// A store's bytes: an image's manifest, as they are, and with the checksum that makes them
// believed; and a claim. What
// is read can be written, and is read as the same.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image/claim.h"
#include "image/manifest.h"
#include "image/sum.h"

static void parse(const void *data, size_t size)
{
	struct manifest manifest, again;
	struct buf out = { 0 };
	struct err err;

	if (manifest_parse(&manifest, data, size, "x", &err)) {
		if (err.code >= 0 || strncmp(err.text, "x", 1))
			__builtin_trap();
		return;
	}
	/* How such a one is written, fuzz_image_sealed sees. */
	if (manifest.encrypted) {
		manifest_fini(&manifest);
		return;
	}
	if (manifest_format(&manifest, NULL, &out, &err) ||
	    manifest_parse(&again, out.data, out.len, "x", &err))
		__builtin_trap();
	if (again.data_pages != manifest.data_pages || again.n_images != manifest.n_images ||
	    memcmp(again.machine.ranges, manifest.machine.ranges, sizeof(again.machine.ranges)))
		__builtin_trap();
	manifest_fini(&again);
	manifest_fini(&manifest);
	buf_fini(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 64), hex[SUM_TEXT];
	uint8_t sum[SUM_BYTES];
	struct claim claim;
	struct err err;

	parse(data, size);
	memcpy(text, data, size);
	sum_bytes(data, size, sum);
	sum_format_hex(sum, SUM_BYTES, hex);
	parse(text, size + (size_t)sprintf(text + size, ",\"xxh3-128\":\"%s\"}\n", hex));
	claim_parse(&claim, data, size, "x", &err);
	free(text);
	return 0;
}
