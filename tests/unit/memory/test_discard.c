// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "fixture.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

static uint8_t *host_of(struct memory *mem)
{
	unsigned int n;

	return memory_regions(mem, &n)[0].host;
}

/* Does the kernel hold memory for this page? */
static bool resident(struct memory *mem, uint64_t gfn)
{
	unsigned char in = 0;

	assert_int_equal(mincore(host_of(mem) + gfn * PAGE_BYTES, PAGE_BYTES, &in), 0);
	return in & 1;
}

static void assert_page(struct memory *mem, uint64_t gfn, bool zero)
{
	uint8_t page[PAGE_BYTES], want[PAGE_BYTES] = { 0 };

	if (!zero)
		page_pattern(want, GFN(gfn));
	assert_int_equal(gup_read(mem, gfn_to_gpa(GFN(gfn)), page, sizeof(page), GUP_NOWAIT, NULL),
			 0);
	assert_memory_equal(page, want, sizeof(page));
}

static void fill_patterns(struct memory *mem, uint64_t pages)
{
	uint64_t i;

	for (i = 0; i < pages; i++)
		page_pattern(host_of(mem) + i * PAGE_BYTES, GFN(i));
}

static void test_given_up_pages_read_as_zeros_and_no_other(void **unused)
{
	struct memory *mem = memory_for_test(6, 0, false, NULL);
	struct memory_stats stats;
	uint64_t i;

	(void)unused;
	fill_patterns(mem, 1536);
	/* Within huge pages, over their boundary, a whole one. */
	assert_int_equal(memory_discard(mem, GFN(3), 1), 1);
	assert_int_equal(memory_discard(mem, GFN(500), 24), 24);
	assert_int_equal(memory_discard(mem, GFN(1024), 512), 512);
	assert_false(resident(mem, 3));
	assert_false(resident(mem, 1024));
	assert_false(resident(mem, 1535));
	for (i = 0; i < 1536; i++)
		assert_page(mem, i, i == 3 || (i >= 500 && i < 524) || i >= 1024);
	memory_stats(mem, &stats);
	assert_int_equal(stats.discarded, 537);
	assert_int_equal(stats.missing, 0);
	/* They are there for who writes. */
	page_pattern(host_of(mem) + 3 * PAGE_BYTES, GFN(3));
	assert_page(mem, 3, false);
	assert_int_equal(memory_page_state(mem, GFN(1024)), PAGE_PRESENT);
	memory_free(mem);
}

static void test_what_is_no_ram_is_refused(void **unused)
{
	struct memory *mem = memory_for_test(2, 2, false, NULL);

	(void)unused;
	assert_int_equal(memory_discard(mem, GFN(512), 1), -EFAULT);
	assert_int_equal(memory_discard(mem, GFN(511), 2), -EFAULT);
	assert_int_equal(memory_discard(mem, GFN(0), 0), -EFAULT);
	assert_int_equal(memory_discard(mem, GFN(0), UINT64_MAX), -EFAULT);
	assert_int_equal(memory_discard(mem, GFN(UINT64_MAX), 2), -EFAULT);
	memory_free(mem);
}

static void test_pages_that_somebody_holds_are_left_alone(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, false, NULL);
	struct gup_span span, other;

	(void)unused;
	fill_patterns(mem, 512);
	assert_int_equal(gup(mem, gfn_to_gpa(GFN(10)), 2 * PAGE_BYTES, GUP_NOWAIT, NULL, &span), 0);
	assert_int_equal(gup(mem, gfn_to_gpa(GFN(11)), 1, GUP_NOWAIT, NULL, &other), 0);
	assert_int_equal(memory_discard(mem, GFN(0), 512), 510);
	assert_page(mem, 9, true);
	assert_page(mem, 10, false);
	assert_page(mem, 11, false);
	assert_page(mem, 12, true);
	gup_put(mem, &span);
	assert_int_equal(memory_discard(mem, GFN(10), 2), 1);
	gup_put(mem, &other);
	assert_int_equal(memory_discard(mem, GFN(10), 2), 2);
	assert_page(mem, 11, true);
	memory_free(mem);
}

static void test_late_memory_is_not_given_up(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	uint8_t page[PAGE_BYTES];
	struct counting_source source;
	struct memory_stats stats;
	uint64_t i;

	(void)unused;
	counting_source_init(&source);
	memory_attach(mem, &source.source);
	page_pattern(page, GFN(1));
	assert_int_equal(memory_fill(mem, GFN(1), 1, page), 1);
	/* One that is there, one that is asked for, one that is not. */
	assert_int_equal(gup_read(mem, gfn_to_gpa(GFN(2)), page, 1, GUP_NOWAIT, NULL), -EAGAIN);
	assert_int_equal(memory_discard(mem, GFN(1), 3), 0);
	assert_page(mem, 1, false);
	assert_int_equal(memory_page_state(mem, GFN(2)), PAGE_REQUESTED);
	assert_int_equal(memory_page_state(mem, GFN(3)), PAGE_MISSING);
	for (i = 0; i < 512; i++) {
		page_pattern(page, GFN(i));
		assert_int_equal(memory_fill(mem, GFN(i), 1, page), i != 1);
	}
	assert_false(memory_is_late(mem));
	memory_detach(mem);
	/* All has come: now it may be, and whoever looks does not wait for a source. */
	assert_int_equal(memory_discard(mem, GFN(0), 512), 512);
	assert_page(mem, 0, true);
	assert_page(mem, 511, true);
	memory_stats(mem, &stats);
	assert_int_equal(stats.missing, 0);
	assert_int_equal(stats.requested, 0);
	/* A page that comes once more changes nothing. */
	assert_int_equal(memory_fill(mem, GFN(7), 1, page), 0);
	assert_page(mem, 7, true);
	memory_free(mem);
}

/* Takes and puts pages all the time. */
static void *taker(void *arg)
{
	struct memory *mem = arg;
	struct gup_span span;
	unsigned int i;

	for (i = 0; i < 20000; i++) {
		assert_int_equal(gup(mem, gfn_to_gpa(GFN(i % 64)), 8, GUP_WRITE, NULL, &span), 0);
		/* What was written while it was held is there until it is put. */
		*(volatile uint64_t *)(void *)span.hva = i + 1;
		assert_int_equal(*(volatile uint64_t *)(void *)span.hva, i + 1);
		gup_put(mem, &span);
	}
	return NULL;
}

static void test_who_takes_pages_meanwhile_is_woken(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, false, NULL);
	pthread_t thread;
	unsigned int i;

	(void)unused;
	assert_int_equal(pthread_create(&thread, NULL, taker, mem), 0);
	for (i = 0; i < 2000; i++)
		assert_true(memory_discard(mem, GFN(0), 64) >= 0);
	pthread_join(thread, NULL);
	assert_int_equal(memory_discard(mem, GFN(0), 512), 512);
	memory_free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_given_up_pages_read_as_zeros_and_no_other),
		cmocka_unit_test(test_what_is_no_ram_is_refused),
		cmocka_unit_test(test_pages_that_somebody_holds_are_left_alone),
		cmocka_unit_test(test_late_memory_is_not_given_up),
		cmocka_unit_test(test_who_takes_pages_meanwhile_is_woken),
	};

	return cmocka_run_group_tests_name("discard", tests, NULL, NULL);
}
