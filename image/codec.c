// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * See codec.h. zstd takes an empty input for a whole one of no bytes, several
 * frames for one, and a frame for good that says nothing about its length; so all
 * three are asked for before it decodes. Decoding in one go needs no window.
 */
#include "image/codec.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

struct codec_encoder {
	ZSTD_CCtx *zstd;	/* NULL: raw only */
	size_t room;
	uint8_t out[];
};

struct codec_encoder *codec_encoder_new(int level, size_t max)
{
	size_t room = level < 0 ? 0 : ZSTD_compressBound(max);
	struct codec_encoder *encoder = calloc(1, sizeof(*encoder) + room);

	if (!encoder || level < 0)
		return encoder;
	encoder->room = room;
	encoder->zstd = ZSTD_createCCtx();
	if (!encoder->zstd) {
		free(encoder);
		return NULL;
	}
	ZSTD_CCtx_setParameter(encoder->zstd, ZSTD_c_compressionLevel, level);
	/* Pages have checksums of their own. */
	ZSTD_CCtx_setParameter(encoder->zstd, ZSTD_c_checksumFlag, 0);
	return encoder;
}

void codec_encoder_free(struct codec_encoder *encoder)
{
	if (!encoder)
		return;
	ZSTD_freeCCtx(encoder->zstd);
	free(encoder);
}

size_t codec_encode(struct codec_encoder *encoder, const void *data, size_t len, const void **out,
		    enum codec_encoding *encoding)
{
	size_t n = len;

	if (encoder->zstd)
		n = ZSTD_compress2(encoder->zstd, encoder->out, encoder->room, data, len);
	if (!encoder->zstd || ZSTD_isError(n) || n > len - len / 16) {
		*out = data;
		*encoding = CODEC_RAW;
		return len;
	}
	*out = encoder->out;
	*encoding = CODEC_ZSTD;
	return n;
}

struct codec_decoder *codec_decoder_new(void)
{
	return (struct codec_decoder *)ZSTD_createDCtx();
}

void codec_decoder_free(struct codec_decoder *decoder)
{
	ZSTD_freeDCtx((ZSTD_DCtx *)decoder);
}

static int decode_zstd(ZSTD_DCtx *zstd, const void *data, size_t stored, void *out, size_t len,
		       struct err *err)
{
	unsigned long long content = ZSTD_getFrameContentSize(data, stored);
	size_t n;

	if (content == ZSTD_CONTENTSIZE_ERROR || content == ZSTD_CONTENTSIZE_UNKNOWN)
		return err_set(err, -EBADMSG, "no zstd frame that says its length");
	if (content != len)
		return err_set(err, -EBADMSG, "a zstd frame of %llu bytes instead of %zu", content,
			       len);
	if (ZSTD_findFrameCompressedSize(data, stored) != stored)
		return err_set(err, -EBADMSG, "not one whole zstd frame");
	n = ZSTD_decompressDCtx(zstd, out, len, data, stored);
	if (ZSTD_isError(n))
		return err_set(err, -EBADMSG, "zstd: %s", ZSTD_getErrorName(n));
	if (n != len)
		return err_set(err, -EBADMSG, "a zstd frame of %zu bytes instead of %zu", n, len);
	return 0;
}

int codec_decode(struct codec_decoder *decoder, enum codec_encoding encoding, const void *data,
		 size_t stored, void *out, size_t len, struct err *err)
{
	if (encoding == CODEC_ZSTD)
		return decode_zstd((ZSTD_DCtx *)decoder, data, stored, out, len, err);
	if (encoding != CODEC_RAW)
		return err_set(err, -EBADMSG, "encoding %d is not known", (int)encoding);
	if (stored != len)
		return err_set(err, -EBADMSG, "%zu raw bytes instead of %zu", stored, len);
	memcpy(out, data, len);
	return 0;
}
