/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * An image's index (docs/image.md, The index). The root names a leaf for each
 * 64 MiB of the guest that are not all zeros, and the packs that leaves and
 * frames lie in; a leaf says for each page where it is and what its checksum
 * is. What is decoded here was checked: numbers are within their tables, pieces
 * within their packs, no page is there twice. Pure.
 */
#ifndef POSTERN_IMAGE_INDEX_H
#define POSTERN_IMAGE_INDEX_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "image/codec.h"
#include "image/manifest.h"
#include "image/sum.h"

#define LEAF_SHIFT 14			/* of a page's number */
#define LEAF_PAGES (1u << LEAF_SHIFT)
#define LEAF_SPANS_MAX (LEAF_PAGES / SPAN_PAGES_MIN)
#define SPAN_PAGES_MIN 16u
#define SPAN_PAGES_MAX 64u
#define PACK_BYTES_MAX (64u << 20)
#define GFN_LIMIT (UINT64_C(1) << 40)

#define ROOT_PACKS_MAX (1u << 20)
#define ROOT_LEAVES_MAX (1u << 20)
#define ROOT_REFS_MAX (1u << 23)
#define LEAF_REFS_MAX 65535u

struct root_pack {
	uint32_t image;		/* number in the manifest's images; 0: this one */
	uint32_t number;	/* of its packs */
	uint64_t bytes;
	uint8_t sum[SUM_BYTES];
};

struct root_leaf {
	uint32_t number;	/* its first page's, >> LEAF_SHIFT */
	uint32_t pack;		/* number in the root's packs */
	uint32_t offset, bytes;
	uint32_t first_ref;	/* the packs that the leaf names: refs of them from here on */
	uint32_t n_refs;
	uint32_t data_pages, absent_pages;	/* that it has */
	uint8_t sum[SUM_BYTES];
};

/* Of whoever decodes: root_fini. */
struct root {
	struct image_id id;
	unsigned int span_pages;
	struct root_pack *packs;
	struct root_leaf *leaves;	/* ascending */
	uint32_t *refs;			/* numbers in packs */
	uint32_t n_packs, n_leaves, n_refs;
	/* that stand behind each leaf and frame beyond their bytes: what is sealed has a tag */
	unsigned int tag_bytes;
};

/* n_images: of the manifest. where: names the object in texts. -EBADMSG, -EPROTO, -ENOMEM. */
int root_decode(struct root *root, const void *data, size_t len, unsigned int n_images,
		const char *where, struct err *err);
/* They have tags: is there room for those in the packs? -EBADMSG. */
int root_take_tags(struct root *root, unsigned int tag_bytes, const char *where, struct err *err);
int root_encode(const struct root *root, struct buf *out);
void root_fini(struct root *root);
/* NULL: that part of the guest is all zeros. */
const struct root_leaf *root_find(const struct root *root, uint64_t leaf);

struct leaf_piece {
	uint64_t frame;		/* the span's pages that are in it, in order; never 0 */
	uint64_t mask;		/* of these, the image's; never 0. Others are out of date */
	uint32_t ref;		/* number in the leaf's refs */
	uint32_t offset, bytes;	/* in that pack */
	enum codec_encoding encoding;
};

struct leaf_span {
	uint32_t span;		/* within the leaf */
	uint32_t first_piece, n_pieces;
	uint32_t first_sum;	/* of its data pages, in order */
	uint64_t data;		/* all pieces' masks */
	uint64_t absent;
};

struct leaf {
	uint32_t number;
	unsigned int span_pages;
	struct leaf_span *spans;	/* ascending; those that are not all zeros */
	struct leaf_piece *pieces;
	uint64_t *sums;
	uint32_t n_spans, n_pieces, n_sums;
};

/*
 * A leaf that is the root's `entry`. *leaf is one allocation: free(*leaf).
 * -EBADMSG, -ENOMEM; the text names nothing.
 */
int leaf_decode(struct leaf **leaf, const void *data, size_t len, const struct root *root,
		const struct root_leaf *entry, struct err *err);
int leaf_encode(const struct leaf *leaf, struct buf *out);
/* One with room for so many, n_spans and so on set to that; to be freed. NULL: no memory. */
struct leaf *leaf_new(uint32_t spans, uint32_t pieces, uint32_t sums);
/* The most bytes that one has, for spans of so many pages. */
size_t leaf_bytes_max(unsigned int span_pages);
/* Where in the frame's data a page of the span is. */
static inline size_t leaf_piece_offset(const struct leaf_piece *piece, unsigned int page)
{
	uint64_t before = piece->frame & ((UINT64_C(1) << page) - 1);

	return PAGE_BYTES * (size_t)__builtin_popcountll(before);
}
static inline size_t leaf_piece_bytes(const struct leaf_piece *piece)
{
	return PAGE_BYTES * (size_t)__builtin_popcountll(piece->frame);
}
/* A page's number among the sums of its leaf. */
static inline uint32_t leaf_sum_index(const struct leaf_span *span, unsigned int page)
{
	uint64_t before = span->data & ((UINT64_C(1) << page) - 1);

	return span->first_sum + (uint32_t)__builtin_popcountll(before);
}
/* NULL: the span is all zeros. */
const struct leaf_span *leaf_find(const struct leaf *leaf, uint32_t span);

#endif
