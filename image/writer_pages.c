// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * What a writer is told of pages. A span is named first, then its frame is made
 * without any lock, then added to its leaf. Whoever names a leaf's last pages,
 * or adds the last frame of a leaf that is all named, seals it.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/page.h"
#include "image/internal.h"
#include "image/sum.h"
#include "image/writer_internal.h"

#define SPAN_BYTES (IMAGE_SPAN_PAGES * PAGE_BYTES)

/* ---- leaves ---- */

int writer_new_leaves(struct image_writer *writer)
{
	const struct manifest_machine *machine = &writer->manifest.machine;
	uint64_t room = 0;
	unsigned int i;

	for (i = 0; i < machine->n_ranges; i++)
		room += (machine->ranges[i].len_bytes >> (PAGE_SHIFT + LEAF_SHIFT)) + 2;
	writer->leaves = calloc(room, sizeof(*writer->leaves));
	if (!writer->leaves)
		return -ENOMEM;
	for (i = 0; i < machine->n_ranges; i++) {
		uint64_t start = machine->ranges[i].base.v >> (PAGE_SHIFT + LEAF_SHIFT);
		uint64_t last = (machine->ranges[i].base.v + machine->ranges[i].len_bytes - 1) >>
				(PAGE_SHIFT + LEAF_SHIFT);

		for (; start <= last; start++)
			if (!writer->n_leaves ||
			    writer->leaves[writer->n_leaves - 1].number < start)
				writer->leaves[writer->n_leaves++].number = (uint32_t)start;
	}
	return 0;
}

void writer_free_leaves(struct image_writer *writer)
{
	struct writer_encoder *next;
	uint32_t i;

	for (i = 0; i < writer->n_leaves; i++)
		leaf_builder_free(writer->leaves[i].builder);
	free(writer->leaves);
	for (; writer->encoders; writer->encoders = next) {
		next = writer->encoders->next;
		codec_encoder_free(writer->encoders->codec);
		free(writer->encoders);
	}
}

/* NULL: no RAM there. */
static struct writer_leaf *find_leaf(struct image_writer *writer, uint64_t number)
{
	uint32_t low = 0, high = writer->n_leaves;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (writer->leaves[middle].number == number)
			return &writer->leaves[middle];
		if (writer->leaves[middle].number < number)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

/*
 * Takes the builder of a leaf that is complete out of the table, to be sealed; else NULL. With
 * the lock.
 */
static struct leaf_builder *take_complete(struct writer_leaf *leaf)
{
	struct leaf_builder *builder = leaf->builder;

	if (!builder || builder->unnamed || builder->busy)
		return NULL;
	leaf->builder = NULL;
	leaf->sealed = true;
	return builder;
}

/* Opens the leaf's builder where there is none yet. With the lock. -EINVAL: it is sealed. */
static int open_builder(struct image_writer *writer, struct writer_leaf *leaf)
{
	const struct manifest_machine *machine = &writer->manifest.machine;

	if (leaf->sealed)
		return -EINVAL;
	if (!leaf->builder)
		leaf->builder = leaf_builder_new(leaf->number, machine->ranges, machine->n_ranges);
	return leaf->builder ? 0 : -ENOMEM;
}

/* An error that stays, unless it is the caller's mistake. */
static int pages_error(struct image_writer *writer, int r, gfn_t first, struct err *err)
{
	struct err why;

	if (r == -EINVAL)
		return err_set(err, r,
			       "image %s: guest page 0x%" PRIx64 " (or one that follows) was "
			       "named before, is no RAM, or begins no span",
			       writer->name, first.v);
	err_set(&why, r, "image %s: no memory", writer->name);
	if (err)
		*err = why;
	return writer_fail(writer, &why);
}

/* ---- pages without data ---- */

/* The mask of the pages of a span that are in [first, first + n). */
static uint32_t mask_of(uint64_t first, uint64_t n)
{
	uint64_t at = first % IMAGE_SPAN_PAGES, bits = IMAGE_SPAN_PAGES - at;

	if (n < bits)
		bits = n;
	return (uint32_t)(((UINT64_C(1) << bits) - 1) << at);
}

/* Pages of one leaf. */
static int name_in_leaf(struct image_writer *writer, uint64_t first, uint64_t n,
			enum builder_kind kind, struct err *err)
{
	struct writer_leaf *leaf = find_leaf(writer, first >> LEAF_SHIFT);
	struct leaf_builder *complete = NULL;
	uint64_t at = first & (LEAF_PAGES - 1);
	struct err why;
	int r = leaf ? 0 : -EINVAL;

