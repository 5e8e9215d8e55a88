// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>

#include "source/layer.h"
#include "source/page_table.h"

#define KEYS 200

/* Against a plain array, at every load up to full, with keys that collide. */
static void test_it_is_a_set(void **state)
{
	struct page_table table;
	bool in[KEYS] = { false };
	size_t count = 0, i, step;

	(void)state;
	assert_int_equal(page_table_init(&table, 64, NULL), 0);
	for (step = 0; step < 20000; step++) {
		size_t key = random_at(7, step) % KEYS;
		/* Keys far apart as well as neighbours. */
		gfn_t gfn = GFN(key < KEYS / 2 ? key : key << 40);
		struct page_note *note = page_table_find(&table, gfn);

		assert_int_equal(note != NULL, in[key]);
		if (note) {
			assert_int_equal(note->due_ns, key);
			assert_true(page_table_take(&table, gfn));
			in[key] = false;
			count--;
		} else {
			note = page_table_add(&table, gfn);
			assert_int_equal(note != NULL, count < 64);
			if (note) {
				note->due_ns = (int64_t)key;
				in[key] = true;
				count++;
			}
		}
		assert_int_equal(table.count, count);
		if (step % 100)
			continue;
		for (i = 0; i < KEYS; i++)
			assert_int_equal(page_table_find(&table, GFN(i < KEYS / 2 ? i : i << 40)) !=
						 NULL,
					 in[i]);
	}
	page_table_fini(&table);
}

static void test_sizes_are_checked(void **state)
{
	struct page_table table;
	struct err err;

	(void)state;
	assert_int_equal(page_table_init(&table, 0, &err), -EINVAL);
	assert_int_equal(page_table_init(&table, (size_t)PAGE_TABLE_MAX + 1, &err), -EINVAL);
	assert_int_equal(page_table_init(&table, 1, &err), 0);
	assert_non_null(page_table_add(&table, GFN(5)));
	assert_null(page_table_add(&table, GFN(6)));
	assert_false(page_table_take(&table, GFN(6)));
	page_table_fini(&table);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_it_is_a_set),
		cmocka_unit_test(test_sizes_are_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
