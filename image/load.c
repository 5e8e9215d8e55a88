// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * What an open image reads out of packs: leaves of the index, and frames. Both
 * are loaded by the caches (cache.h), so each once, whoever wants it meanwhile.
 * A leaf's checksum is looked at here, a page's only where it is handed out.
 *
 * Whoever asks for more pages than a span has is not waited for by a guest, but
 * fills it: then the frames that follow in the same pack are read by the same
 * request, and decoded to where the pages are wanted, or, where that cannot be,
 * into the cache. Whoever wants one of those at once does not wait for that, but
 * reads it by itself.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/count.h"
#include "base/page.h"
#include "image/internal.h"
#include "image/sum.h"

/* Scratches that are kept, at most. */
#define SCRATCH_KEPT 8

void image_pack_name(const struct image *image, uint32_t pack, char out[NAME_ROOM])
{
	const struct root_pack *entry = &image->root.packs[pack];
	const struct manifest_image *of = &image->manifest.images[entry->image];

	image_name_pack(out, of->name, entry->number, &of->id);
}

int image_damaged(struct image *image, const char *object, uint64_t offset, gfn_t gfn,
		  const char *why, struct err *err)
{
	count_add(&image->damaged, 1);
	return err_set(err, -EBADMSG,
		       "image %s: object %s, offset %" PRIu64 ", guest page 0x%" PRIx64
		       ": damaged: %s",
		       image_name(image), object, offset, gfn.v, why);
}

/* A part of a pack that is needed for the guest page `first`. flags: of enum store_flag. */
int image_pack_read(struct image *image, uint32_t pack, uint64_t offset, void *data, size_t len,
		    unsigned int flags, gfn_t first, struct err *err)
{
	const struct root_pack *entry = &image->root.packs[pack];
	char name[NAME_ROOM];
	struct store_request request = {
		.verb = STORE_GET,
		.flags = flags,
		.object = name,
		.offset = offset,
		.data = data,
		.len = len,
		.version = get64(image->manifest.images[entry->image].id.bytes),
	};
	int64_t n;

	image_pack_name(image, pack, name);
	n = store_wait(image->store, image->scope, &request);
	if (n == -EBADMSG)
		return image_damaged(image, name, offset, first, request.err.text, err);
	if (n < 0) {
		err_set(err, (int)n, "%s", request.err.text);
		return err_prefix(err, (int)n, "image %s, guest page 0x%" PRIx64, image_name(image),
				  first.v);
	}
	count_add(&image->bytes, (uint64_t)n);
	return 0;
}

/*
 * What is in a pack, opened when it is sealed; bytes and the root's tag_bytes of
 * it were read to `stored`. -EBADMSG: *why says so, and names nothing.
 */
static int pack_open(struct image *image, uint32_t pack, enum seal_kind kind, uint32_t offset,
		     uint32_t bytes, const void *stored, void *out, struct err *why)
{
	const struct root_pack *entry = &image->root.packs[pack];
	const struct seal_place place = { entry->number, offset, bytes, kind };
	int r = seal_open_pack(image->seal, entry->image, &place, stored, out);

	if (!r)
		return 0;
	return err_set(why, r, "%s",
		       r == -ENOMEM ? "no memory to open it" :
				      "it cannot be opened with the key: damaged, altered, or "
				      "of another place");
}

/* ---- leaves ---- */

/* bytes may be changed. */
static int leaf_check(struct image *image, const struct root_leaf *entry, uint8_t *bytes,
		      struct leaf **leaf, struct err *err)
{
	gfn_t first = GFN((uint64_t)entry->number << LEAF_SHIFT);
	struct err why = { 0 };
	char name[NAME_ROOM];
	uint8_t sum[SUM_BYTES];
	int r = 0;