	pthread_mutex_lock(&writer->lock);
	if (!r)
		r = open_builder(writer, leaf);
	while (!r && n) {
		uint32_t mask = mask_of(at, n), pages = (uint32_t)__builtin_popcount(mask);

		if (!leaf_builder_name(leaf->builder, (uint32_t)(at / IMAGE_SPAN_PAGES), mask,
				       kind))
			r = -EINVAL;
		at += pages;
		n -= pages;
	}
	if (!r)
		complete = take_complete(leaf);
	pthread_mutex_unlock(&writer->lock);
	if (r)
		return pages_error(writer, r, GFN(first), err);
	if (!complete || !writer_seal(writer, complete, &why))
		return 0;
	if (err)
		*err = why;
	return writer_fail(writer, &why);
}

static int name_pages(struct image_writer *writer, gfn_t first, uint64_t n, enum builder_kind kind,
		      uint64_t *count, struct err *err)
{
	int r = writer_error(writer, err);
	uint64_t at = first.v, end = first.v + n;

	if (!r && (end < at || end > GFN_LIMIT))
		r = pages_error(writer, -EINVAL, first, err);
	while (!r && at < end) {
		uint64_t in_leaf = LEAF_PAGES - (at & (LEAF_PAGES - 1));

		if (in_leaf > end - at)
			in_leaf = end - at;
		r = name_in_leaf(writer, at, in_leaf, kind, err);
		at += in_leaf;
	}
	if (r)
		return r;
	pthread_mutex_lock(&writer->lock);
	*count += n;
	pthread_mutex_unlock(&writer->lock);
	return 0;
}

int image_writer_zero(struct image_writer *writer, gfn_t first, uint64_t n, struct err *err)
{
	return name_pages(writer, first, n, BUILDER_ZERO, &writer->stats.zero_pages, err);
}

int image_writer_keep(struct image_writer *writer, gfn_t first, uint64_t n, struct err *err)
{
	if (!writer->parent)
		return err_set(err, -EINVAL, "image %s has no parent to keep pages of",
			       writer->name);
	return name_pages(writer, first, n, BUILDER_KEPT, &writer->stats.kept_pages, err);
}

int image_writer_absent(struct image_writer *writer, gfn_t first, uint64_t n, struct err *err)
{
	return name_pages(writer, first, n, BUILDER_ABSENT, &writer->stats.absent_pages, err);
}

/* ---- pages with data ---- */

static struct writer_encoder *get_encoder(struct image_writer *writer)
{
	struct writer_encoder *encoder;

