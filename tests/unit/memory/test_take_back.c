// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "fixture.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include "base/types.h"

static void assert_counts(struct memory *mem, uint64_t present)
{
	struct memory_stats stats;

	memory_stats(mem, &stats);
	assert_int_equal(stats.missing, stats.pages - present);
	assert_int_equal(stats.requested, 0);
	assert_int_equal(stats.filled, present);
}

static void test_what_came_is_missing_again_and_comes_anew(void **state)
{
	struct memory *mem = memory_for_test(6, 2, true, NULL);
	const uint64_t high = UINT64_C(1) << 20;
	uint8_t page[PAGE_BYTES], want[PAGE_BYTES];

	(void)state;
	/*
	 * Single ones, some over a huge page's boundary, a whole one, zeros,
	 * and of the other region.
	 */
	fill_pages(mem, 3, 1, 3);
	fill_pages(mem, 500, 24, 500);
	fill_pages(mem, 1024, 512, 1024);
	fill_pages(mem, high, 2, 9);
	assert_int_equal(memory_fill(mem, GFN(5), 1, NULL), 1);
	assert_counts(mem, 540);
	assert_int_equal(memory_take_back(mem), 0);
	assert_counts(mem, 0);
	assert_true(memory_is_late(mem));
	assert_int_equal(memory_page_state(mem, GFN(3)), PAGE_MISSING);
	assert_int_equal(read_page(mem, 3, page), -EAGAIN);
	assert_int_equal(read_page(mem, high + 1, page), -EAGAIN);
	/* Nothing of it is left: not what was there, but what comes. */
	fill_pages(mem, 3, 1, 700);
	page_pattern(want, GFN(700));
	assert_int_equal(read_page(mem, 3, page), 0);
	assert_memory_equal(page, want, PAGE_BYTES);
	fill_pages(mem, 0, 3, 0);
	fill_pages(mem, 4, 1532, 4);
	fill_pages(mem, high, 512, 0);
	assert_false(memory_is_late(mem));
	memory_free(mem);
}

static void test_a_page_that_somebody_holds_stays(void **state)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	struct gup_span span;
	uint8_t want[PAGE_BYTES];

	(void)state;
	fill_pages(mem, 8, 4, 8);
	memory_map_lock(mem);
	assert_int_equal(gup(mem, gfn_to_gpa(GFN(10)), PAGE_BYTES, GUP_NOWAIT, NULL, &span), 0);
	memory_map_unlock(mem);
	assert_int_equal(memory_take_back(mem), -EBUSY);
	page_pattern(want, GFN(10));
	assert_memory_equal(span.hva, want, PAGE_BYTES);
	assert_int_equal(memory_page_state(mem, GFN(10)), PAGE_PRESENT);
	gup_put(mem, &span);
	assert_int_equal(memory_take_back(mem), 0);
	assert_counts(mem, 0);
	memory_free(mem);
}

/* The host does not let it go: then it is as it was. */
static void test_locked_memory_stays(void **state)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	uint8_t page[PAGE_BYTES], want[PAGE_BYTES];
	unsigned int n;

	(void)state;
	fill_pages(mem, 8, 4, 8);
	if (mlock2(memory_regions(mem, &n)[0].host, 2 << 20, MLOCK_ONFAULT) < 0)
		skip();
	assert_true(memory_take_back(mem) < 0);
	assert_counts(mem, 4);
	page_pattern(want, GFN(9));
	assert_int_equal(read_page(mem, 9, page), 0);
	assert_memory_equal(page, want, PAGE_BYTES);
	memory_free(mem);
}

static void test_what_is_not_late_is_not_taken_back(void **state)
{
	struct memory *mem = memory_for_test(2, 0, false, NULL);

	(void)state;
	assert_int_equal(memory_take_back(mem), -EINVAL);
	memory_free(mem);
	mem = memory_for_test(2, 0, true, NULL);
	fill_pages(mem, 0, 512, 0);
	assert_int_equal(memory_take_back(mem), -EINVAL);
	memory_free(mem);
}

/*
 * Whoever waits for a page that is taken back, or is taken back while it looks,
 * gets what comes afterwards and nothing else.
 */
struct reader {
	struct memory *mem;
	_Atomic bool done;
	uint64_t wrong;
};

static void *read_on(void *arg)
{
	struct reader *reader = arg;
	uint8_t page[PAGE_BYTES], old[PAGE_BYTES], new[PAGE_BYTES];
	bool came = false;
	int r;

	page_pattern(old, GFN(1));
	page_pattern(new, GFN(2));
	while (!atomic_load(&reader->done)) {
		r = read_page(reader->mem, 40, page);
		if (r == -EAGAIN)
			continue;
		reader->wrong += r || (memcmp(page, new, PAGE_BYTES) &&
				       (came || memcmp(page, old, PAGE_BYTES)));
		came |= !memcmp(page, new, PAGE_BYTES);
	}
	return NULL;
}

static void test_who_looks_meanwhile_sees_whole_pages(void **state)
{
	struct reader reader = { .mem = memory_for_test(2, 0, true, NULL) };
	pthread_t thread;
	int round, r;

	(void)state;
	for (round = 0; round < 200; round++) {
		atomic_store(&reader.done, false);
		fill_pages(reader.mem, 40, 1, 1);
		assert_int_equal(pthread_create(&thread, NULL, read_on, &reader), 0);
		while ((r = memory_take_back(reader.mem)) == -EBUSY)
			;
		assert_int_equal(r, 0);
		fill_pages(reader.mem, 40, 1, 2);
		atomic_store(&reader.done, true);
		pthread_join(thread, NULL);
		while (memory_take_back(reader.mem) == -EBUSY)
			;
	}
	assert_int_equal(reader.wrong, 0);
	memory_free(reader.mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_came_is_missing_again_and_comes_anew),
		cmocka_unit_test(test_a_page_that_somebody_holds_stays),
		cmocka_unit_test(test_locked_memory_stays),
		cmocka_unit_test(test_what_is_not_late_is_not_taken_back),
		cmocka_unit_test(test_who_looks_meanwhile_sees_whole_pages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