	if (image->seal)
		r = pack_open(image, entry->pack, SEAL_LEAF, entry->offset, entry->bytes, bytes,
			      bytes, &why);
	sum_bytes(bytes, entry->bytes, sum);
	if (!r && memcmp(sum, entry->sum, SUM_BYTES))
		r = err_set(&why, -EBADMSG, "the checksum of this part of the index is wrong");
	if (!r)
		r = leaf_decode(leaf, bytes, entry->bytes, &image->root, entry, &why);
	if (!r)
		return 0;
	image_pack_name(image, entry->pack, name);
	if (r == -EBADMSG)
		return image_damaged(image, name, entry->offset, first, why.text, err);
	return err_set(err, r, "image %s: %s", image_name(image), why.text);
}

static int leaf_load(void *arg, unsigned int slot, uint64_t key, void *what, struct err *err)
{
	struct image *image = arg;
	const struct root_leaf *entry = what;
	size_t len = (size_t)entry->bytes + image->root.tag_bytes;
	uint8_t *bytes = malloc(len + 1);
	int r;

	if (!bytes)
		return err_set(err, -ENOMEM, "image %s: no memory for a part of its index",
			       image_name(image));
	r = image_pack_read(image, entry->pack, entry->offset, bytes, len, STORE_URGENT,
			    GFN(key << LEAF_SHIFT), err);
	if (!r)
		r = leaf_check(image, entry, bytes, &image->leaves[slot], err);
	if (!r)
		count_add(&image->n_leaves, 1);
	free(bytes);
	return r;
}

static void leaf_drop(void *arg, unsigned int slot)
{
	struct image *image = arg;

	free(image->leaves[slot]);
}

const struct cache_ops image_leaf_ops = { .load = leaf_load, .drop = leaf_drop };

int image_get_leaf(struct image *image, const struct root_leaf *entry, struct leaf **leaf,
		   unsigned int *slot, struct err *err)
{
	int r = cache_get(image->leaf_cache, entry->number, (void *)(uintptr_t)entry, slot, err);

	if (r < 0)
		return r;
	*leaf = image->leaves[*slot];
	return 0;
}

void image_put_leaf(struct image *image, unsigned int slot)
{
	cache_put(image->leaf_cache, slot);
}

/* ---- frames ---- */

struct image_scratch *image_get_scratch(struct image *image)
{
	struct image_scratch *scratch;

	pthread_mutex_lock(&image->lock);
	scratch = image->scratch;
	if (scratch) {
		image->scratch = scratch->next;
		image->scratches--;
	}
	pthread_mutex_unlock(&image->lock);
	if (scratch)
		return scratch;
	scratch = malloc(sizeof(*scratch) + AHEAD_BYTES);
	if (!scratch)
		return NULL;
	scratch->decoder = codec_decoder_new();
	if (!scratch->decoder) {
		free(scratch);
		return NULL;
	}
	return scratch;
}

static void scratch_free(struct image_scratch *scratch)
{
	codec_decoder_free(scratch->decoder);
	free(scratch);
}

void image_put_scratch(struct image *image, struct image_scratch *scratch)
{
	pthread_mutex_lock(&image->lock);
	if (image->scratches < SCRATCH_KEPT) {
		scratch->next = image->scratch;
		image->scratch = scratch;
		image->scratches++;
		scratch = NULL;
	}
	pthread_mutex_unlock(&image->lock);
	if (scratch)
		scratch_free(scratch);
}

void image_free_scratch(struct image *image)
{
	struct image_scratch *scratch, *next;

	pthread_mutex_lock(&image->lock);
	scratch = image->scratch;
	image->scratch = NULL;
	image->scratches = 0;
	pthread_mutex_unlock(&image->lock);
	for (; scratch; scratch = next) {
		next = scratch->next;
		scratch_free(scratch);
	}
}

bool image_sum_is_right(const struct leaf *leaf, const struct leaf_span *span, unsigned int page,
			const void *data)
{
	return sum_page(data) == leaf->sums[leaf_sum_index(span, page)];
}

int image_decode_piece(struct image *image, struct image_scratch *scratch,
		       const struct image_want *want, const uint8_t *bytes, void *out,
		       struct err *err)
{
	const struct leaf_piece *piece = want->piece;
	uint32_t pack = image_piece_pack(image, want->entry, piece);
	bool raw = piece->encoding == CODEC_RAW;
	char name[NAME_ROOM];
	struct err why;
	int r = 0;

