// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Roots and leaves of an index: what comes back, and that a root or leaf with a right sum and
 * wrong numbers is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "image/index.h"

/* Two packs, two leaves; the first leaf names both packs. */
static struct root_pack packs[] = {
	{ .image = 0, .number = 0, .bytes = 1000000 },
	{ .image = 1, .number = 7, .bytes = 50000 },
};
static struct root_leaf leaves[] = {
	{ .number = 3,
	  .pack = 0,
	  .offset = 900000,
	  .bytes = 200,
	  .n_refs = 2,
	  .data_pages = 5,
	  .absent_pages = 2 },
	{ .number = 900, .pack = 1, .bytes = 24, .first_ref = 2 },
};
static uint32_t refs[] = { 0, 1 };

static struct root good_root(void)
{
	return (struct root){ .span_pages = 16,
			      .packs = packs,
			      .leaves = leaves,
			      .refs = refs,
			      .n_packs = 2,
			      .n_leaves = 2,
			      .n_refs = 2 };
}

static void encode_root(struct buf *out)
{
	struct root root = good_root();

	assert_int_equal(root_encode(&root, out), 0);
}

static void test_root_comes_back(void **state)
{
	struct buf bytes = { 0 };
	struct root root;
	struct err err;

	(void)state;
	encode_root(&bytes);
	assert_int_equal(root_decode(&root, bytes.data, bytes.len, 2, "x", &err), 0);
	assert_memory_equal(root.packs, packs, sizeof(packs));
	assert_memory_equal(root.leaves, leaves, sizeof(leaves));
	assert_memory_equal(root.refs, refs, sizeof(refs));
	assert_ptr_equal(root_find(&root, 900), &root.leaves[1]);
	assert_ptr_equal(root_find(&root, 3), &root.leaves[0]);
	assert_null(root_find(&root, 4));
	assert_null(root_find(&root, 0));
	assert_null(root_find(&root, 901));
	root_fini(&root);
	buf_fini(&bytes);
}

struct change {
	size_t at;
	uint32_t value;
	int code;
};

static void test_root_with_wrong_numbers_is_refused(void **state)
{
	enum { PACK = 48, LEAF = 48 + 64, REF = 48 + 64 + 96 };
	static const struct change changes[] = {
		{ 0, 0, -EBADMSG },
		{ 8, 2, -EPROTO },
		{ 8, 0, -EPROTO },
		{ 12, 0, -EBADMSG },
		{ 12, 24, -EBADMSG },
		{ 32, 3, -EBADMSG },
		{ 32, UINT32_MAX, -EBADMSG },
		{ 36, 1, -EBADMSG },
		{ 36, UINT32_MAX, -EBADMSG },
		{ 40, UINT32_MAX, -EBADMSG },
		{ 44, 1, -EBADMSG },
		{ PACK, 2, -EBADMSG },
		{ PACK + 8, PACK_BYTES_MAX + 1, -EBADMSG },
		{ PACK + 12, 1, -EBADMSG },
		{ LEAF, 900, -EBADMSG },
		{ LEAF, 1u << 26, -EBADMSG },
		{ LEAF + 4, 2, -EBADMSG },
		{ LEAF + 8, 999999, -EBADMSG },
		{ LEAF + 8, UINT32_MAX, -EBADMSG },
		{ LEAF + 12, 100001, -EBADMSG },
		{ LEAF + 12, UINT32_MAX, -EBADMSG },
		{ LEAF + 16, 1, -EBADMSG },
		{ LEAF + 16, UINT32_MAX, -EBADMSG },
		{ LEAF + 20, 3, -EBADMSG },
		{ LEAF + 24, LEAF_PAGES + 1, -EBADMSG },
		{ LEAF + 28, LEAF_PAGES - 4, -EBADMSG },
		{ REF, 2, -EBADMSG },
	};
	struct buf bytes = { 0 };
	struct root root;
	struct err err;
	size_t i;

	(void)state;
	encode_root(&bytes);
	for (i = 0; i < sizeof(changes) / sizeof(*changes); i++) {
		uint32_t old = get32(bytes.data + changes[i].at);
		int r;

		put32(bytes.data + changes[i].at, changes[i].value);
		r = root_decode(&root, bytes.data, bytes.len, 2, "x/index", &err);
		if (r != changes[i].code || !strstr(err.text, "x/index"))
			fail_msg("change %zu: %d: %s", i, r, r ? err.text : "");
		put32(bytes.data + changes[i].at, old);
	}
	for (i = 0; i < bytes.len; i++)
		assert_int_equal(root_decode(&root, bytes.data, i, 2, "x", &err), -EBADMSG);
	/* An image that the manifest does not have. */
	assert_int_equal(root_decode(&root, bytes.data, bytes.len, 1, "x", &err), -EBADMSG);
	buf_fini(&bytes);
}

/* Spans 1 (a piece and an absent page) and 5 (two pieces, and an absent page). */
static struct leaf *good_leaf(void)
{
	struct leaf *leaf = leaf_new(2, 3, 5);

