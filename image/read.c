// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * A page's way out of an image: its leaf (from the cache, or read), there its
 * span and piece, the piece's frame (from the cache, or read and decoded), and
 * then each page's checksum before it is copied out. A frame in which a page
 * proves wrong is read anew next time: another store may have a better one.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/count.h"
#include "image/internal.h"

/* How many of the n pages lie in the same memory range; 0: not one. */
static uint64_t pages_in_range(const struct image *image, gfn_t first, uint64_t n)
{
	const struct manifest_machine *machine = &image->manifest.machine;
	unsigned int i;

	for (i = 0; i < machine->n_ranges; i++) {
		uint64_t start = machine->ranges[i].base.v >> PAGE_SHIFT;
		uint64_t pages = machine->ranges[i].len_bytes >> PAGE_SHIFT;

		if (first.v >= start && first.v - start < pages)
			return pages - (first.v - start) < n ? pages - (first.v - start) : n;
	}
	return 0;
}

/* Of the pages from `page` on, how many in a row are in the mask, or are not. */
static unsigned int bits_in_a_row(uint64_t mask, unsigned int page, unsigned int span_pages)
{
	unsigned int n = 1;
	bool in = mask >> page & 1;

	while (page + n < span_pages && (mask >> (page + n) & 1) == in)
		n++;
	return n;
}

/* A run of zeros that reaches the end of its span goes on to the next one that the leaf has. */
static uint64_t zeros_until(const struct leaf *leaf, uint32_t span)
{
	uint32_t i = 0;

	while (i < leaf->n_spans && leaf->spans[i].span < span)
		i++;
	return i < leaf->n_spans ? (uint64_t)leaf->spans[i].span * leaf->span_pages : LEAF_PAGES;
}

static void run_in_zeros(struct image_run *run, unsigned int at, unsigned int in_span)
{
	unsigned int span_pages = run->leaf->span_pages;

	run->kind = IMAGE_PAGE_ZERO;
	run->pages = in_span;
	if (at % span_pages + in_span == span_pages)
		run->pages = zeros_until(run->leaf, at / span_pages + 1) - at;
}

/* Page `at` of a leaf. */
static void run_in_leaf(struct image_run *run, unsigned int at)
{
	unsigned int span_pages = run->leaf->span_pages, i;
	const struct leaf_span *span = leaf_find(run->leaf, at / span_pages);

	run->page = at % span_pages;
	if (!span) {
		run_in_zeros(run, at, span_pages - run->page);
		return;
	}
	run->span = span;
	if (!((span->data | span->absent) >> run->page & 1)) {
		run_in_zeros(run, at,
			     bits_in_a_row(span->data | span->absent, run->page, span_pages));
		return;
	}
	run->kind = IMAGE_PAGE_ABSENT;
	run->pages = bits_in_a_row(span->absent, run->page, span_pages);
	for (i = 0; i < span->n_pieces; i++) {
		const struct leaf_piece *piece = &run->leaf->pieces[span->first_piece + i];

		if (!(piece->mask >> run->page & 1))
			continue;
		run->kind = IMAGE_PAGE_DATA;
		run->piece = piece;
		run->pages = bits_in_a_row(piece->mask, run->page, span_pages);
	}
}

/* What is at `first`; run->leaf is to be put when it is not NULL. */
static int run_find(struct image *image, gfn_t first, uint64_t n, struct image_run *run,
		    struct err *err)
{
	unsigned int at = (unsigned int)(first.v & (LEAF_PAGES - 1));
	int r;

	memset(run, 0, sizeof(*run));
	run->first = first;
	n = pages_in_range(image, first, n);
	if (!n)
		return err_set(err, -ERANGE, "image %s has no guest page 0x%" PRIx64,
			       image_name(image), first.v);
	run->entry = root_find(&image->root, first.v >> LEAF_SHIFT);
	if (!run->entry) {
		run->kind = IMAGE_PAGE_ZERO;
		run->pages = LEAF_PAGES - at;
	} else {
		r = image_get_leaf(image, run->entry, &run->leaf, &run->leaf_slot, err);
		if (r)
			return r;
		run_in_leaf(run, at);
	}
	if (run->pages > n)
		run->pages = n;
	return 0;
}

static void run_put(struct image *image, const struct image_run *run)
{
	if (run->leaf)
		image_put_leaf(image, run->leaf_slot);
}

