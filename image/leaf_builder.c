// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * See leaf_builder.h. Frames come in any order; sealing puts them in the order
 * of spans, and joins to each span what is kept of the parent's: its pieces with
 * the pages that were brought anew masked out would be other frames, so a kept
 * piece names the same frame, whose pages that are no longer wanted nobody asks
 * for (docs/image.md, Pieces).
 */
#include "image/leaf_builder.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct leaf_builder *leaf_builder_new(uint32_t number, const struct memory_range *ranges,
				      unsigned int n_ranges)
{
	struct leaf_builder *builder = calloc(1, sizeof(*builder));
	uint64_t first = (uint64_t)number << LEAF_SHIFT, page;
	unsigned int i;

	if (!builder)
		return NULL;
	builder->number = number;
	for (i = 0; i < n_ranges; i++) {
		uint64_t start = ranges[i].base.v >> PAGE_SHIFT;
		uint64_t end = start + (ranges[i].len_bytes >> PAGE_SHIFT);

		if (start < first)
			start = first;
		if (end > first + LEAF_PAGES)
			end = first + LEAF_PAGES;
		/* Ranges are made of 2 MiB, and so of whole spans. */
		for (page = start; page < end; page += IMAGE_SPAN_PAGES) {
			builder->ram[(page - first) / IMAGE_SPAN_PAGES] = BUILDER_SPAN_MASK;
			builder->unnamed += IMAGE_SPAN_PAGES;
			builder->n_ram += IMAGE_SPAN_PAGES;
		}
	}
	return builder;
}

void leaf_builder_free(struct leaf_builder *builder)
{
	if (!builder)
		return;
	free(builder->pieces);
	free(builder->sums);
	free(builder);
}

bool leaf_builder_name(struct leaf_builder *builder, uint32_t span, uint32_t mask,
		       enum builder_kind kind)
{
	if (mask & builder->named[span] || mask & ~builder->ram[span])
		return false;
	builder->named[span] |= mask;
	builder->unnamed -= (uint32_t)__builtin_popcount(mask);
	if (kind == BUILDER_ABSENT)
		builder->absent[span] |= mask;
	if (kind == BUILDER_KEPT)
		leaf_builder_keep(builder, span, mask);
	return true;
}

void leaf_builder_keep(struct leaf_builder *builder, uint32_t span, uint32_t mask)
{
	builder->kept[span] |= mask;
	builder->n_kept += (uint32_t)__builtin_popcount(mask);
}

void leaf_builder_name_rest(struct leaf_builder *builder, enum builder_kind kind)
{
	uint32_t span;

	for (span = 0; span < BUILDER_SPANS; span++)
		leaf_builder_name(builder, span, builder->ram[span] & ~builder->named[span], kind);
}

static int builder_reserve(struct leaf_builder *builder, uint32_t sums)
{
	if (builder->n_pieces == builder->pieces_room) {
		uint32_t room = builder->pieces_room ? 2 * builder->pieces_room : 64;
		void *more = realloc(builder->pieces, room * sizeof(*builder->pieces));

		if (!more)
			return -ENOMEM;
		builder->pieces = more;
		builder->pieces_room = room;
	}
	if (builder->n_sums + sums > builder->sums_room) {
		uint32_t room = builder->sums_room ? 2 * builder->sums_room : 1024;
		void *more = realloc(builder->sums, room * sizeof(*builder->sums));

		if (!more)
			return -ENOMEM;
		builder->sums = more;
		builder->sums_room = room;
	}
	return 0;
}

int leaf_builder_add(struct leaf_builder *builder, uint32_t span, const struct leaf_piece *piece,
		     uint32_t pack, const uint64_t *sums)
{
	uint32_t n = (uint32_t)__builtin_popcountll(piece->mask);

	if (builder_reserve(builder, n))
		return -ENOMEM;
	builder->pieces[builder->n_pieces++] = (struct builder_piece){
		.span = span,
		.pack = pack,
		.first_sum = builder->n_sums,
		.piece = *piece,
	};
	memcpy(builder->sums + builder->n_sums, sums, n * sizeof(*sums));
	builder->n_sums += n;
	return 0;
}

/* ---- sealing ---- */

struct sealing {
	struct leaf_builder *builder;
	const struct leaf *parent;
	const struct root *root;
	const struct root_leaf *entry;
	const struct builder_refs *refs;
	struct leaf *leaf;		/* n_spans and so on: so far */
	uint32_t next;			/* of the builder's pieces */
	const uint64_t *sum[SPAN_PAGES_MAX];	/* of the span's pages */
};

