// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// A store's bytes: a leaf of an image's index, behind the three numbers that the root has of it.
// What decodes must encode
// to the same, and every page's piece, offset and sum be within what was read.
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/types.h"
#include "image/index.h"

static void check_span(const struct leaf *leaf, const struct leaf_span *span)
{
	uint64_t mask;
	uint32_t i;

	if (leaf_find(leaf, span->span) != span || span->absent & span->data)
		__builtin_trap();
	for (i = 0; i < span->n_pieces; i++) {
		const struct leaf_piece *piece = &leaf->pieces[span->first_piece + i];

		for (mask = piece->mask; mask; mask &= mask - 1) {
			unsigned int page = (unsigned int)__builtin_ctzll(mask);

			if (leaf_piece_offset(piece, page) >= leaf_piece_bytes(piece) ||
			    leaf_piece_bytes(piece) > leaf->span_pages * PAGE_BYTES ||
			    leaf_sum_index(span, page) >= leaf->n_sums)
				__builtin_trap();
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct root_pack packs[] = { { .bytes = 1 << 20 }, { .bytes = PACK_BYTES_MAX } };
	static uint32_t refs[] = { 1, 0, 1 };
	struct root root = { .packs = packs, .n_packs = 2, .refs = refs, .n_refs = 3 };
	struct root_leaf entry = { .n_refs = 3 };
	struct buf out = { 0 };
	struct leaf *leaf;
	struct err err;
	uint32_t i;

	if (size < 9)
		return 0;
	root.span_pages = 16u << data[0] % 3;
	entry.number = 7;
	entry.data_pages = get32(data + 1);
	entry.absent_pages = get32(data + 5);
	data += 9;
	size -= 9;
	if (leaf_decode(&leaf, data, size, &root, &entry, &err))
		return 0;
	for (i = 0; i < leaf->n_spans; i++)
		check_span(leaf, &leaf->spans[i]);
	if (leaf_encode(leaf, &out) || out.len != size || memcmp(out.data, data, size))
		__builtin_trap();
	buf_fini(&out);
	free(leaf);
	return 0;
}