	leaf->number = 3;
	leaf->span_pages = 16;
	leaf->spans[0] = (struct leaf_span){ 1, 0, 1, 0, 0x6, 0x8000 };
	leaf->spans[1] = (struct leaf_span){ 5, 1, 2, 2, 0x301, 0x2 };
	leaf->pieces[0] = (struct leaf_piece){ 0xff, 0x6, 0, 100, 5000, CODEC_ZSTD };
	leaf->pieces[1] = (struct leaf_piece){ 0x1, 0x1, 1, 0, 4096, CODEC_RAW };
	leaf->pieces[2] = (struct leaf_piece){ 0x300, 0x300, 0, 7000, 8192, CODEC_RAW };
	memcpy(leaf->sums, (uint64_t[]){ 11, 12, 13, 14, 15 }, 40);
	return leaf;
}

static void test_leaf_comes_back(void **state)
{
	struct root root = good_root();
	struct leaf *leaf = good_leaf(), *again;
	struct buf bytes = { 0 };
	struct err err;

	(void)state;
	assert_int_equal(leaf_encode(leaf, &bytes), 0);
	assert_int_equal(leaf_decode(&again, bytes.data, bytes.len, &root, &leaves[0], &err), 0);
	assert_memory_equal(again->spans, leaf->spans, 2 * sizeof(*leaf->spans));
	assert_memory_equal(again->pieces, leaf->pieces, 3 * sizeof(*leaf->pieces));
	assert_memory_equal(again->sums, leaf->sums, 40);
	assert_ptr_equal(leaf_find(again, 5), &again->spans[1]);
	assert_null(leaf_find(again, 2));
	assert_null(leaf_find(again, 0));
	assert_null(leaf_find(again, 1023));
	assert_int_equal(leaf_sum_index(&again->spans[1], 9), 4);
	assert_int_equal(leaf_piece_offset(&again->pieces[0], 2), 2 * PAGE_BYTES);
	free(again);
	free(leaf);
	buf_fini(&bytes);
}

static void test_leaf_with_wrong_numbers_is_refused(void **state)
{
	enum { SPAN = 24, PIECE = 24 + 32 };
	static const struct change changes[] = {
		{ 0, 0, 0 },
		{ 4, 4, 0 },
		{ 8, 3, 0 },
		{ 12, 2, 0 },
		{ 16, 4, 0 },
		{ 20, 1, 0 },
		{ 8, UINT32_MAX, 0 },
		{ 12, UINT32_MAX, 0 },
		{ 16, UINT32_MAX, 0 },
		{ SPAN, 5 | 1 << 16, 0 },
		{ SPAN, 1024 | 1 << 16, 0 },
		{ SPAN, 1 | 9 << 16, 0 },
		{ SPAN, 1 | 2 << 16, 0 },
		{ SPAN + 4, 1, 0 },
		{ SPAN + 8, 0x2, 0 },
		{ SPAN + 8, 0x10000, 0 },
		{ SPAN + 8, 0, 0 },
		{ PIECE, 0x5, 0 },
		{ PIECE + 2, 1, 0 },
		{ PIECE + 8, 0, 0 },
		{ PIECE + 8, 0x100, 0 },
		{ PIECE + 16, 2 | 1 << 16, 0 },
		{ PIECE + 16, 2 << 16, 0 },
		{ PIECE + 16, 0, 0 },
		{ PIECE + 20, 999999, 0 },
		{ PIECE + 20, UINT32_MAX, 0 },
		{ PIECE + 24, 0, 0 },
		{ PIECE + 24, 8 * 4096, 0 },
		{ PIECE + 24, UINT32_MAX, 0 },
		{ PIECE + 28, 1, 0 },
		/* A raw one that is not as long as its pages, and a page in two pieces. */
		{ PIECE + 32 + 24, 4095, 0 },
		{ PIECE + 64, 0x301, 0 },
		{ PIECE + 64 + 8, 0x301, 0 },
	};
	struct root root = good_root();
	struct leaf *leaf = good_leaf(), *again;
	struct buf bytes = { 0 };
	struct err err;
	size_t i;

	(void)state;
	assert_int_equal(leaf_encode(leaf, &bytes), 0);
	for (i = 0; i < sizeof(changes) / sizeof(*changes); i++) {
		uint32_t old = get32(bytes.data + changes[i].at);
		int r;

		put32(bytes.data + changes[i].at, changes[i].value);
		r = leaf_decode(&again, bytes.data, bytes.len, &root, &leaves[0], &err);
		if (r != -EBADMSG)
			fail_msg("change %zu: %d", i, r);
		put32(bytes.data + changes[i].at, old);
	}
	for (i = 0; i < bytes.len; i++)
		assert_int_equal(leaf_decode(&again, bytes.data, i, &root, &leaves[0], &err),
				 -EBADMSG);
	/* Of another place in the root. */
	assert_int_equal(leaf_decode(&again, bytes.data, bytes.len, &root, &leaves[1], &err),
			 -EBADMSG);
	free(leaf);
	buf_fini(&bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_root_comes_back),
		cmocka_unit_test(test_root_with_wrong_numbers_is_refused),
		cmocka_unit_test(test_leaf_comes_back),
		cmocka_unit_test(test_leaf_with_wrong_numbers_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
