// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/* Frames: what zstd takes for good and is not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "base/types.h"
#include "image/codec.h"

#define PAGES 16
#define LEN (PAGES * PAGE_BYTES)

struct frame {
	uint8_t data[ZSTD_COMPRESSBOUND(LEN) * 2];
	size_t len;
};

static int decode(const void *data, size_t stored, uint8_t *out, size_t len, struct err *err)
{
	struct codec_decoder *decoder = codec_decoder_new();
	int r = codec_decode(decoder, CODEC_ZSTD, data, stored, out, len, err);

	codec_decoder_free(decoder);
	return r;
}

static void fill(uint8_t *data, size_t len)
{
	size_t i;

	for (i = 0; i < len; i++)
		data[i] = (uint8_t)(i / 64 * 7 + i % 3);
}

static void test_codec_round_trip_of_all_levels(void **state)
{
	static uint8_t data[LEN], out[LEN];
	int level;

	(void)state;
	fill(data, LEN);
	for (level = -1; level <= CODEC_LEVEL_MAX; level++) {
		struct codec_encoder *encoder = codec_encoder_new(level ? level : 1, LEN);
		struct codec_decoder *decoder = codec_decoder_new();
		enum codec_encoding encoding;
		const void *frame;
		size_t len = PAGE_BYTES * (size_t)(1 + (level + 1) % PAGES);
		size_t n = codec_encode(encoder, data, len, &frame, &encoding);
		struct err err;

		assert_int_equal(encoding, level < 0 ? CODEC_RAW : CODEC_ZSTD);
		assert_true(encoding == CODEC_RAW ? n == len : n < len);
		memset(out, 0xee, LEN);
		assert_int_equal(codec_decode(decoder, encoding, frame, n, out, len, &err), 0);
		assert_memory_equal(out, data, len);
		codec_encoder_free(encoder);
		codec_decoder_free(decoder);
	}
}

static void test_what_does_not_shrink_is_raw(void **state)
{
	struct codec_encoder *encoder = codec_encoder_new(1, LEN);
	static uint8_t data[LEN];
	enum codec_encoding encoding;
	const void *frame;
	uint64_t x = 88172645463325252u;
	size_t i;

	(void)state;
	for (i = 0; i < LEN; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		data[i] = (uint8_t)x;
	}
	assert_int_equal(codec_encode(encoder, data, LEN, &frame, &encoding), LEN);
	assert_int_equal(encoding, CODEC_RAW);
	assert_ptr_equal(frame, data);
	codec_encoder_free(encoder);
}

static void make(struct frame *frame, size_t len, int sizes)
{
	static uint8_t data[LEN];
	ZSTD_CCtx *zstd = ZSTD_createCCtx();

	fill(data, LEN);
	ZSTD_CCtx_setParameter(zstd, ZSTD_c_contentSizeFlag, sizes);
	frame->len = ZSTD_compress2(zstd, frame->data, sizeof(frame->data), data, len);
	assert_false(ZSTD_isError(frame->len));
	ZSTD_freeCCtx(zstd);
}

static void test_what_zstd_takes_for_good_and_is_not_is_refused(void **state)
{
	static const uint8_t skippable[12] = { 0x50, 0x2a, 0x4d, 0x18, 4 };
	static uint8_t out[LEN + 16];
	struct frame frame, other;
	struct err err;

	(void)state;
	/* An empty input decompresses to nothing, without an error. */
	assert_int_equal(decode("", 0, out, LEN, &err), -EBADMSG);
	assert_int_equal(decode(skippable, sizeof(skippable), out, LEN, &err), -EBADMSG);
	/* Shorter and longer than the index says. */
	make(&frame, LEN - PAGE_BYTES, 1);
	assert_int_equal(decode(frame.data, frame.len, out, LEN, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "61440 bytes instead of 65536"));
	make(&frame, LEN, 1);
	assert_int_equal(decode(frame.data, frame.len, out, LEN - PAGE_BYTES, &err), -EBADMSG);
	/* It does not say how long it is. */
	make(&frame, LEN, 0);
	assert_int_equal(decode(frame.data, frame.len, out, LEN, &err), -EBADMSG);
	/* Two frames, and a tail. */
	make(&frame, LEN, 1);
	make(&other, PAGE_BYTES, 1);
	memcpy(frame.data + frame.len, other.data, other.len);
	assert_int_equal(decode(frame.data, frame.len + other.len, out, LEN, &err), -EBADMSG);
	assert_int_equal(decode(frame.data, frame.len + 1, out, LEN, &err), -EBADMSG);
	assert_int_equal(decode(frame.data, frame.len - 1, out, LEN, &err), -EBADMSG);
	assert_int_equal(decode(frame.data, frame.len, out, LEN, &err), 0);
}

static void test_raw_frames_are_as_long_as_their_pages(void **state)
{
	struct codec_decoder *decoder = codec_decoder_new();
	static uint8_t data[LEN], out[LEN];
	struct err err;

	(void)state;
	assert_int_equal(codec_decode(decoder, CODEC_RAW, data, LEN, out, LEN, &err), 0);
	assert_int_equal(codec_decode(decoder, CODEC_RAW, data, LEN - 1, out, LEN, &err), -EBADMSG);
	assert_int_equal(codec_decode(decoder, CODEC_RAW, data, 0, out, LEN, &err), -EBADMSG);
	assert_int_equal(codec_decode(decoder, (enum codec_encoding)2, data, LEN, out, LEN, &err),
			 -EBADMSG);
	codec_decoder_free(decoder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_codec_round_trip_of_all_levels),
		cmocka_unit_test(test_what_does_not_shrink_is_raw),
		cmocka_unit_test(test_what_zstd_takes_for_good_and_is_not_is_refused),
		cmocka_unit_test(test_raw_frames_are_as_long_as_their_pages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
