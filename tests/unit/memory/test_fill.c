// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Pages that come, in any order and by several threads, while others wait for them inside the kernel (a plain touch of
// the memory here; nothing but a test may do that).
#include "fixture.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "memory/internal.h"
#include "memory/stage.h"

static uint64_t host_word(struct memory *mem, gfn_t gfn, unsigned int word)
{
	unsigned int region;
	uint64_t offset;

	assert_true(memory_find(mem, gfn, 1, &region, &offset));
	return ((volatile uint64_t *)(mem->region[region].host + offset * PAGE_BYTES))[word];
}

static void on_complete(void *arg)
{
	atomic_fetch_add((_Atomic int *)arg, 1);
}

static void test_fill_keeps_what_is_present(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	_Alignas(4096) static uint8_t pages[8 * 4096];
	struct memory_stats stats;
	unsigned int i;

	(void)unused;
	for (i = 0; i < 8; i++)
		page_pattern(pages + i * PAGE_BYTES, GFN(i));
	assert_int_equal(memory_fill(mem, GFN(2), 1, pages + 2 * PAGE_BYTES), 1);
	/* The guest has written to it since. */
	assert_int_equal(gup_write(mem, GPA(2 * PAGE_BYTES), "guest's", 8, 0, NULL), 0);
	assert_int_equal(memory_fill(mem, GFN(0), 8, pages), 7);
	assert_int_equal(memory_fill(mem, GFN(0), 8, pages), 0);
	assert_memory_equal(mem->region[0].host, pages, 2 * PAGE_BYTES);
	assert_memory_equal(mem->region[0].host + 2 * PAGE_BYTES, "guest's", 8);
	assert_memory_equal(mem->region[0].host + 3 * PAGE_BYTES, pages + 3 * PAGE_BYTES, 5 * PAGE_BYTES);
	memory_stats(mem, &stats);
	assert_int_equal(stats.missing, 512 - 8);
	assert_int_equal(stats.filled, 8);
	assert_int_equal(stats.duplicates, 9);
	assert_int_equal(memory_fill(mem, GFN(511), 2, pages), -EFAULT);
	memory_free(mem);
}

static void test_complete_comes_once_and_only_with_the_last_page(void **unused)
{
	_Atomic int completed = 0;
	struct memory_events events = { .complete = on_complete, .arg = &completed };
	struct memory *mem = memory_for_test(2, 2, true, &events);
	gfn_t high = gpa_to_gfn(GPA(UINT64_C(4) << 30));

	(void)unused;
	assert_int_equal(memory_fill(mem, GFN(0), 512, NULL), 512);
	assert_int_equal(memory_fill(mem, high, 511, NULL), 511);
	assert_int_equal(completed, 0);
	assert_true(memory_is_late(mem));
	assert_int_equal(memory_fill(mem, GFN(high.v + 511), 1, NULL), 1);
	assert_int_equal(completed, 1);
	assert_false(memory_is_late(mem));
	assert_int_equal(memory_fill(mem, high, 512, NULL), 0);
	assert_int_equal(completed, 1);
	memory_free(mem);
}

/* ---- several fillers, several threads that touch ---- */

#define RACE_PAGES 2048
#define RACE_FILLERS 3
#define RACE_TOUCHERS 3

struct race {
	struct memory *mem;
	unsigned int seed;
	uint64_t wrong;
	uint64_t filled;
	pthread_t thread;
};

static void *race_fill(void *arg)
{
	struct race *race = arg;
	_Alignas(4096) static _Thread_local uint8_t pages[16 * 4096];
	unsigned int seed = race->seed, i, round;
	uint64_t first, n;
	int64_t r;

	for (round = 0; round < RACE_PAGES / 16 * 4; round++) {
		/* At random first, then in order, so that none is left out. */
		first = round < RACE_PAGES / 16 * 3 ? (uint64_t)rand_r(&seed) % RACE_PAGES :
						       (round % (RACE_PAGES / 16)) * 16;
		n = 1 + (uint64_t)rand_r(&seed) % 16;
		if (round >= RACE_PAGES / 16 * 3)
			n = 16;
		if (n > RACE_PAGES - first)
			n = RACE_PAGES - first;
		for (i = 0; i < n; i++)
			page_pattern(pages + i * PAGE_BYTES, GFN(first + i));
		r = memory_fill(race->mem, GFN(first), n, pages);
		if (r < 0)
			race->wrong++;
		else
			race->filled += (uint64_t)r;
	}
	return NULL;
}

static void *race_touch(void *arg)
{
	struct race *race = arg;
	unsigned int seed = race->seed, i;
	uint64_t gfn;

	for (i = 0; i < RACE_PAGES; i++) {
		gfn = (uint64_t)rand_r(&seed) % RACE_PAGES;
		if (host_word(race->mem, GFN(gfn), 511) !=
		    (gfn + 1) * UINT64_C(0x9e3779b97f4a7c15) + 511)
			race->wrong++;
	}
	return NULL;
}

