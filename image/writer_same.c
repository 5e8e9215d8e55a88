// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Pages that are said to have changed and have not: KVM's dirty log tells of pages
 * that were only read, too. Those whose checksum is the parent's are compared with
 * the parent's byte by byte (a guest could make a page with any checksum), and
 * kept. What the parent cannot give is written anew.
 */
#include <string.h>

#include "image/internal.h"
#include "image/sum.h"
#include "image/writer_internal.h"

/* Is it, byte for byte, what the parent has there? */
static bool page_is_same(struct image *parent, gfn_t gfn, const uint8_t *data)
{
	uint8_t page[PAGE_BYTES];
	bool zero;

	return image_read(parent, gfn, 1, page, &zero, NULL) == 1 && !zero &&
	       !memcmp(page, data, PAGE_BYTES);
}

uint32_t writer_same(struct image_writer *writer, gfn_t first, uint32_t mask, const uint8_t *data)
{
	struct image *parent = writer->parent;
	const struct root_leaf *entry = root_find(&parent->root, first.v >> LEAF_SHIFT);
	const struct leaf_span *span;
	struct leaf *leaf;
	unsigned int slot;
	uint32_t same = 0;

	if (!entry || image_get_leaf(parent, entry, &leaf, &slot, NULL))
		return 0;
	span = leaf_find(leaf, (uint32_t)(first.v & (LEAF_PAGES - 1)) / leaf->span_pages);
	for (mask = span ? mask & (uint32_t)span->data : 0; mask; mask &= mask - 1) {
		unsigned int page = (unsigned int)__builtin_ctz(mask);
		const uint8_t *at = data + page * PAGE_BYTES;

		if (image_sum_is_right(leaf, span, page, at) &&
		    page_is_same(parent, GFN(first.v + page), at))
			same |= UINT32_C(1) << page;
	}
	image_put_leaf(parent, slot);
	return same;
}