	if (image->seal) {
		/* What is raw is as long as its pages. */
		uint8_t *opened = raw ? out : scratch->input;

		r = pack_open(image, pack, SEAL_FRAME, piece->offset, piece->bytes, bytes, opened,
			      &why);
		bytes = opened;
	}
	if (!r && !(raw && image->seal))
		r = codec_decode(scratch->decoder, piece->encoding, bytes, piece->bytes, out,
				 leaf_piece_bytes(piece), &why);
	count_add(&image->n_frames, 1);
	if (!r)
		return 0;
	image_pack_name(image, pack, name);
	if (r != -EBADMSG)
		return err_set(err, r, "image %s: %s", image_name(image), why.text);
	return image_damaged(image, name, piece->offset, want->first, why.text, err);
}

static int want_load(struct image *image, struct image_scratch *scratch,
		     const struct image_want *want, void *out, struct err *err)
{
	const struct leaf_piece *piece = want->piece;
	bool raw = piece->encoding == CODEC_RAW && !image->seal;
	int r;

	/* Raw pages need no stop on the way, unless they are sealed. */
	r = image_pack_read(image, image_piece_pack(image, want->entry, piece), piece->offset,
			    raw ? out : scratch->input, piece->bytes + image->root.tag_bytes,
			    STORE_URGENT, want->first, err);
	if (r)
		return r;
	if (!raw)
		return image_decode_piece(image, scratch, want, scratch->input, out, err);
	count_add(&image->n_frames, 1);
	return 0;
}

int image_load_piece(struct image *image, struct image_scratch *scratch,
		     const struct root_leaf *entry, const struct leaf_piece *piece, gfn_t first,
		     void *out, struct err *err)
{
	const struct image_want want = { .entry = entry, .piece = piece, .first = first };

	return want_load(image, scratch, &want, out, err);
}

/* ---- several frames at once ---- */

/* Frames of one pack, in the order of their places there. */
struct ahead {
	struct image_want wants[AHEAD_FRAMES];
	unsigned int n;
	uint32_t pack;
	uint64_t start, end;
};

/* Does it lie close behind what is to be read? Then it is read with that. */
static void ahead_take(struct ahead *ahead, const struct image *image,
		       const struct image_want *want)
{
	const struct leaf_piece *piece = want->piece;

	if (ahead->n == AHEAD_FRAMES ||
	    image_piece_pack(image, want->entry, piece) != ahead->pack ||
	    piece->offset < ahead->end || piece->offset - ahead->end > AHEAD_GAP ||
	    piece->offset + piece->bytes + image->root.tag_bytes - ahead->start > AHEAD_BYTES)
		return;
	ahead->end = piece->offset + piece->bytes + image->root.tag_bytes;
	ahead->wants[ahead->n++] = *want;
}

/* The frame that is wanted, and those of the pages that are wanted soon, of the same leaf. */
static void ahead_plan(struct ahead *ahead, const struct image *image,
		       const struct image_want *want)
{
	const struct leaf *leaf = want->leaf;
	uint64_t base = (uint64_t)leaf->number << LEAF_SHIFT, end = want->first.v + want->pages;
	uint32_t i, piece;

	ahead->pack = image_piece_pack(image, want->entry, want->piece);
	ahead->start = ahead->end = want->piece->offset;
	ahead->n = 0;
	ahead_take(ahead, image, want);
	for (i = 0; i < leaf->n_spans; i++) {
		const struct leaf_span *span = &leaf->spans[i];
		struct image_want next = *want;

		next.first = GFN(base + (uint64_t)span->span * leaf->span_pages);
		if (next.first.v <= want->first.v || next.first.v >= end)
			continue;
		next.span = span;
		for (piece = 0; piece < span->n_pieces; piece++) {
			next.piece = &leaf->pieces[span->first_piece + piece];
			ahead_take(ahead, image, &next);
		}
	}
}

