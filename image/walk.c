// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * See walk.h. Threads take leaves one after another, a share of each at a time, so that there is
 * something for all of them; the calling one is one of them. Each has one request under way, and
 * reads what lies together at once (parts.h): so memory is bounded.
 */
#include "image/walk.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/page.h"
#include "base/thread.h"
#include "image/operations.h"
#include "image/parts.h"

/* Pages of a share: 8 MiB. */
#define SHARE_PAGES 2048u
#define SHARES (LEAF_PAGES / SHARE_PAGES)

struct walk {
	struct image *image;
	const struct walk_ops *ops;
	_Atomic uint64_t next;		/* share, of all leaves */
	atomic_bool stop;
	/* guards the rest, and is held across damage and progress */
	pthread_mutex_t lock;
	uint64_t done;
	int error;
	struct err err;
};

/* A thread's own memory. */
struct walker {
	struct walk *walk;
	struct parts *parts;
	uint8_t *frame;			/* a span's bytes */
	uint8_t *span;			/* the same */
};

static void walk_fail(struct walk *walk, int error, const struct err *err)
{
	pthread_mutex_lock(&walk->lock);
	if (!walk->error) {
		walk->error = error;
		walk->err = *err;
	}
	pthread_mutex_unlock(&walk->lock);
	atomic_store(&walk->stop, true);
}

/* Is it the image that is wrong, and not the way to it? */
static bool is_damage(int error)
{
	return error == -EBADMSG || error == -ENOENT;
}

static int walk_damage(struct walk *walk, uint64_t pages, const struct err *why)
{
	int r;

	pthread_mutex_lock(&walk->lock);
	r = walk->ops->damage(walk->ops->arg, pages, why);
	pthread_mutex_unlock(&walk->lock);
	return r;
}

/* ---- a span ---- */

static gfn_t span_first(const struct leaf *leaf, const struct leaf_span *span)
{
	return GFN(((uint64_t)leaf->number << LEAF_SHIFT) + span->span * leaf->span_pages);
}

/* The pages of a frame that are right go to their places. */
static int walk_frame(struct walker *walker, const struct leaf *leaf, const struct leaf_span *span,
		      const struct root_leaf *entry, const struct leaf_piece *piece,
		      uint64_t *right)
{
	struct image *image = walker->walk->image;
	gfn_t first = span_first(leaf, span);
	uint64_t mask = piece->mask;
	char name[NAME_ROOM];
	struct err why;
	int r = 0;

	for (; !r && mask; mask &= mask - 1) {
		unsigned int page = (unsigned int)__builtin_ctzll(mask);
		uint8_t *data = walker->span + page * PAGE_BYTES;

		memcpy(data, walker->frame + leaf_piece_offset(piece, page), PAGE_BYTES);
		if (image_sum_is_right(leaf, span, page, data)) {
			*right |= UINT64_C(1) << page;
			continue;
		}
		image_pack_name(image, image_piece_pack(image, entry, piece), name);
		image_damaged(image, name, piece->offset, GFN(first.v + page),
			      "the page's checksum is wrong", &why);
		r = walk_damage(walker->walk, 1, &why);
	}
	return r;
}

/* Spans [at, end) of a leaf are wanted; `at` is this one. */
struct walk_place {
	const struct root_leaf *entry;
	const struct leaf *leaf;
	uint32_t at, end;
};

static int walk_piece(struct walker *walker, const struct walk_place *place,
		      const struct leaf_piece *piece, uint64_t *right, struct err *err)
{
	const struct leaf_span *span = &place->leaf->spans[place->at];
	struct image_want want = { .leaf = place->leaf,
				   .entry = place->entry,
				   .span = span,
				   .piece = piece,
				   .first = span_first(place->leaf, span) };
	int r;

	want.first.v += (unsigned int)__builtin_ctzll(piece->mask);
	r = parts_decode(walker->parts, &want, place->at, place->end, walker->frame, err);
	if (!r)
		return walk_frame(walker, place->leaf, span, place->entry, piece, right);
	if (!is_damage(r))
		return r;
	return walk_damage(walker->walk, (uint64_t)__builtin_popcountll(piece->mask), err);
}

