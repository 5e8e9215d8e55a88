/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A leaf of the index while an image is being written: what is known of its
 * pages so far. Pure; one thread at a time.
 */
#ifndef POSTERN_IMAGE_LEAF_BUILDER_H
#define POSTERN_IMAGE_LEAF_BUILDER_H

#include <stdbool.h>
#include <stdint.h>

#include "image/index.h"
#include "image/writer.h"

#define BUILDER_SPAN_MASK ((uint32_t)((UINT64_C(1) << IMAGE_SPAN_PAGES) - 1))
#define BUILDER_SPANS (LEAF_PAGES / IMAGE_SPAN_PAGES)

/* A frame that was brought: its pages' sums stand in the builder's from first_sum on. */
struct builder_piece {
	uint32_t span;		/* of the leaf */
	uint32_t pack;		/* of the writer's own */
	uint32_t first_sum;
	struct leaf_piece piece;	/* ref is not set */
};

struct leaf_builder {
	uint32_t number;
	uint32_t unnamed;	/* pages of memory ranges that nobody has named yet */
	uint32_t busy;		/* calls that will add to it before it is sealed */
	uint32_t n_kept, n_ram;
	/* Bits of pages, a word a span. */
	uint32_t ram[BUILDER_SPANS];	/* of memory ranges */
	uint32_t named[BUILDER_SPANS];
	uint32_t absent[BUILDER_SPANS];
	uint32_t kept[BUILDER_SPANS];
	struct builder_piece *pieces;
	uint32_t n_pieces, pieces_room;
	uint64_t *sums;
	uint32_t n_sums, sums_room;
};

enum builder_kind { BUILDER_DATA, BUILDER_ZERO, BUILDER_KEPT, BUILDER_ABSENT };

/* NULL: no memory. free takes NULL. */
struct leaf_builder *leaf_builder_new(uint32_t number, const struct memory_range *ranges,
				      unsigned int n_ranges);
void leaf_builder_free(struct leaf_builder *builder);
/* Names pages of a span. False, and nothing has changed: one was named before, or is not RAM. */
bool leaf_builder_name(struct leaf_builder *builder, uint32_t span, uint32_t mask,
		       enum builder_kind kind);
/* Pages that were named as data are the parent's, as it turns out. */
void leaf_builder_keep(struct leaf_builder *builder, uint32_t span, uint32_t mask);
/* Names all that is not named yet. */
void leaf_builder_name_rest(struct leaf_builder *builder, enum builder_kind kind);
/*
 * A frame with some of the pages that were named as data; those that no frame
 * has are zero. sums: of the pages, in order. 0 or -ENOMEM.
 */
int leaf_builder_add(struct leaf_builder *builder, uint32_t span, const struct leaf_piece *piece,
		     uint32_t pack, const uint64_t *sums);

/*
 * Gives a pack a number among the leaf's refs. own: number of the writer's; else of the
 * parent's root.
 */
struct builder_refs {
	int (*ref)(void *arg, bool own, uint32_t pack, uint32_t *ref);
	void *arg;
};

/*
 * The leaf: all pages are named. parent: the same leaf of the parent, or NULL
 * where that is all zeros, and its root's entry. *leaf is to be freed; it has
 * no spans when all is zero. 0, -ENOMEM, or what refs->ref fails with.
 */
int leaf_builder_seal(struct leaf_builder *builder, const struct leaf *parent,
		      const struct root *root, const struct root_leaf *entry,
		      const struct builder_refs *refs, struct leaf **leaf, uint32_t *absent_pages);

#endif