static void test_many_fillers_and_touchers_see_every_page_right(void **unused)
{
	_Atomic int completed = 0;
	struct memory_events events = { .complete = on_complete, .arg = &completed };
	struct memory *mem = memory_for_test(8, 0, true, &events);
	struct race race[RACE_FILLERS + RACE_TOUCHERS];
	uint64_t filled = 0;
	unsigned int i;

	(void)unused;
	for (i = 0; i < RACE_FILLERS + RACE_TOUCHERS; i++) {
		race[i] = (struct race){ .mem = mem, .seed = i + 1 };
		assert_int_equal(pthread_create(&race[i].thread, NULL,
						i < RACE_FILLERS ? race_fill : race_touch, &race[i]), 0);
	}
	for (i = 0; i < RACE_FILLERS + RACE_TOUCHERS; i++) {
		pthread_join(race[i].thread, NULL);
		assert_int_equal(race[i].wrong, 0);
		filled += race[i].filled;
	}
	assert_int_equal(filled, RACE_PAGES);
	assert_int_equal(completed, 1);
	memory_free(mem);
}

/* ---- staging areas ---- */

static void stage_patterns(struct memory_stage *stage, gfn_t first, unsigned int n)
{
	unsigned int i;

	for (i = 0; i < n; i++)
		page_pattern(memory_stage_at(stage, GFN(first.v + i)), GFN(first.v + i));
}

static void check_patterns(struct memory *mem, gfn_t first, unsigned int n)
{
	uint8_t want[4096], got[4096];
	unsigned int i;

	for (i = 0; i < n; i++) {
		page_pattern(want, GFN(first.v + i));
		assert_int_equal(gup_read(mem, gfn_to_gpa(GFN(first.v + i)), got, 4096, GUP_NOWAIT, NULL), 0);
		assert_memory_equal(got, want, 4096);
	}
}

static void test_staged_pages_come_whole_in_part_and_around_present_ones(void **unused)
{
	struct memory *mem = memory_for_test(8, 0, true, NULL);
	struct memory_stage *stage;
	_Alignas(4096) uint8_t page[4096];
	struct memory_stats stats;

	(void)unused;
	assert_int_equal(memory_stage_new(&stage, mem, NULL), 0);
	/* A whole huge page. */
	stage_patterns(stage, GFN(0), 512);
	assert_int_equal(memory_fill_staged(stage, GFN(0), 512), 512);
	assert_true(!mem->can_move || mem->huge[0][0].whole);
	/* A part, and the rest around an urgent page that the guest has changed since. */
	page_pattern(page, GFN(700));
	assert_int_equal(memory_fill(mem, GFN(700), 1, page), 1);
	assert_int_equal(gup_write(mem, GPA(700 * PAGE_BYTES), "guest's", 8, 0, NULL), 0);
	stage_patterns(stage, GFN(600), 20);
	assert_int_equal(memory_fill_staged(stage, GFN(600), 20), 20);
	stage_patterns(stage, GFN(512), 512);
	assert_int_equal(memory_fill_staged(stage, GFN(512), 512), 512 - 21);
	assert_false(mem->huge[0][1].whole);
	/* The next one is whole again. */
	stage_patterns(stage, GFN(1024), 512);
	assert_int_equal(memory_fill_staged(stage, GFN(1024), 512), 512);
	check_patterns(mem, GFN(0), 700);
	check_patterns(mem, GFN(701), 1536 - 701);
	assert_int_equal(gup_read(mem, GPA(700 * PAGE_BYTES), page, 8, 0, NULL), 0);
	assert_memory_equal(page, "guest's", 8);
	/* It may not leave its huge page. */
	assert_int_equal(memory_fill_staged(stage, GFN(1536 + 511), 2), -EFAULT);
	assert_int_equal(memory_fill(mem, GFN(1536), 512, NULL), 512);
	assert_false(memory_is_late(mem));
	memory_stats(mem, &stats);
	assert_int_equal(stats.filled, 2048);
	/* What came in pieces is collapsed, and what it holds stays. */
	memory_collapse_end(mem);
	check_patterns(mem, GFN(0), 700);
	check_patterns(mem, GFN(701), 1536 - 701);
	memory_stage_free(stage);
	memory_free(mem);
}

static void *touch_one(void *arg)
{
	struct race *race = arg;

	race->wrong = host_word(race->mem, GFN(9), 0) != UINT64_C(10) * UINT64_C(0x9e3779b97f4a7c15);
	return NULL;
}

static void test_who_waits_is_shown_until_the_page_comes(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	struct race race = { .mem = mem };
	struct counting_source source;
	struct memory_waiter waiter;
	_Alignas(4096) uint8_t page[4096];

	(void)unused;
	counting_source_init(&source);
	memory_attach(mem, &source.source);
	assert_int_equal(pthread_create(&race.thread, NULL, touch_one, &race), 0);
	wait_until(memory_waiters(mem, &waiter, 1) == 1);
	assert_string_equal(waiter.name, "other");
	assert_int_equal(waiter.gpa.v, 9 * PAGE_BYTES);
	wait_until(atomic_load(&source.pages) == 1);
	page_pattern(page, GFN(9));
	memory_fill(mem, GFN(9), 1, page);
	pthread_join(race.thread, NULL);
	assert_int_equal(race.wrong, 0);
	assert_int_equal(memory_waiters(mem, &waiter, 1), 0);
	assert_int_equal(hist_read(&memory_latency(mem)->count), 1);
	memory_detach(mem);
	memory_free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fill_keeps_what_is_present),
		cmocka_unit_test(test_complete_comes_once_and_only_with_the_last_page),
		cmocka_unit_test(test_many_fillers_and_touchers_see_every_page_right),
		cmocka_unit_test(test_staged_pages_come_whole_in_part_and_around_present_ones),
		cmocka_unit_test(test_who_waits_is_shown_until_the_page_comes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