static int builder_by_span(const void *a, const void *b)
{
	const struct builder_piece *x = a, *y = b;

	if (x->span != y->span)
		return x->span < y->span ? -1 : 1;
	return x->first_sum < y->first_sum ? -1 : x->first_sum > y->first_sum;
}

static int seal_piece(struct sealing *sealing, struct leaf_span *span,
		      const struct leaf_piece *piece, uint64_t mask, bool own, uint32_t pack)
{
	struct leaf_piece *out = &sealing->leaf->pieces[sealing->leaf->n_pieces++];

	*out = *piece;
	out->mask = mask;
	span->n_pieces++;
	span->data |= mask;
	return sealing->refs->ref(sealing->refs->arg, own, pack, &out->ref);
}

/* What was brought. */
static int seal_own(struct sealing *sealing, struct leaf_span *span)
{
	struct leaf_builder *builder = sealing->builder;
	int r = 0;

	for (; !r && sealing->next < builder->n_pieces; sealing->next++) {
		const struct builder_piece *piece = &builder->pieces[sealing->next];
		uint64_t mask = piece->piece.mask;
		uint32_t sum = piece->first_sum;

		if (piece->span != span->span)
			break;
		for (; mask; mask &= mask - 1)
			sealing->sum[__builtin_ctzll(mask)] = &builder->sums[sum++];
		r = seal_piece(sealing, span, &piece->piece, piece->piece.mask, true, piece->pack);
	}
	return r;
}

/* What is kept of the parent's. */
static int seal_kept(struct sealing *sealing, struct leaf_span *span)
{
	const struct leaf *parent = sealing->parent;
	const struct leaf_span *old = parent ? leaf_find(parent, span->span) : NULL;
	uint64_t kept = sealing->builder->kept[span->span], mask;
	uint32_t i;
	int r = 0;

	if (!old || !kept)
		return 0;
	span->absent |= old->absent & kept;
	for (mask = old->data & kept; mask; mask &= mask - 1)
		sealing->sum[__builtin_ctzll(mask)] =
			&parent->sums[leaf_sum_index(old, (unsigned int)__builtin_ctzll(mask))];
	for (i = 0; !r && i < old->n_pieces; i++) {
		const struct leaf_piece *piece = &parent->pieces[old->first_piece + i];
		uint32_t pack = sealing->root->refs[sealing->entry->first_ref + piece->ref];

		if (piece->mask & kept)
			r = seal_piece(sealing, span, piece, piece->mask & kept, false, pack);
	}
	return r;
}

static int seal_span(struct sealing *sealing, uint32_t number)
{
	struct leaf *leaf = sealing->leaf;
	struct leaf_span *span = &leaf->spans[leaf->n_spans];
	uint64_t mask;
	int r;

	*span = (struct leaf_span){
		.span = number,
		.first_piece = leaf->n_pieces,
		.first_sum = leaf->n_sums,
		.absent = sealing->builder->absent[number],
	};
	r = seal_own(sealing, span);
	if (!r)
		r = seal_kept(sealing, span);
	for (mask = span->data; !r && mask; mask &= mask - 1)
		leaf->sums[leaf->n_sums++] = *sealing->sum[__builtin_ctzll(mask)];
	if (span->data | span->absent)
		leaf->n_spans++;
	return r;
}

int leaf_builder_seal(struct leaf_builder *builder, const struct leaf *parent,
		      const struct root *root, const struct root_leaf *entry,
		      const struct builder_refs *refs, struct leaf **out, uint32_t *absent_pages)
{
	struct sealing sealing = { .builder = builder,
				   .parent = parent,
				   .root = root,
				   .entry = entry,
				   .refs = refs };
	uint32_t n, i;
	int r = 0;

	if (builder->n_pieces)
		qsort(builder->pieces, builder->n_pieces, sizeof(*builder->pieces),
		      builder_by_span);
	sealing.leaf = leaf_new(BUILDER_SPANS, builder->n_pieces + (parent ? parent->n_pieces : 0),
				builder->n_sums + (parent ? parent->n_sums : 0));
	if (!sealing.leaf)
		return -ENOMEM;
	sealing.leaf->number = builder->number;
	sealing.leaf->span_pages = IMAGE_SPAN_PAGES;
	sealing.leaf->n_spans = sealing.leaf->n_pieces = sealing.leaf->n_sums = 0;
	for (n = 0; !r && n < BUILDER_SPANS; n++)
		r = seal_span(&sealing, n);
	if (r) {
		free(sealing.leaf);
		return r;
	}
	*absent_pages = 0;
	for (i = 0; i < sealing.leaf->n_spans; i++)
		*absent_pages += (uint32_t)__builtin_popcountll(sealing.leaf->spans[i].absent);
	*out = sealing.leaf;
	return 0;
}
