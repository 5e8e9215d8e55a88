/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Frames: pages of one span that were saved together, as one standard zstd
 * frame that says how much it holds, or raw. A frame from outside is decoded
 * into exactly as many bytes as the index says, or not at all.
 */
#ifndef POSTERN_IMAGE_CODEC_H
#define POSTERN_IMAGE_CODEC_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum codec_encoding {
	CODEC_RAW = 0,
	CODEC_ZSTD = 1,
};

#define CODEC_LEVEL_DEFAULT 1
#define CODEC_LEVEL_MAX 19

/* One thread at a time. NULL: no memory. free takes NULL. */
struct codec_encoder;
/* Of frames up to max bytes. level: 1 to CODEC_LEVEL_MAX, or negative: raw only. */
struct codec_encoder *codec_encoder_new(int level, size_t max);
void codec_encoder_free(struct codec_encoder *encoder);
/*
 * Encodes len bytes, at most max. *out is the encoder's, until the next call, or
 * `data` itself (raw: what zstd makes no smaller by a sixteenth). Returns its length.
 */
size_t codec_encode(struct codec_encoder *encoder, const void *data, size_t len,
			  const void **out, enum codec_encoding *encoding);

struct codec_decoder;
struct codec_decoder *codec_decoder_new(void);
void codec_decoder_free(struct codec_decoder *decoder);
/*
 * Decodes what is `stored` bytes long to exactly len bytes at out. -EBADMSG: it
 * is no frame, or of another length; the text says why and names nothing. out
 * may then hold anything.
 */
int codec_decode(struct codec_decoder *decoder, enum codec_encoding encoding,
		       const void *data, size_t stored, void *out, size_t len, struct err *err);

#endif
