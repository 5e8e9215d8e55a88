// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "base/bit_tree.h"

#include <errno.h>
#include <stddef.h>

#include "base/zeroed.h"

static uint64_t words_for(uint64_t bits)
{
	return (bits + 63) / 64;
}

static size_t tree_bytes(const struct bit_tree *tree)
{
	uint64_t words = tree->n, all = 0;

	do {
		words = words_for(words);
		all += words;
	} while (words > 1);
	return all * sizeof(uint64_t);
}

int bit_tree_init(struct bit_tree *tree, uint64_t n)
{
	uint64_t words = n;
	uint64_t *at;

	*tree = (struct bit_tree){ .n = n };
	if (!n || n > UINT64_C(1) << 6 * BIT_TREE_LEVELS)
		return -EINVAL;
	at = zeroed_new(tree_bytes(tree));
	if (!at)
		return -ENOMEM;
	do {
		words = words_for(words);
		tree->level[tree->levels++] = at;
		at += words;
	} while (words > 1);
	return 0;
}

void bit_tree_fini(struct bit_tree *tree)
{
	if (tree->level[0])
		zeroed_free(tree->level[0], tree_bytes(tree));
	*tree = (struct bit_tree){ 0 };
}

bool bit_tree_add(struct bit_tree *tree, uint64_t i)
{
	unsigned int level;

	if (bit_tree_has(tree, i))
		return false;
	tree->count++;
	for (level = 0; level < tree->levels; level++, i /= 64) {
		uint64_t *word = &tree->level[level][i / 64], before = *word;

		*word |= UINT64_C(1) << (i % 64);
		/* Then it stands above already. */
		if (before)
			break;
	}
	return true;
}

bool bit_tree_remove(struct bit_tree *tree, uint64_t i)
{
	unsigned int level;

	if (!bit_tree_has(tree, i))
		return false;
	tree->count--;
	for (level = 0; level < tree->levels; level++, i /= 64) {
		uint64_t *word = &tree->level[level][i / 64];

		*word &= ~(UINT64_C(1) << (i % 64));
		if (*word)
			break;
	}
	return true;
}

uint64_t bit_tree_first(const struct bit_tree *tree)
{
	unsigned int level = tree->levels;
	uint64_t at = 0;

	if (!tree->count)
		return BIT_TREE_NONE;
	while (level--)
		at = 64 * at + (uint64_t)__builtin_ctzll(tree->level[level][at]);
	return at;
}

void bit_tree_clear(struct bit_tree *tree)
{
	tree->count = 0;
	zeroed_clear(tree->level[0], tree_bytes(tree));
}
