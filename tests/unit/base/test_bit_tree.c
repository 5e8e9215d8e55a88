// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>

#include "../resident.h"
#include "../tsan.h"
#include "base/bit_tree.h"
#include "base/zeroed.h"

#define TIB_PAGES (UINT64_C(1) << 28)

static void test_members_come_in_their_order(void **state)
{
	static const uint64_t sizes[] = { 1, 2, 63, 64, 65, 4096, 4097, 300000, TIB_PAGES };
	struct bit_tree tree;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		uint64_t last = sizes[i] - 1;

		assert_int_equal(bit_tree_init(&tree, sizes[i]), 0);
		assert_int_equal(bit_tree_first(&tree), BIT_TREE_NONE);
		assert_true(bit_tree_add(&tree, last));
		assert_false(bit_tree_add(&tree, last));
		assert_int_equal(bit_tree_first(&tree), last);
		assert_int_equal(bit_tree_add(&tree, last / 2), last > 0);
		assert_int_equal(tree.count, last ? 2 : 1);
		assert_int_equal(bit_tree_first(&tree), last / 2);
		assert_true(bit_tree_remove(&tree, last / 2));
		assert_false(bit_tree_remove(&tree, last / 2));
		assert_int_equal(bit_tree_first(&tree), last ? last : BIT_TREE_NONE);
		bit_tree_clear(&tree);
		assert_false(bit_tree_has(&tree, last));
		assert_int_equal(bit_tree_first(&tree), BIT_TREE_NONE);
		bit_tree_fini(&tree);
	}
}

/* Against an array of which every element is looked at. */
static void test_any_order_of_changes(void **state)
{
	enum { N = 70000, CHANGES = 20000 };
	static bool is[N];
	struct bit_tree tree;
	uint64_t i, k, first, count = 0;

	(void)state;
	srandom(1);
	assert_int_equal(bit_tree_init(&tree, N), 0);
	for (i = 0; i < CHANGES; i++) {
		k = (uint64_t)random() % N;
		if (random() % 3) {
			assert_int_equal(bit_tree_remove(&tree, k), is[k]);
			count -= is[k];
			is[k] = false;
		} else {
			assert_int_equal(bit_tree_add(&tree, k), !is[k]);
			count += !is[k];
			is[k] = true;
		}
		if (i % 64)
			continue;
		for (first = 0; first < N && !is[first]; first++)
			;
		assert_int_equal(bit_tree_first(&tree), first < N ? first : BIT_TREE_NONE);
		assert_int_equal(tree.count, count);
	}
	while ((first = bit_tree_first(&tree)) != BIT_TREE_NONE) {
		assert_true(is[first]);
		bit_tree_remove(&tree, first);
		count--;
	}
	assert_int_equal(count, 0);
	bit_tree_fini(&tree);
}

static void test_too_many_are_refused(void **state)
{
	struct bit_tree tree;

	(void)state;
	assert_int_equal(bit_tree_init(&tree, 0), -EINVAL);
	bit_tree_fini(&tree);
	assert_int_equal(bit_tree_init(&tree, (UINT64_C(1) << 36) + 1), -EINVAL);
	bit_tree_fini(&tree);
}

static void test_a_large_set_costs_what_is_in_it(void **state)
{
	int64_t before = resident_bytes();
	struct bit_tree tree;
	uint64_t i;

	(void)state;
	assert_int_equal(bit_tree_init(&tree, TIB_PAGES), 0);
	for (i = 0; i < 10; i++)
		bit_tree_add(&tree, i * (TIB_PAGES / 10));
	expect_resident(resident_bytes() - before < 1 << 20);
	for (i = 0; i < TIB_PAGES; i += 64)
		bit_tree_add(&tree, i);
	assert_true(resident_bytes() - before > 32 << 20);
	bit_tree_clear(&tree);
	expect_resident(resident_line("VmRSS:") - before < 1 << 20);
	assert_int_equal(bit_tree_first(&tree), BIT_TREE_NONE);
	bit_tree_fini(&tree);
}

static void test_an_array_is_zeros_again(void **state)
{
	size_t bytes = (size_t)1 << 38;
	uint8_t *array = zeroed_new(bytes);

	(void)state;
	assert_non_null(array);
	array[0] = array[bytes - 1] = 1;
	zeroed_clear(array, bytes);
	assert_int_equal(array[0] | array[bytes - 1], 0);
	zeroed_free(array, bytes);
	zeroed_free(NULL, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_members_come_in_their_order),
		cmocka_unit_test(test_any_order_of_changes),
		cmocka_unit_test(test_too_many_are_refused),
		cmocka_unit_test(test_a_large_set_costs_what_is_in_it),
		cmocka_unit_test(test_an_array_is_zeros_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