/* The run's pages out of its frame; returns how many are right before the first that is not. */
static uint64_t run_copy(const struct image_run *run, const uint8_t *frame, uint8_t *data)
{
	uint64_t i;

	memcpy(data, frame + leaf_piece_offset(run->piece, run->page), run->pages * PAGE_BYTES);
	for (i = 0; i < run->pages; i++)
		if (!image_sum_is_right(run->leaf, run->span, run->page + (unsigned int)i,
					data + i * PAGE_BYTES))
			break;
	return i;
}

static int64_t run_damaged(struct image *image, const struct image_run *run, struct err *err)
{
	char name[NAME_ROOM];

	image_pack_name(image, image_piece_pack(image, run->entry, run->piece), name);
	return image_damaged(image, name, run->piece->offset, run->first,
			     "the page's checksum is wrong", err);
}

/*
 * The run's pages are out. A frame that is out whole is not kept while others are: it is in memory
 * now, and the next one takes its place, which the CPU's caches have, and the kernel need not make.
 */
static void run_put_frame(struct image *image, const struct image_run *run, unsigned int slot)
{
	uint64_t pages = ~UINT64_C(0) >> (64 - run->pages) << run->page;

	pages |= atomic_fetch_or(&image->handed_out[slot], pages);
	if (run->piece->mask & ~pages)
		cache_put(image->frame_cache, slot);
	else
		cache_put_first(image->frame_cache, slot);
}

/* How soon pages are wanted. */
enum read_when { READ_NOW, READ_SOON, READ_LATER };

/* wanted: pages from the run's first on that the caller asked for. */
static int64_t run_read(struct image *image, struct image_run *run, uint64_t wanted,
			enum read_when when, void *data, struct err *err)
{
	uint64_t key = image_frame_key(image_piece_pack(image, run->entry, run->piece), run->piece);
	struct image_want want = { .leaf = run->leaf,
				   .entry = run->entry,
				   .span = run->span,
				   .piece = run->piece,
				   .first = run->first,
				   .pages = wanted };
	unsigned int slot;
	int64_t r;
	uint64_t n;

	if (when != READ_NOW && !cache_has(image->frame_cache, key)) {
		bool soon = when == READ_SOON;

		/* Of the others nobody said that data has room for more than a span. */
		r = image_read_ahead(image, &want, soon ? STORE_SOON : 0, data,
				     soon ? wanted : run->pages, err);
		if (r)
			return r;
	}
	r = cache_get(image->frame_cache, key, &want, &slot, err);
	if (r < 0)
		return r;
	if (r)
		count_add(&image->frame_hits, 1);
	n = run_copy(run, image->frames + slot * image->span_bytes, data);
	if (n == run->pages)
		run_put_frame(image, run, slot);
	else
		cache_put_bad(image->frame_cache, slot);
	count_add(&image->pages, n);
	return n ? (int64_t)n : run_damaged(image, run, err);
}

static int64_t pages_read(struct image *image, gfn_t first, uint64_t n, enum read_when when,
			  void *data, bool *zero, struct err *err)
{
	struct image_run run;
	int64_t r = run_find(image, first, n, &run, err);

	*zero = false;
	if (r)
		return r;
	if (run.kind == IMAGE_PAGE_DATA) {
		r = run_read(image, &run, n, when, data, err);
	} else if (run.kind == IMAGE_PAGE_ZERO) {
		*zero = true;
		count_add(&image->zero_pages, run.pages);
		r = (int64_t)run.pages;
	} else {
		r = err_set(err, -ENODATA,
			    "image %s: guest page 0x%" PRIx64 " had not come when "
			    "it was saved",
			    image_name(image), first.v);
	}
	run_put(image, &run);
	return r;
}

int64_t image_read(struct image *image, gfn_t first, uint64_t n, void *data, bool *zero,
		   struct err *err)
{
	return pages_read(image, first, n, n > image->root.span_pages ? READ_LATER : READ_NOW, data,
			  zero, err);
}

int64_t image_read_soon(struct image *image, gfn_t first, uint64_t n, void *data, bool *zero,
			struct err *err)
{
	return pages_read(image, first, n, READ_SOON, data, zero, err);
}

int64_t image_look(struct image *image, gfn_t first, uint64_t n, enum image_page *kind,
		   struct err *err)
{
	struct image_run run;
	int64_t r = run_find(image, first, n, &run, err);

	if (r)
		return r;
	*kind = run.kind;
	run_put(image, &run);
	return (int64_t)run.pages;
}
