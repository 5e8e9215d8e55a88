/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A set of numbers from 0 to n - 1, of which most are never in it: a bit each,
 * and above every 64 words a word that says which of them have one. So the
 * first member is found in a few steps however large the set may become, and an
 * empty set costs no memory (base/zeroed.h).
 *
 * The caller locks.
 */
#ifndef POSTERN_BASE_BIT_TREE_H
#define POSTERN_BASE_BIT_TREE_H

#include <stdbool.h>
#include <stdint.h>

#define BIT_TREE_LEVELS 6
#define BIT_TREE_NONE UINT64_MAX

struct bit_tree {
	uint64_t n;
	uint64_t count;			/* members */
	unsigned int levels;
	uint64_t *level[BIT_TREE_LEVELS];	/* 0: a bit a number; the last: one word; in one piece */
};

/* Empty; for 1 to 2^36 numbers. -EINVAL, -ENOMEM: then it may be given to bit_tree_fini. */
int bit_tree_init(struct bit_tree *tree, uint64_t n);
/* Also of one that is all zeros. */
void bit_tree_fini(struct bit_tree *tree);

static inline bool bit_tree_has(const struct bit_tree *tree, uint64_t i)
{
	return tree->level[0][i / 64] >> (i % 64) & 1;
}

/* True: this call made the change. */
bool bit_tree_add(struct bit_tree *tree, uint64_t i);
bool bit_tree_remove(struct bit_tree *tree, uint64_t i);
/* The least member, or BIT_TREE_NONE. */
uint64_t bit_tree_first(const struct bit_tree *tree);
/* Empty again, at the cost of what it has had. */
void bit_tree_clear(struct bit_tree *tree);

#endif
