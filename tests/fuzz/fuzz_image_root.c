// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// A store's bytes: the root of an image's index. What decodes must encode to the same, and its
// numbers be within their tables.
#include <string.h>

#include "image/index.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct buf out = { 0 };
	struct root root;
	struct err err;
	uint32_t i, j;

	if (root_decode(&root, data, size, 3, "x", &err))
		return 0;
	for (i = 0; i < root.n_leaves; i++) {
		const struct root_leaf *leaf = &root.leaves[i];

		if (root_find(&root, leaf->number) != leaf || leaf->pack >= root.n_packs)
			__builtin_trap();
		for (j = 0; j < leaf->n_refs; j++)
			if (root.refs[leaf->first_ref + j] >= root.n_packs)
				__builtin_trap();
	}
	if (root_encode(&root, &out) || out.len != size || memcmp(out.data, data, size))
		__builtin_trap();
	buf_fini(&out);
	root_fini(&root);
	return 0;
}
