// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * The index's leaves (index.h), field by field:
 *
 *   header  0 magic 4, 4 number 4, 8 spans 4, 12 pieces 4, 16 sums 4, 20 zero 4
 *   span    0 number 2, 2 pieces 2, 4 zero 4, 8 absent 8
 *   piece   0 frame 8, 8 mask 8, 16 ref 2, 18 encoding 2, 20 offset 4, 24 bytes 4, 28 zero 4
 *   sum     0 of a page 8
 *
 * Spans ascend, their pieces follow each other in the same order, and so do the
 * sums of a span's pages that are in pieces, in the order of pages.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/types.h"
#include "image/index.h"

#define LEAF_MAGIC 0x464c5350u		/* "PSLF" */
#define HEADER_BYTES 24u
#define SPAN_BYTES 16u
#define PIECE_BYTES 32u
#define PAGE_SUM_BYTES 8u

/* Each page may be a piece of its own, and then its span has at least one. */
size_t leaf_bytes_max(unsigned int span_pages)
{
	return HEADER_BYTES + (size_t)SPAN_BYTES * (LEAF_PAGES / span_pages) +
	       (size_t)(PIECE_BYTES + PAGE_SUM_BYTES) * LEAF_PAGES;
}

static uint64_t span_mask(unsigned int span_pages)
{
	return span_pages == 64 ? UINT64_MAX : (UINT64_C(1) << span_pages) - 1;
}

static size_t leaf_length(uint32_t spans, uint32_t pieces, uint32_t sums)
{
	return HEADER_BYTES + (size_t)SPAN_BYTES * spans + (size_t)PIECE_BYTES * pieces +
	       (size_t)PAGE_SUM_BYTES * sums;
}

struct leaf *leaf_new(uint32_t spans, uint32_t pieces, uint32_t sums)
{
	struct leaf *leaf = malloc(sizeof(*leaf) + spans * sizeof(*leaf->spans) +
				   pieces * sizeof(*leaf->pieces) + sums * sizeof(*leaf->sums));

	if (!leaf)
		return NULL;
	leaf->spans = (struct leaf_span *)(leaf + 1);
	leaf->pieces = (struct leaf_piece *)(leaf->spans + spans);
	leaf->sums = (uint64_t *)(leaf->pieces + pieces);
	leaf->n_spans = spans;
	leaf->n_pieces = pieces;
	leaf->n_sums = sums;
	return leaf;
}

static int piece_decode(struct leaf_piece *piece, const uint8_t *data, const struct root *root,
			const struct root_leaf *entry, struct err *err)
{
	uint64_t raw, pack;

	piece->frame = get64(data);
	piece->mask = get64(data + 8);
	piece->ref = get16(data + 16);
	piece->encoding = get16(data + 18);
	piece->offset = get32(data + 20);
	piece->bytes = get32(data + 24);
	raw = leaf_piece_bytes(piece);
	if (!piece->mask || piece->mask & ~piece->frame || get32(data + 28) ||
	    piece->frame & ~span_mask(root->span_pages))
		return err_set(err, -EBADMSG, "a piece without pages, or beyond its span");
	if (piece->ref >= entry->n_refs)
		return err_set(err, -EBADMSG, "ref %u of %u", piece->ref, entry->n_refs);
	if (piece->encoding > CODEC_ZSTD)
		return err_set(err, -EBADMSG, "encoding %u", piece->encoding);
	if (!piece->bytes ||
	    (piece->encoding == CODEC_RAW ? piece->bytes != raw : piece->bytes >= raw))
		return err_set(err, -EBADMSG, "%u bytes for %d pages", piece->bytes,
			       __builtin_popcountll(piece->frame));
	pack = root->packs[root->refs[entry->first_ref + piece->ref]].bytes;
	if (piece->offset > pack || piece->bytes + (uint64_t)root->tag_bytes > pack - piece->offset)
		return err_set(err, -EBADMSG, "%u bytes at %u, beyond its pack", piece->bytes,
			       piece->offset);
	return 0;
}

static int span_decode(struct leaf *leaf, struct leaf_span *span, const uint8_t *data,
		       const uint8_t *pieces, const struct root *root,
		       const struct root_leaf *entry, struct err *err)
{
	uint32_t i;
	int r;

	for (i = 0; i < span->n_pieces; i++) {
		struct leaf_piece *piece = &leaf->pieces[span->first_piece + i];

		r = piece_decode(piece, pieces + (size_t)PIECE_BYTES * (span->first_piece + i),
				 root, entry, err);
		if (r)
			return r;
		if (piece->mask & span->data)
			return err_set(err, -EBADMSG, "a page in two pieces");
		span->data |= piece->mask;
	}
	span->absent = get64(data + 8);
	if (span->absent & (span->data | ~span_mask(root->span_pages)))
		return err_set(err, -EBADMSG, "an absent page in a piece, or beyond its span");
	return 0;
}