	pthread_mutex_lock(&writer->lock);
	encoder = writer->encoders;
	if (encoder)
		writer->encoders = encoder->next;
	pthread_mutex_unlock(&writer->lock);
	if (encoder)
		return encoder;
	encoder = malloc(sizeof(*encoder) + SPAN_BYTES);
	if (!encoder)
		return NULL;
	encoder->codec = codec_encoder_new(writer->level, SPAN_BYTES);
	if (!encoder->codec) {
		free(encoder);
		return NULL;
	}
	return encoder;
}

static void put_encoder(struct image_writer *writer, struct writer_encoder *encoder)
{
	pthread_mutex_lock(&writer->lock);
	encoder->next = writer->encoders;
	writer->encoders = encoder;
	pthread_mutex_unlock(&writer->lock);
}

/* The pages that are not zero: their mask, their sums, and their data next to each other. */
static const uint8_t *gather_pages(struct writer_encoder *encoder, uint32_t *mask,
				   const uint8_t *data, uint64_t *sums)
{
	const uint8_t *first = NULL;
	uint32_t left = *mask, n = 0;
	bool together = true;

	for (; left; left &= left - 1) {
		unsigned int i = (unsigned int)__builtin_ctz(left);
		const uint8_t *page = data + i * PAGE_BYTES;

		if (page_is_zero(page)) {
			*mask &= ~(UINT32_C(1) << i);
			continue;
		}
		if (!first)
			first = page;
		if (together && page != first + n * PAGE_BYTES) {
			together = false;
			memcpy(encoder->gathered, first, n * PAGE_BYTES);
		}
		if (!together)
			memcpy(encoder->gathered + n * PAGE_BYTES, page, PAGE_BYTES);
		sums[n++] = sum_page(page);
	}
	return together ? first : encoder->gathered;
}

/* A span on its way: what was named, and what comes of it. */
struct span_frame {
	struct writer_leaf *leaf;
	uint32_t span;		/* of the leaf */
	uint32_t named;
	uint32_t same;		/* of those, as in the parent */
	struct leaf_piece piece;	/* mask 0: there is no frame */
	bool hurried;
	uint32_t pack;
	uint64_t sums[IMAGE_SPAN_PAGES];
};

/* May these bytes be written as they are? They are taken from what may, then. */
static bool take_hurry(struct image_writer *writer, uint32_t bytes)
{
	if (!atomic_load_explicit(&writer->hurry, memory_order_relaxed) ||
	    atomic_load(&writer->hurry_left) < bytes || !packer_has_room(writer->packer))
		return false;
	if (atomic_fetch_sub(&writer->hurry_left, bytes) >= bytes)
		return true;
	atomic_fetch_add(&writer->hurry_left, bytes);
	return false;
}

/* What goes into the pack for a piece: *out, the encoder's or data itself. */
static void encode_frame(struct image_writer *writer, struct writer_encoder *encoder,
			 struct span_frame *frame, const uint8_t *data, const void **out)
{
	struct leaf_piece *piece = &frame->piece;
	uint32_t bytes = (uint32_t)leaf_piece_bytes(piece);

	if (writer->level >= 0 && take_hurry(writer, bytes)) {
		*out = data;
		piece->bytes = bytes;
		piece->encoding = CODEC_RAW;
		frame->hurried = true;
		return;
	}
	piece->bytes = (uint32_t)codec_encode(encoder->codec, data, bytes, out, &piece->encoding);
}

/* Makes a frame of what is neither zero nor the parent's, and puts it in a pack. */
static int write_frame(struct image_writer *writer, struct span_frame *frame, const uint8_t *data,
		       struct err *err)
{
	struct writer_encoder *encoder = get_encoder(writer);
	struct leaf_piece *piece = &frame->piece;
	uint32_t mask = frame->named & ~frame->same;
	struct packer_place place;
	const void *out;
	int r;

	if (!encoder)
		return err_set(err, -ENOMEM, "image %s: no memory to compress pages", writer->name);
	data = gather_pages(encoder, &mask, data, frame->sums);
	*piece = (struct leaf_piece){ .frame = mask, .mask = mask };
	if (!mask) {
		put_encoder(writer, encoder);
		return 0;
	}
	encode_frame(writer, encoder, frame, data, &out);
	r = packer_add(writer->packer, SEAL_FRAME, out, piece->bytes, &place, err);
	put_encoder(writer, encoder);
	piece->offset = place.offset;
	frame->pack = place.pack;
	return r;
}

/* What was named is known now. */
static int add_frame(struct image_writer *writer, const struct span_frame *frame, struct err *err)
{
	struct leaf_builder *builder = frame->leaf->builder, *complete = NULL;
	uint32_t pages = (uint32_t)__builtin_popcountll(frame->piece.mask);
	uint32_t same = (uint32_t)__builtin_popcount(frame->same);
	int r = 0;

	pthread_mutex_lock(&writer->lock);
	if (pages)
		r = leaf_builder_add(builder, frame->span, &frame->piece, frame->pack, frame->sums);
	leaf_builder_keep(builder, frame->span, frame->same);
	builder->busy--;
	writer->stats.data_pages += pages;
	writer->stats.hurried_pages += frame->hurried ? pages : 0;
	writer->stats.kept_pages += same;
	writer->stats.zero_pages += (uint32_t)__builtin_popcount(frame->named) - pages - same;
	if (!r)
		complete = take_complete(frame->leaf);
	pthread_mutex_unlock(&writer->lock);
	if (r)
		return err_set(err, r, "image %s: no memory for its index", writer->name);
	return complete ? writer_seal(writer, complete, err) : 0;
}

/* Names the pages of a span that are to come with data. */
static int name_span(struct image_writer *writer, struct writer_leaf *leaf, uint32_t span,
		     uint32_t mask)
{
	int r;

	pthread_mutex_lock(&writer->lock);
	r = open_builder(writer, leaf);
	if (!r && !leaf_builder_name(leaf->builder, span, mask, BUILDER_DATA))
		r = -EINVAL;
	if (!r)
		leaf->builder->busy++;
	pthread_mutex_unlock(&writer->lock);
	return r;
}

int image_writer_span(struct image_writer *writer, gfn_t first, uint32_t mask, const void *data,
		      struct err *err)
{
	struct span_frame frame = {
		.leaf = find_leaf(writer, first.v >> LEAF_SHIFT),
		.span = (uint32_t)(first.v & (LEAF_PAGES - 1)) / IMAGE_SPAN_PAGES,
		.named = mask,
	};
	struct err why = { 0 };
	int r = writer_error(writer, err);

