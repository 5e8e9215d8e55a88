// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/* See sum.h. xxhash picks the widest vectors that the CPU has, where it was built with them. */
#include "image/sum.h"

#include <errno.h>
#include <string.h>
#ifdef HAVE_XXH_DISPATCH
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

#include "base/types.h"

uint64_t sum_page(const void *page)
{
	return XXH3_64bits(page, PAGE_BYTES);
}

static void put_canonical(XXH128_hash_t hash, uint8_t out[SUM_BYTES])
{
	XXH128_canonical_t canonical;

	XXH128_canonicalFromHash(&canonical, hash);
	memcpy(out, canonical.digest, SUM_BYTES);
}

void sum_bytes(const void *data, size_t len, uint8_t out[SUM_BYTES])
{
	put_canonical(XXH3_128bits(data, len), out);
}

struct sum_stream *sum_stream_new(void)
{
	XXH3_state_t *state = XXH3_createState();

	if (state)
		XXH3_128bits_reset(state);
	return (struct sum_stream *)state;
}

void sum_stream_reset(struct sum_stream *stream)
{
	XXH3_128bits_reset((XXH3_state_t *)stream);
}

void sum_stream_add(struct sum_stream *stream, const void *data, size_t len)
{
	XXH3_128bits_update((XXH3_state_t *)stream, data, len);
}

void sum_stream_get(const struct sum_stream *stream, uint8_t out[SUM_BYTES])
{
	put_canonical(XXH3_128bits_digest((const XXH3_state_t *)stream), out);
}

void sum_stream_free(struct sum_stream *stream)
{
	XXH3_freeState((XXH3_state_t *)stream);
}

void sum_format_hex(const uint8_t *bytes, size_t n, char *out)
{
	static const char digits[] = "0123456789abcdef";
	size_t i;

	for (i = 0; i < n; i++) {
		out[2 * i] = digits[bytes[i] >> 4];
		out[2 * i + 1] = digits[bytes[i] & 15];
	}
	out[2 * n] = '\0';
}

static int sum_hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int sum_parse_hex(uint8_t *bytes, size_t n, const char *text)
{
	size_t i;

	if (strlen(text) != 2 * n)
		return -EINVAL;
	for (i = 0; i < n; i++) {
		int high = sum_hex_digit(text[2 * i]), low = sum_hex_digit(text[2 * i + 1]);

		if (high < 0 || low < 0)
			return -EINVAL;
		bytes[i] = (uint8_t)(high << 4 | low);
	}
	return 0;
}
