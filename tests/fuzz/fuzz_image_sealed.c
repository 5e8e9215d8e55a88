// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// A store's bytes, of an encrypted image, to somebody with its key: what was not sealed with that
// key is never opened; a manifest that was is read, and what is in it. Sealed here, so that the
// parsers behind the seal see it, too.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image/manifest.h"
#include "image/seal.h"
#include "image/sum.h"
#include "image/working_set.h"

static struct image_key *key;
static struct seal *seal;
static const struct manifest_image image = { .id = { { 1 } } };

static void fuzz_begin(void)
{
	struct err err;

	if (seal)
		return;
	if (image_key_new(&key, "0123456789abcdef0123456789abcde0", 32, "x", &err) ||
	    seal_new(&seal, key, &image, 1, &err))
		abort();
}

static void fuzz_manifest(const void *data, size_t size)
{
	struct manifest manifest;
	struct buf out = { 0 };
	struct err err;

	if (manifest_parse(&manifest, data, size, "x", &err))
		return;
	if (manifest.encrypted && !manifest_unseal(&manifest, seal, data, "x", &err) &&
	    manifest_format(&manifest, seal, &out, &err))
		__builtin_trap();
	buf_fini(&out);
	manifest_fini(&manifest);
}

/* With a signature and a checksum that are right. */
static void fuzz_signed(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 256), hex[2 * SEAL_SIGNATURE_BYTES + 1];
	uint8_t signature[SEAL_SIGNATURE_BYTES], sum[SUM_BYTES];
	size_t len = size;

	memcpy(text, data, size);
	seal_sign(seal, text, size, signature);
	sum_format_hex(signature, sizeof(signature), hex);
	len += (size_t)sprintf(text + len, ",\"hmac-sha-256\":\"%s\"", hex);
	sum_bytes(text, len, sum);
	sum_format_hex(sum, SUM_BYTES, hex);
	len += (size_t)sprintf(text + len, ",\"xxh3-128\":\"%s\"}\n", hex);
	fuzz_manifest(text, len);
	free(text);
}

static void fuzz_set(const uint8_t *data, size_t size)
{
	struct buf bytes = { 0 };
	struct err err;

	if (buf_append(&bytes, data, size))
		abort();
	if (!working_set_unseal(&bytes, key, &image.id, "x", &err))
		__builtin_trap();
	buf_fini(&bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct seal_whole whole = { .part = SEAL_OBJECT, .what = "state" };
	struct seal_place place = { 0, 0, (uint32_t)size, SEAL_FRAME };
	uint8_t *sealed = malloc(size + SEAL_TAG_BYTES), *out = malloc(size + SEAL_TAG_BYTES);

	fuzz_begin();
	fuzz_manifest(data, size);
	fuzz_signed(data, size);
	fuzz_set(data, size);
	if (seal_pack(seal, &place, data, sealed) || seal_open_pack(seal, 0, &place, sealed, out) ||
	    memcmp(out, data, size))
		__builtin_trap();
	place.offset = 1;
	if (!seal_open_pack(seal, 0, &place, sealed, out))
		__builtin_trap();
	if (size >= SEAL_TAG_BYTES &&
	    !seal_open_whole(seal, &whole, data, size - SEAL_TAG_BYTES, out))
		__builtin_trap();
	free(sealed);
	free(out);
	return 0;
}