/* How many pages a frame has, if these are the ones from `first` on and no others; else 0. */
static unsigned int want_pages(const struct image_want *want, gfn_t first)
{
	const struct leaf *leaf = want->leaf;
	uint64_t base = ((uint64_t)leaf->number << LEAF_SHIFT) +
			(uint64_t)want->span->span * leaf->span_pages;
	uint64_t frame = want->piece->frame;
	unsigned int n = (unsigned int)__builtin_popcountll(frame);

	if (first.v < base || first.v - base >= leaf->span_pages || want->piece->mask != frame)
		return 0;
	return frame == ~UINT64_C(0) >> (64 - n) << (first.v - base) ? n : 0;
}

/* The next pages of `soon` out of a frame of theirs. How many are right, or the first's error. */
static int64_t ahead_decode(struct image *image, struct image_scratch *scratch,
			    const struct image_want *want, gfn_t first, uint8_t *data,
			    struct err *err)
{
	unsigned int n = want_pages(want, first), i;
	unsigned int page = (unsigned int)(first.v % want->leaf->span_pages);
	char name[NAME_ROOM];
	int r = image_decode_piece(image, scratch, want, want->bytes, data, err);

	if (r)
		return r;
	for (i = 0; i < n; i++)
		if (!image_sum_is_right(want->leaf, want->span, page + i, data + i * PAGE_BYTES))
			break;
	count_add(&image->pages, i);
	if (i)
		return i;
	image_pack_name(image, image_piece_pack(image, want->entry, want->piece), name);
	return image_damaged(image, name, want->piece->offset, first,
			     "the page's checksum is wrong", err);
}

/* What was read, frame by frame: see image_read_ahead. */
static int64_t ahead_take_in(struct image *image, struct image_scratch *scratch,
			     struct ahead *ahead, const struct image_want *soon, uint8_t *data,
			     uint64_t room, struct err *err)
{
	uint64_t done = 0;
	bool in_a_row = true;
	unsigned int i, n;
	int64_t r;

	for (i = 0; i < ahead->n; i++) {
		struct image_want *want = &ahead->wants[i];
		gfn_t first = GFN(soon->first.v + done);

		want->bytes = scratch->input + (want->piece->offset - ahead->start);
		n = in_a_row ? want_pages(want, first) : 0;
		in_a_row = n && n <= room - done;
		if (!in_a_row) {
			cache_add(image->frame_cache, image_frame_key(ahead->pack, want->piece),
				  want);
			continue;
		}
		r = ahead_decode(image, scratch, want, first, data + done * PAGE_BYTES, err);
		if (r < 0)
			return done ? (int64_t)done : r;
		done += (uint64_t)r;
		in_a_row = r == n;
	}
	return (int64_t)done;
}

int64_t image_read_ahead(struct image *image, const struct image_want *want, unsigned int flags,
			 void *data, uint64_t room, struct err *err)
{
	struct image_scratch *scratch = image_get_scratch(image);
	struct ahead ahead;
	int64_t r;

	if (!scratch)
		return err_set(err, -ENOMEM, "image %s: no memory for a frame", image_name(image));
	ahead_plan(&ahead, image, want);
	r = image_pack_read(image, ahead.pack, ahead.start, scratch->input, ahead.end - ahead.start,
			    flags, want->first, err);
	if (!r)
		r = ahead_take_in(image, scratch, &ahead, want, data, room, err);
	image_put_scratch(image, scratch);
	return r;
}

static int frame_load(void *arg, unsigned int slot, uint64_t key, void *what, struct err *err)
{
	struct image *image = arg;
	const struct image_want *want = what;
	struct image_scratch *scratch = image_get_scratch(image);
	uint8_t *out = image->frames + slot * image->span_bytes;
	int r;

	(void)key;
	atomic_store(&image->handed_out[slot], 0);
	if (!scratch)
		return err_set(err, -ENOMEM, "image %s: no memory for a frame", image_name(image));
	if (want->bytes)
		r = image_decode_piece(image, scratch, want, want->bytes, out, err);
	else
		r = want_load(image, scratch, want, out, err);
	image_put_scratch(image, scratch);
	return r;
}

const struct cache_ops image_frame_ops = { .load = frame_load };
