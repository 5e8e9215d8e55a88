// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Each image that changes a page of a span adds a piece to it, and whoever reads
 * the whole span then reads so many frames of so many packs. So once a span keeps
 * more than a few pieces of the parent's, these are read, and written as one frame
 * of this image: a span has never more than FOLD_KEPT pieces of others, however
 * long the chain is. What cannot be read stays where it is: a parent that is
 * damaged in one place can still be saved upon.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/page.h"
#include "image/internal.h"
#include "image/writer_internal.h"

#define FOLD_KEPT 3

struct fold {
	struct image_writer *writer;
	struct leaf_builder *builder;
	const struct leaf *parent;
	const struct root_leaf *entry;
	struct image_scratch *scratch;
	struct codec_encoder *codec;
	uint8_t *frame, *span, *out;	/* a span's bytes each */
};

static unsigned int kept_pieces(const struct fold *fold, const struct leaf_span *span)
{
	unsigned int n = 0;
	uint32_t i;

	for (i = 0; i < span->n_pieces; i++)
		n += (fold->parent->pieces[span->first_piece + i].mask &
		      fold->builder->kept[span->span]) != 0;
	return n;
}

/* The kept pages of a span to their places. False: one cannot be had. */
static bool fold_read(struct fold *fold, const struct leaf_span *span, uint64_t kept)
{
	struct image *image = fold->writer->parent;
	gfn_t first = GFN(((uint64_t)fold->parent->number << LEAF_SHIFT) +
			  span->span * fold->parent->span_pages);
	uint32_t i;

	for (i = 0; i < span->n_pieces; i++) {
		const struct leaf_piece *piece = &fold->parent->pieces[span->first_piece + i];
		uint64_t mask = piece->mask & kept;

		if (mask && image_load_piece(image, fold->scratch, fold->entry, piece, first,
					     fold->frame, NULL))
			return false;
		for (; mask; mask &= mask - 1) {
			unsigned int page = (unsigned int)__builtin_ctzll(mask);
			uint8_t *data = fold->span + page * PAGE_BYTES;

			memcpy(data, fold->frame + leaf_piece_offset(piece, page), PAGE_BYTES);
			if (!image_sum_is_right(fold->parent, span, page, data))
				return false;
		}
	}
	return true;
}

/* They are this image's from now on. */
static int fold_write(struct fold *fold, const struct leaf_span *span, uint64_t kept,
		      struct err *err)
{
	struct leaf_piece piece = { .frame = kept, .mask = kept };
	uint64_t sums[SPAN_PAGES_MAX], mask;
	struct packer_place place;
	const void *out;
	uint32_t n = 0;
	int r;

	for (mask = kept; mask; mask &= mask - 1) {
		unsigned int page = (unsigned int)__builtin_ctzll(mask);

		memcpy(fold->out + n * PAGE_BYTES, fold->span + page * PAGE_BYTES, PAGE_BYTES);
		sums[n++] = fold->parent->sums[leaf_sum_index(span, page)];
	}
	piece.bytes = (uint32_t)codec_encode(fold->codec, fold->out, n * PAGE_BYTES, &out,
					     &piece.encoding);
	r = packer_add(fold->writer->packer, SEAL_FRAME, out, piece.bytes, &place, err);
	if (r)
		return r;
	piece.offset = place.offset;
	if (leaf_builder_add(fold->builder, span->span, &piece, place.pack, sums))
		return err_set(err, -ENOMEM, "image %s: no memory for its index",
			       fold->writer->name);
	/* Zero and absent pages are still the parent's. */
	fold->builder->kept[span->span] &= ~(uint32_t)kept;
	fold->builder->n_kept -= n;
	return 0;
}

static int fold_span(struct fold *fold, const struct leaf_span *span, struct err *err)
{
	uint64_t kept = span->data & fold->builder->kept[span->span];

	if (kept_pieces(fold, span) <= FOLD_KEPT || !fold_read(fold, span, kept))
		return 0;
	return fold_write(fold, span, kept, err);
}

static int fold_open(struct fold *fold)
{
	size_t bytes = fold->writer->parent->span_bytes;

	fold->scratch = image_get_scratch(fold->writer->parent);
	fold->codec = codec_encoder_new(fold->writer->level, bytes);
	fold->frame = page_buffer_new(3 * bytes);
	if (!fold->scratch || !fold->codec || !fold->frame)
		return -ENOMEM;
	fold->span = fold->frame + bytes;
	fold->out = fold->span + bytes;
	return 0;
}

static void fold_close(struct fold *fold)
{
	if (fold->scratch)
		image_put_scratch(fold->writer->parent, fold->scratch);
	codec_encoder_free(fold->codec);
	page_buffer_free(fold->frame, 3 * fold->writer->parent->span_bytes);
}

int writer_fold(struct image_writer *writer, struct leaf_builder *builder,
		const struct leaf *parent, const struct root_leaf *entry, struct err *err)
{
	struct fold fold = { .writer = writer,
			     .builder = builder,
			     .parent = parent,
			     .entry = entry };
	uint32_t i;
	int r = 0;

	for (i = 0; i < parent->n_spans; i++)
		if (kept_pieces(&fold, &parent->spans[i]) > FOLD_KEPT)
			break;
	if (i == parent->n_spans)
		return 0;
	if (fold_open(&fold))
		r = err_set(err, -ENOMEM, "image %s: no memory to read its parent", writer->name);
	for (; !r && i < parent->n_spans; i++)
		r = fold_span(&fold, &parent->spans[i], err);
	fold_close(&fold);
	return r;
}
