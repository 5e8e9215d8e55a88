// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/* snapshot/restore_early.c: which spans the early pages are in, and that pages are placed. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "snapshot/restore_early.h"

#define SPAN 16u

/* A state with these early pages. */
static void state_make(struct image_state *state, struct buf *bytes, const uint64_t *gfns, size_t n)
{
	uint8_t page[PAGE_BYTES];
	struct err err;
	size_t i;

	assert_int_equal(image_state_begin(bytes, "m", 1, &err), 0);
	for (i = 0; i < n; i++) {
		memset(page, (int)i + 1, sizeof(page));
		assert_int_equal(image_state_add_page(bytes, GFN(gfns[i]), page, &err), 0);
	}
	assert_int_equal(image_state_decode(state, bytes->data, bytes->len, "test", &err), 0);
}

static void test_spans_of_early_pages_are_named_once(void **unused)
{
	static const uint64_t gfns[] = { 0, 1, 15, 0x102, 0x105, 0x10f, 0x110, 0x21c, 0x100000 };
	static const uint64_t firsts[] = { 0, 0x100, 0x110, 0x210, 0x100000 };
	struct early_spans spans;
	struct image_state state;
	struct buf bytes = { 0 };
	unsigned int i;

	(void)unused;
	state_make(&state, &bytes, gfns, sizeof(gfns) / sizeof(gfns[0]));
	early_spans_of(&spans, &state, SPAN);
	assert_int_equal(spans.n, sizeof(firsts) / sizeof(firsts[0]));
	assert_false(spans.more);
	for (i = 0; i < spans.n; i++)
		assert_int_equal(spans.first[i].v, firsts[i]);
	buf_fini(&bytes);
}

static void test_no_more_spans_than_there_is_room_for(void **unused)
{
	uint64_t gfns[EARLY_SPANS_MAX + 1];
	struct early_spans spans;
	struct image_state state;
	struct buf bytes = { 0 };
	unsigned int i;

	(void)unused;
	for (i = 0; i <= EARLY_SPANS_MAX; i++)
		gfns[i] = (uint64_t)i * 2 * SPAN + 3;
	state_make(&state, &bytes, gfns, EARLY_SPANS_MAX);
	early_spans_of(&spans, &state, SPAN);
	assert_int_equal(spans.n, EARLY_SPANS_MAX);
	assert_false(spans.more);
	buf_fini(&bytes);
	state_make(&state, &bytes, gfns, EARLY_SPANS_MAX + 1);
	early_spans_of(&spans, &state, SPAN);
	assert_int_equal(spans.n, EARLY_SPANS_MAX);
	assert_true(spans.more);
	buf_fini(&bytes);
}

static void test_a_page_beyond_memory_is_named(void **unused)
{
	static const uint64_t gfns[] = { 0, 0x10000 };
	const struct memory_range range = { GPA(0), HUGE_BYTES };
	struct image_state state;
	struct buf bytes = { 0 };
	struct memory *mem;
	struct err err;

	(void)unused;
	assert_int_equal(memory_new_missing(&mem, &range, 1, &err), 0);
	state_make(&state, &bytes, gfns, 1);
	assert_int_equal(early_place(mem, &state, &err), 0);
	buf_fini(&bytes);
	state_make(&state, &bytes, gfns, 2);
	assert_int_equal(early_place(mem, &state, &err), -EFAULT);
	assert_non_null(strstr(err.text, "page 0x10000000 of the image's state"));
	buf_fini(&bytes);
	memory_free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_spans_of_early_pages_are_named_once),
		cmocka_unit_test(test_no_more_spans_than_there_is_room_for),
		cmocka_unit_test(test_a_page_beyond_memory_is_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