	if (r)
		return r;
	if (!frame.leaf || first.v % IMAGE_SPAN_PAGES || mask & ~BUILDER_SPAN_MASK)
		return pages_error(writer, -EINVAL, first, err);
	if (!mask)
		return 0;
	r = name_span(writer, frame.leaf, frame.span, mask);
	if (r)
		return pages_error(writer, r, first, err);
	if (writer->parent)
		frame.same = writer_same(writer, first, mask, data);
	r = write_frame(writer, &frame, data, &why);
	if (!r)
		r = add_frame(writer, &frame, &why);
	if (!r)
		return 0;
	if (err)
		*err = why;
	return writer_fail(writer, &why);
}

/* ---- the rest ---- */

/* -EINVAL: somebody was to name them. */
static int rest_refused(struct image_writer *writer, const struct writer_leaf *leaf,
			struct err *err)
{
	const struct manifest_machine *machine = &writer->manifest.machine;
	struct leaf_builder *builder = leaf->builder;
	uint64_t first = (uint64_t)leaf->number << LEAF_SHIFT;
	uint32_t span;

	if (!builder)
		builder = leaf_builder_new(leaf->number, machine->ranges, machine->n_ranges);
	for (span = 0; builder && span < BUILDER_SPANS; span++) {
		uint32_t missing = builder->ram[span] & ~builder->named[span];

		if (!missing)
			continue;
		first += span * IMAGE_SPAN_PAGES + (unsigned int)__builtin_ctz(missing);
		break;
	}
	if (builder != leaf->builder)
		leaf_builder_free(builder);
	return err_set(err, -EINVAL, "image %s: nobody said what guest page 0x%" PRIx64 " is",
		       writer->name, first);
}

static int finish_leaf(struct image_writer *writer, struct writer_leaf *leaf, struct err *err)
{
	static const enum builder_kind kinds[] = {
		[IMAGE_REST_ZERO] = BUILDER_ZERO,
		[IMAGE_REST_KEPT] = BUILDER_KEPT,
		[IMAGE_REST_ABSENT] = BUILDER_ABSENT,
	};
	int r = 0;

	if (leaf->sealed)
		return 0;
	if (writer->rest == IMAGE_REST_REFUSED && (!leaf->builder || leaf->builder->unnamed))
		return rest_refused(writer, leaf, err);
	if (!leaf->builder && writer->rest == IMAGE_REST_KEPT)
		r = writer_keep_leaf(writer, leaf->number, err);
	else if (leaf->builder || writer->rest == IMAGE_REST_ABSENT)
		r = open_builder(writer, leaf) ?
			    err_set(err, -ENOMEM, "image %s: no memory for its index",
				    writer->name) :
			    0;
	if (r)
		return r;
	leaf->sealed = true;
	if (!leaf->builder)
		return 0;
	leaf_builder_name_rest(leaf->builder, kinds[writer->rest]);
	r = writer_seal(writer, leaf->builder, err);
	leaf->builder = NULL;
	return r;
}

int writer_finish_leaves(struct image_writer *writer, struct err *err)
{
	uint32_t i;
	int r = 0;

	for (i = 0; !r && i < writer->n_leaves; i++)
		r = finish_leaf(writer, &writer->leaves[i], err);
	return r;
}
