// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * How little a source needs. This one computes its pages, in 30 lines; answers to requests,
 * background fill, huge pages, verification and recovery come from the shared parts.
 * docs/sources.md tells how a source is written.
 */
#include "ends.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "memory/gup.h"
#include "memory/internal.h"
#include "source/verify.h"
#include "source/worker.h"

#define HUGES 4u
#define PAGES (HUGES * HUGE_PAGES)

/* ---- the source ---- */

static void toy_page(uint8_t *page, uint64_t gfn)
{
	uint64_t i, word;

	for (i = 0; i < PAGE_BYTES / 8; i++) {
		word = (gfn + 1) * UINT64_C(0x9e3779b97f4a7c15) + i;
		memcpy(page + i * 8, &word, 8);
	}
}

static int64_t toy_read(void *arg, gfn_t first, uint64_t n, void *data, bool *zero)
{
	uint64_t i;

	(void)arg;
	(void)zero;
	for (i = 0; i < n; i++)
		toy_page((uint8_t *)data + i * PAGE_BYTES, first.v + i);
	return (int64_t)n;
}

static struct worker *toy_new(struct memory *mem)
{
	const struct worker_config config = {
		.read = toy_read, .urgent_threads = 1, .urgent_pages = 1,
		.bulk_threads = 1, .bulk_pages = 64,
	};
	struct worker *toy;

	assert_int_equal(worker_new(&toy, &config, mem, NULL), 0);
	return toy;
}

/* ---- guests ---- */

static struct memory *late_memory(void)
{
	struct memory *mem = ends_late_memory(HUGES * HUGE_BYTES);

	memory_set_way_out(mem, WAY_OUT_KERNEL);
	return mem;
}

static bool page_is_right(struct memory *mem, uint64_t gfn, unsigned int flags)
{
	uint8_t is[PAGE_BYTES], should[PAGE_BYTES];

	toy_page(should, gfn);
	return !gup_read(mem, gfn_to_gpa(GFN(gfn)), is, sizeof(is), flags, NULL) &&
	       !memcmp(is, should, sizeof(is));
}

static unsigned int count_huge(const struct memory *mem)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	unsigned int i, n = 0;

	for (i = 0; i < HUGES; i++)
		n += memory_is_huge(pagemap, mem->region[0].host + i * HUGE_BYTES);
	close(pagemap);
	return n;
}

/* All is there, right, and on huge pages where this kernel can. */
static void check_all(struct memory *mem)
{
	uint64_t i;

	wait_until(!memory_is_late(mem));
	for (i = 0; i < PAGES; i++)
		assert_true(page_is_right(mem, i, GUP_NOWAIT));
	if (memory_can_promote(mem))
		wait_until(count_huge(mem) == HUGES);
}

static void test_a_background_fill_brings_huge_pages(void **state)
{
	struct memory *mem = late_memory();
	struct worker *toy = toy_new(mem);
	struct memory_stats stats;

	(void)state;
	assert_int_equal(worker_start(toy, NULL), 0);
	memory_attach(mem, worker_source(toy));
	check_all(mem);
	memory_stats(mem, &stats);
	assert_int_equal(stats.filled, PAGES);
	assert_int_equal(stats.duplicates, 0);
	memory_detach(mem);
	worker_free(toy);
	memory_free(mem);
}

/* ---- verified ---- */

/* Page 77 is not what the toy makes, the first time, and page 1500 three times. */
static bool toy_sum(void *arg, gfn_t gfn, uint64_t *sum)
{
	_Atomic unsigned int *asked = arg;
	uint8_t page[PAGE_BYTES];

	toy_page(page, gfn.v);
	if ((gfn.v == 77 && !asked[0]++) || (gfn.v == 1500 && asked[1]++ < 3))
		page[9] ^= 1;
	*sum = XXH3_64bits(page, sizeof(page));
	return true;
}

static void stop_toy(void *toy)
{
	worker_stop(toy);
}

static void free_toy(void *toy)
{
	worker_free(toy);
}

static void test_wrong_pages_are_asked_for_again(void **state)
{
	_Atomic unsigned int asked[2] = { 0 };
	const struct verify_config config = { .sum = toy_sum,
					      .arg = asked,
					      .tries = 5,
					      .bad_max = 8 };
	struct memory *mem = late_memory();
	struct worker *toy = toy_new(mem);
	struct verify_stats stats;
	struct verify *verify;
	struct layer *layer;
	struct stack *stack;

	(void)state;
	assert_int_equal(verify_new(&verify, &config, NULL), 0);
	layer = verify_layer(verify);
	assert_int_equal(stack_new(&stack, memory_sink(mem), &layer, 1, worker_source(toy), NULL),
			 0);
	assert_int_equal(stack_own(stack, stop_toy, free_toy, toy), 0);
	assert_int_equal(worker_start(toy, NULL), 0);
	memory_attach(mem, stack_top(stack));
	check_all(mem);
	verify_stats(verify, &stats);
	assert_int_equal(stats.wrong, 4);
	assert_int_equal(stats.again, 4);
	assert_int_equal(stats.lost, 0);
	memory_detach(mem);
	stack_free(stack);
	memory_free(mem);
}

/* ---- gone, and come again ---- */

struct reader {
	pthread_t thread;
	struct memory *mem;
	uint64_t first;
	unsigned int wrong;
};

static void *reader_main(void *arg)
{
	struct reader *reader = arg;
	uint64_t i;

	for (i = reader->first; i < PAGES; i += 37)
		reader->wrong += !page_is_right(reader->mem, i, 0);
	return NULL;
}

/* Several go before all is there; who waits does not notice. */
static void test_another_goes_on_where_one_has_gone(void **state)
{
	struct memory *mem = late_memory();
	struct worker *toy = NULL;
	struct reader reader[2];
	struct memory_stats stats;
	unsigned int i;

	(void)state;
	for (i = 0; i < 2; i++) {
		reader[i] = (struct reader){ .mem = mem, .first = 11 * i };
		assert_int_equal(pthread_create(&reader[i].thread, NULL, reader_main, &reader[i]),
				 0);
	}
	for (i = 0; i < 8; i++) {
		toy = toy_new(mem);
		assert_int_equal(worker_start(toy, NULL), 0);
		memory_attach(mem, worker_source(toy));
		if (i == 7)
			break;
		wait_until((memory_stats(mem, &stats), stats.filled >= i * 100));
		worker_stop(toy);
		memory_detach(mem);
		memory_stats(mem, &stats);
		assert_int_equal(stats.requested, 0);
		worker_free(toy);
	}
	for (i = 0; i < 2; i++) {
		pthread_join(reader[i].thread, NULL);
		assert_int_equal(reader[i].wrong, 0);
	}
	check_all(mem);
	memory_detach(mem);
	worker_free(toy);
	memory_free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_background_fill_brings_huge_pages),
		cmocka_unit_test(test_wrong_pages_are_asked_for_again),
		cmocka_unit_test(test_another_goes_on_where_one_has_gone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