static int walk_span(struct walker *walker, const struct walk_place *place, struct err *err)
{
	const struct walk_ops *ops = walker->walk->ops;
	const struct leaf_span *span = &place->leaf->spans[place->at];
	uint64_t right = 0;
	uint32_t i;
	int r = 0;

	for (i = 0; !r && i < span->n_pieces; i++)
		r = walk_piece(walker, place, &place->leaf->pieces[span->first_piece + i], &right,
			       err);
	if (!r && ops->span)
		r = ops->span(ops->arg, span_first(place->leaf, span), span, walker->span, right,
			      err);
	return r;
}

/* ---- leaves ---- */

/* The number of the first span of a leaf that is not before this page of it. */
static uint32_t span_from(const struct leaf *leaf, unsigned int page)
{
	uint32_t i = 0;

	while (i < leaf->n_spans && leaf->spans[i].span * leaf->span_pages < page)
		i++;
	return i;
}

/* *pages: of data, that were looked at. */
static int walk_share(struct walker *walker, const struct root_leaf *entry, unsigned int share,
		      uint64_t *pages, struct err *err)
{
	struct walk *walk = walker->walk;
	struct walk_place place = { .entry = entry };
	struct leaf *leaf;
	unsigned int slot;
	int r = image_get_leaf(walk->image, entry, &leaf, &slot, err);

	*pages = 0;
	if (r && !is_damage(r))
		return r;
	if (r) {
		/* Told once. */
		*pages = share ? 0 : entry->data_pages;
		return share ? 0 : walk_damage(walk, entry->data_pages, err);
	}
	place.leaf = leaf;
	place.at = span_from(leaf, share * SHARE_PAGES);
	place.end = span_from(leaf, (share + 1) * SHARE_PAGES);
	parts_begin(walker->parts);
	for (; !r && place.at < place.end && !atomic_load(&walk->stop); place.at++) {
		*pages += (uint64_t)__builtin_popcountll(leaf->spans[place.at].data);
		r = walk_span(walker, &place, err);
	}
	image_put_leaf(walk->image, slot);
	return r;
}

static void walk_leaves(struct walker *walker)
{
	struct walk *walk = walker->walk;
	const struct root *root = &walk->image->root;
	struct err err = { 0 };
	uint64_t pages;

	while (!atomic_load(&walk->stop)) {
		uint64_t i = atomic_fetch_add(&walk->next, 1);
		int r;

		if (i >= (uint64_t)root->n_leaves * SHARES)
			return;
		r = walk_share(walker, &root->leaves[i / SHARES], i % SHARES, &pages, &err);
		if (r) {
			walk_fail(walk, r, &err);
			return;
		}
		pthread_mutex_lock(&walk->lock);
		walk->done += pages;
		if (walk->ops->progress)
			walk->ops->progress(walk->ops->arg, walk->done,
					    walk->image->manifest.data_pages);
		pthread_mutex_unlock(&walk->lock);
	}
}

/* Also of the calling thread, which keeps its name. */
static void *walk_main(void *arg)
{
	struct walk *walk = arg;
	size_t bytes = walk->image->span_bytes;
	struct walker walker = {
		.walk = walk,
		.parts = parts_new(walk->image),
		.frame = page_buffer_new(bytes),
		.span = page_buffer_new(bytes),
	};
	struct err err;

	if (walker.parts && walker.frame && walker.span)
		walk_leaves(&walker);
	else
		walk_fail(walk,
			  err_set(&err, -ENOMEM, "image %s: no memory to read it",
				  image_name(walk->image)),
			  &err);
	parts_free(walker.parts);
	page_buffer_free(walker.frame, bytes);
	page_buffer_free(walker.span, bytes);
	return NULL;
}

int image_walk(struct image *image, unsigned int threads, const struct walk_ops *ops,
	       struct err *err)
{
	struct walk walk = { .image = image, .ops = ops };
	pthread_t thread[IMAGE_THREADS_MAX];
	unsigned int n = 0;

	pthread_mutex_init(&walk.lock, NULL);
	/* Fewer than asked for will do. */
	while (n + 1 < threads && n < IMAGE_THREADS_MAX &&
	       !thread_start(&thread[n], walk_main, &walk))
		pthread_setname_np(thread[n++], "image-walk");
	walk_main(&walk);
	while (n)
		pthread_join(thread[--n], NULL);
	pthread_mutex_destroy(&walk.lock);
	if (walk.error && err)
		*err = walk.err;
	return walk.error;
}