static int spans_decode(struct leaf *leaf, const uint8_t *data, const struct root *root,
			const struct root_leaf *entry, struct err *err)
{
	const uint8_t *pieces = data + (size_t)SPAN_BYTES * leaf->n_spans;
	uint32_t i, n_pieces = 0, n_sums = 0, absent = 0;
	int r;

	for (i = 0; i < leaf->n_spans; i++, data += SPAN_BYTES) {
		struct leaf_span *span = &leaf->spans[i];

		*span = (struct leaf_span){ .span = get16(data),
					    .n_pieces = get16(data + 2),
					    .first_piece = n_pieces,
					    .first_sum = n_sums };
		if (span->span >= LEAF_PAGES / root->span_pages || get32(data + 4) ||
		    (i && span->span <= leaf->spans[i - 1].span))
			return err_set(err, -EBADMSG, "span %u cannot be here", span->span);
		if (span->n_pieces > leaf->n_pieces - n_pieces)
			return err_set(err, -EBADMSG, "more pieces than there are");
		r = span_decode(leaf, span, data, pieces, root, entry, err);
		if (r)
			return r;
		n_pieces += span->n_pieces;
		n_sums += (uint32_t)__builtin_popcountll(span->data);
		absent += (uint32_t)__builtin_popcountll(span->absent);
		if (n_sums > leaf->n_sums)
			return err_set(err, -EBADMSG, "fewer sums than pages");
	}
	if (n_pieces != leaf->n_pieces || n_sums != leaf->n_sums)
		return err_set(err, -EBADMSG, "pieces or sums that belong to no span");
	if (n_sums != entry->data_pages || absent != entry->absent_pages)
		return err_set(err, -EBADMSG, "other numbers of pages than the root has");
	return 0;
}

int leaf_decode(struct leaf **out, const void *bytes, size_t len, const struct root *root,
		const struct root_leaf *entry, struct err *err)
{
	const uint8_t *data = bytes;
	uint32_t spans, pieces, sums, i;
	struct leaf *leaf;
	int r;

	if (len < HEADER_BYTES || get32(data) != LEAF_MAGIC || get32(data + 4) != entry->number ||
	    get32(data + 20))
		return err_set(err, -EBADMSG, "not leaf %u of an index", entry->number);
	spans = get32(data + 8);
	pieces = get32(data + 12);
	sums = get32(data + 16);
	if (spans > LEAF_PAGES || pieces > LEAF_PAGES || sums > LEAF_PAGES ||
	    len != leaf_length(spans, pieces, sums))
		return err_set(err, -EBADMSG, "%zu bytes for %u spans, %u pieces, %u sums", len,
			       spans, pieces, sums);
	leaf = leaf_new(spans, pieces, sums);
	if (!leaf)
		return err_set(err, -ENOMEM, "no memory");
	leaf->number = entry->number;
	leaf->span_pages = root->span_pages;
	r = spans_decode(leaf, data + HEADER_BYTES, root, entry, err);
	if (r) {
		free(leaf);
		return r;
	}
	data += leaf_length(spans, pieces, 0);
	for (i = 0; i < sums; i++)
		leaf->sums[i] = get64(data + (size_t)PAGE_SUM_BYTES * i);
	*out = leaf;
	return 0;
}

static uint8_t *put_piece(uint8_t *at, const struct leaf_piece *piece)
{
	put64(at, piece->frame);
	put64(at + 8, piece->mask);
	put16(at + 16, (uint16_t)piece->ref);
	put16(at + 18, (uint16_t)piece->encoding);
	put32(at + 20, piece->offset);
	put32(at + 24, piece->bytes);
	put32(at + 28, 0);
	return at + PIECE_BYTES;
}

int leaf_encode(const struct leaf *leaf, struct buf *out)
{
	size_t len = leaf_length(leaf->n_spans, leaf->n_pieces, leaf->n_sums);
	uint8_t *at = buf_reserve(out, len);
	uint32_t i;

	if (!at)
		return -ENOMEM;
	put32(at, LEAF_MAGIC);
	put32(at + 4, leaf->number);
	put32(at + 8, leaf->n_spans);
	put32(at + 12, leaf->n_pieces);
	put32(at + 16, leaf->n_sums);
	put32(at + 20, 0);
	at += HEADER_BYTES;
	for (i = 0; i < leaf->n_spans; i++, at += SPAN_BYTES) {
		put16(at, (uint16_t)leaf->spans[i].span);
		put16(at + 2, (uint16_t)leaf->spans[i].n_pieces);
		put32(at + 4, 0);
		put64(at + 8, leaf->spans[i].absent);
	}
	for (i = 0; i < leaf->n_pieces; i++)
		at = put_piece(at, &leaf->pieces[i]);
	for (i = 0; i < leaf->n_sums; i++, at += PAGE_SUM_BYTES)
		put64(at, leaf->sums[i]);
	out->len += len;
	return 0;
}

const struct leaf_span *leaf_find(const struct leaf *leaf, uint32_t span)
{
	uint32_t low = 0, high = leaf->n_spans;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (leaf->spans[middle].span == span)
			return &leaf->spans[middle];
		if (leaf->spans[middle].span < span)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}
