/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * An open image, for the files of image/ that read one.
 */
#ifndef POSTERN_IMAGE_INTERNAL_H
#define POSTERN_IMAGE_INTERNAL_H

#include <pthread.h>

#include "image/cache.h"
#include "image/codec.h"
#include "image/image.h"
#include "image/index.h"
#include "image/name.h"
#include "image/seal.h"

/* The most that is read of a pack at once: frames that lie next to each other. */
#define AHEAD_BYTES ((size_t)1 << 20)
/* What lies between two of them and is not wanted, at most. */
#define AHEAD_GAP ((size_t)64 << 10)
#define AHEAD_FRAMES 64u

/* What a load needs beside memory for what it loads; kept for the next one. */
struct image_scratch {
	struct image_scratch *next;
	struct codec_decoder *decoder;
	uint8_t input[];		/* AHEAD_BYTES */
};

struct image {
	struct store *store;
	struct store_scope *scope;
	struct manifest manifest;
	struct root root;
	struct seal *seal; /* NULL: it is not encrypted */
	size_t span_bytes;
	struct cache *leaf_cache;
	struct leaf **leaves;		/* of leaf_cache's slots */
	struct cache *frame_cache;
	uint8_t *frames;		/* of frame_cache's slots, span_bytes each */
	size_t frames_bytes;
	_Atomic uint64_t *handed_out;	/* of these, each one's pages: bits as in leaf_piece's mask */
	pthread_mutex_t lock;		/* guards the scratches */
	struct image_scratch *scratch;
	unsigned int scratches;
	_Atomic uint64_t pages, zero_pages, n_frames, frame_hits, n_leaves, bytes, damaged;
};

/*
 * Is the image of that name the one with this id? -ENOENT: there is none; -EEXIST: it is another;
 * image_open's errors.
 */
int image_manifest_id_check(struct store *store, struct store_scope *scope, const char *name,
			    const struct image_id *id, struct err *err);

/* Where pages are: a run of one kind, of one piece when they are data. */
struct image_run {
	enum image_page kind;
	gfn_t first;
	uint64_t pages;			/* at least 1 */
	struct leaf *leaf;		/* in use until image_put_leaf; NULL: a leaf of zeros */
	unsigned int leaf_slot;
	const struct root_leaf *entry;
	const struct leaf_span *span;	/* IMAGE_PAGE_DATA from here on */
	const struct leaf_piece *piece;
	unsigned int page;		/* of the span */
};

/* The object that a pack is. */
void image_pack_name(const struct image *image, uint32_t pack, char out[NAME_ROOM]);
/* A frame, in all of an image: frame n of a pack begins at an offset of its own. */
static inline uint64_t image_frame_key(uint32_t pack, const struct leaf_piece *piece)
{
	return (uint64_t)pack << 32 | piece->offset;
}
/* The pack of a piece, a number in the root's packs. */
static inline uint32_t image_piece_pack(const struct image *image, const struct root_leaf *entry,
					const struct leaf_piece *piece)
{
	return image->root.refs[entry->first_ref + piece->ref];
}

/* A leaf of the index, in use until image_put_leaf. 0, or image_read's errors. */
int image_get_leaf(struct image *image, const struct root_leaf *entry, struct leaf **leaf,
		   unsigned int *slot, struct err *err);
void image_put_leaf(struct image *image, unsigned int slot);

/* A frame, as the cache is asked for it. */
struct image_want {
	const struct leaf *leaf;
	const struct root_leaf *entry;
	const struct leaf_span *span;	/* of several frames at once: the piece's */
	const struct leaf_piece *piece;
	gfn_t first;		/* the page that it is wanted for */
	/* from there on that will be wanted soon: neighbours are read with it */
	uint64_t pages;
	const uint8_t *bytes;	/* the frame, where it was read with another; or NULL */
};

/* How the two caches load. What is loaded: a root_leaf; an image_want. */
extern const struct cache_ops image_leaf_ops, image_frame_ops;
/*
 * Reads a frame and those that will be wanted soon with one request: as far as their pages follow
 * each other from want->first on, and are right, to data, which has room for `room` pages; others
 * to the cache. How many are at data, perhaps none, or image_read's errors. flags: of enum
 * store_flag.
 */
int64_t image_read_ahead(struct image *image, const struct image_want *want, unsigned int flags,
			 void *data, uint64_t room, struct err *err);
/* NULL: no memory. */
struct image_scratch *image_get_scratch(struct image *image);
void image_put_scratch(struct image *image, struct image_scratch *scratch);
/* Those that nobody has. */
void image_free_scratch(struct image *image);

/* A part of a pack that is needed for the guest page `first`. flags: of enum store_flag. */
int image_pack_read(struct image *image, uint32_t pack, uint64_t offset, void *data, size_t len,
		    unsigned int flags, gfn_t first, struct err *err);
/*
 * Decodes a frame that was read to `bytes`, which may be the scratch's input. 0, or image_read's
 * errors.
 */
int image_decode_piece(struct image *image, struct image_scratch *scratch,
		       const struct image_want *want, const uint8_t *bytes, void *out,
		       struct err *err);
/*
 * Reads and decodes a piece's frame to out, leaf_piece_bytes of it; sums are not looked at. 0,
 * or image_read's errors.
 */
int image_load_piece(struct image *image, struct image_scratch *scratch,
		     const struct root_leaf *entry, const struct leaf_piece *piece, gfn_t first,
		     void *out, struct err *err);
/* Is this the page whose number in the span is `page`? */
bool image_sum_is_right(const struct leaf *leaf, const struct leaf_span *span, unsigned int page,
			const void *data);
/* -EBADMSG with image, object, offset, guest page, and `why`. */
int image_damaged(struct image *image, const char *object, uint64_t offset, gfn_t gfn,
		  const char *why, struct err *err);

#endif
