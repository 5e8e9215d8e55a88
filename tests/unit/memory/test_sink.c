// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Pages that come by room and commit: in order and in any, by one thread and by many, held back for
// a moment, given back.
#include "fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "memory/internal.h"

#define HUGES 4u
#define PAGES (HUGES * HUGE_PAGES)

/* ---- a source in one thread ---- */

static int64_t room(struct memory *mem, uint64_t first, uint64_t n, void **data)
{
	return memory_sink(mem)->ops->room(memory_sink(mem), GFN(first), n, data);
}

static int64_t commit(struct memory *mem, uint64_t first, uint64_t n, const void *data)
{
	return memory_sink(mem)->ops->commit(memory_sink(mem), GFN(first), n, data);
}

static void write_pages(void *data, uint64_t first, uint64_t n)
{
	uint64_t i;

	for (i = 0; i < n; i++)
		page_pattern((uint8_t *)data + i * PAGE_BYTES, GFN(first + i));
}

/* Room for all of the n pages, written. */
static void *begin(struct memory *mem, uint64_t first, uint64_t n)
{
	void *data;

	assert_int_equal(room(mem, first, n, &data), n);
	assert_int_equal((uintptr_t)data % PAGE_BYTES, 0);
	write_pages(data, first, n);
	return data;
}

static int64_t bring(struct memory *mem, uint64_t first, uint64_t n)
{
	return commit(mem, first, n, begin(mem, first, n));
}

static bool is_here(struct memory *mem, uint64_t gfn)
{
	return memory_page_state(mem, GFN(gfn)) == PAGE_PRESENT;
}

static void check_page(struct memory *mem, uint64_t gfn, bool zero)
{
	uint8_t want[PAGE_BYTES] = { 0 }, got[PAGE_BYTES];

	if (!zero)
		page_pattern(want, GFN(gfn));
	assert_int_equal(gup_read(mem, gfn_to_gpa(GFN(gfn)), got, sizeof(got), GUP_NOWAIT, NULL),
			 0);
	assert_memory_equal(got, want, sizeof(got));
}

static void check_pages(struct memory *mem, uint64_t first, uint64_t n)
{
	uint64_t i;

	for (i = 0; i < n; i++)
		check_page(mem, first + i, false);
}

static bool is_huge(const struct memory *mem, unsigned int huge)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	bool yes = memory_is_huge(pagemap, mem->region[0].host + huge * HUGE_BYTES);

	close(pagemap);
	return yes;
}

static struct memory *late_memory(const struct memory_events *events)
{
	struct memory *mem = memory_for_test(2 * HUGES, 0, true, events);

	memory_set_way_out(mem, WAY_OUT_KERNEL);
	return mem;
}

static void test_what_comes_in_order_comes_huge(void **unused)
{
	struct memory *mem = late_memory(NULL);
	struct memory_stats stats;
	unsigned int i;
	void *data;

	(void)unused;
	for (i = 0; i < PAGES; i += 128)
		assert_int_equal(bring(mem, i, 128), !mem->can_move || i % 512 == 384 ? 128 : 0);
	for (i = 0; i < HUGES; i++)
		assert_true(!memory_can_promote(mem) || is_huge(mem, i));
	check_pages(mem, 0, PAGES);
	assert_false(memory_is_late(mem));
	memory_stats(mem, &stats);
	assert_int_equal(stats.filled, PAGES);
	assert_int_equal(stats.duplicates, 0);
	/* Once all is there, what comes is of no use, and does no harm. */
	assert_int_equal(bring(mem, 7, 100), 100);
	assert_int_equal(room(mem, PAGES - 1, 2, &data), 1);
	assert_int_equal(commit(mem, PAGES - 1, 0, data), 0);
	assert_int_equal(room(mem, PAGES, 1, &data), -EFAULT);
	memory_free(mem);
}

/* As an asynchronous source: eight rooms of two huge pages are out, and come back in any order. */
static void test_rooms_of_one_thread_come_back_in_any_order(void **unused)
{
	static const unsigned int order[8] = { 5, 0, 7, 2, 3, 6, 1, 4 };
	struct memory *mem = late_memory(NULL);
	unsigned int i, k;
	void *data[8];

	(void)unused;
	for (i = 0; i < 8; i++) {
		assert_int_equal(room(mem, i * 128, 128, &data[i]), 128);
		for (k = 0; k < i; k++)
			assert_ptr_not_equal(data[i], data[k]);
	}
	for (i = 0; i < 8; i++) {
		write_pages(data[order[i]], order[i] * 128, 128);
		assert_int_equal(commit(mem, order[i] * 128, 128, data[order[i]]),
				 !mem->can_move || i >= 6 ? 128 : 0);
	}
	assert_true(!mem->can_move || (is_huge(mem, 0) && is_huge(mem, 1)));
	check_pages(mem, 0, 1024);
	memory_free(mem);
}

static void test_a_room_ends_with_its_huge_page_and_may_be_given_back(void **unused)
{
	struct memory *mem = late_memory(NULL);
	void *data, *other;

	(void)unused;
	assert_int_equal(room(mem, 500, 100, &data), 12);
	/* The same pages once more, before these have come. */
	assert_int_equal(room(mem, 508, 4, &other), 4);
	assert_ptr_not_equal((uint8_t *)data + 8 * PAGE_BYTES, other);
	assert_int_equal(commit(mem, 508, 0, other), 0);
	/* Only a part of it is whole. */
	write_pages(data, 500, 5);
	memset((uint8_t *)data + 5 * PAGE_BYTES, 1, 7 * PAGE_BYTES);
	assert_true(commit(mem, 500, 5, data) >= 0);
	wait_until(is_here(mem, 504));
	check_pages(mem, 500, 5);
	assert_false(is_here(mem, 505));
	/* What is nobody's room, or another's, is refused. */
	assert_int_equal(commit(mem, 500, 5, data), -EINVAL);
	data = begin(mem, 512, 4);
	assert_int_equal(commit(mem, 512, 5, data), -EINVAL);
	assert_int_equal(commit(mem, 1024, 4, data), -EINVAL);
	assert_int_equal(commit(mem, 513, 3, (uint8_t *)data + PAGE_BYTES), -EINVAL);
	assert_true(commit(mem, 512, 4, data) >= 0);
	memory_free(mem);
}

static void test_pages_are_held_back_for_a_moment_only(void **unused)
{
	struct memory *mem = late_memory(NULL);
	int64_t start = clock_now_ns();

	(void)unused;
	if (!mem->can_move) {
		memory_free(mem);
		skip();
	}
	assert_int_equal(bring(mem, 0, 128), 0);
	wait_until(is_here(mem, 0));
	assert_true(clock_now_ns() - start >= 10 * NS_PER_MS);
	/* Who goes on to another huge page is done with the one before. */
	assert_int_equal(bring(mem, 128, 128), 0);
	begin(mem, 512, 1);
	assert_true(is_here(mem, 255));
	/* At the end of the source, too; its rooms stay. */
	assert_int_equal(bring(mem, 514, 2), 0);
	memory_detach(mem);
	assert_true(is_here(mem, 514));
	assert_false(is_here(mem, 512));
	/* And before all is taken back. */
	assert_int_equal(bring(mem, 600, 1), 0);
	assert_int_equal(memory_take_back(mem), 0);
	assert_false(is_here(mem, 600));
	for (int i = 0; i < 300; i++)
		wait_a_little();
	assert_false(is_here(mem, 600));
	memory_free(mem);
}

static void *touch(void *arg)
{
	struct memory *mem = arg;
	uint8_t c;

	return (void *)(intptr_t)gup_read(mem, GPA(40 * PAGE_BYTES), &c, 1, 0, NULL);
}

/* Somebody waits for a page that comes so: it is placed at once, around a room that is out. */
static void test_nobody_waits_for_what_is_held_back(void **unused)
{
	struct memory *mem = late_memory(NULL);
	struct counting_source source;
	pthread_t thread;
	void *data, *failed;

	(void)unused;
	counting_source_init(&source);
	memory_attach(mem, &source.source);
	data = begin(mem, 128, 128);
	assert_int_equal(pthread_create(&thread, NULL, touch, mem), 0);
	wait_until(source.pages == 1);
	assert_int_equal(bring(mem, 0, 128), 128);
	pthread_join(thread, &failed);
	assert_null(failed);
	assert_false(is_here(mem, 128));
	/* The guest's page is not the source's any more. */
	assert_int_equal(gup_write(mem, GPA(40 * PAGE_BYTES), "guest's", 8, 0, NULL), 0);
	write_pages(data, 128, 128);
	commit(mem, 128, 128, data);
	assert_int_equal(bring(mem, 256, 256), 256);
	check_pages(mem, 41, 512 - 41);
	assert_memory_equal(mem->region[0].host + 40 * PAGE_BYTES, "guest's", 8);
	assert_true(!memory_can_promote(mem) || is_huge(mem, 0));
	memory_detach(mem);
	memory_free(mem);
}

static void count_lost(void *arg, gfn_t gfn)
{
	(void)gfn;
	atomic_fetch_add((_Atomic int *)arg, 1);
}

/* What has come and is held back is the page: who loses it afterwards has not lost it. */
static void test_what_is_held_back_is_not_lost(void **unused)
{
	_Atomic int lost = 0;
	struct memory *mem =
		late_memory(&(struct memory_events){ .lost = count_lost, .arg = &lost });
	struct page_sink *sink = memory_sink(mem);
	struct memory_stats stats;
	void *data;

	(void)unused;
	assert_int_equal(bring(mem, 7, 1), !mem->can_move);
	assert_int_equal(sink->ops->lose(sink, GFN(7)), 0);
	/* The stage's own thread may be at it just now, as what is held back has to come. */
	wait_until(is_here(mem, 7));
	check_page(mem, 7, false);
	/* Zeros, too, and while somebody writes into another room of the huge page. */
	assert_int_equal(commit(mem, 9, 1, NULL), !mem->can_move);
	data = begin(mem, 20, 2);
	assert_int_equal(sink->ops->lose(sink, GFN(9)), 0);
	wait_until(is_here(mem, 9));
	check_page(mem, 9, true);
	assert_int_equal(lost, 0);
	memory_stats(mem, &stats);
	assert_int_equal(stats.lost, 0);
	/*
	 * Its neighbour has not come, and what is only being written has not
	 * either; it comes all the same.
	 */
	assert_int_equal(sink->ops->lose(sink, GFN(8)), 0);
	assert_int_equal(sink->ops->lose(sink, GFN(20)), 0);
	assert_int_equal(lost, 2);
	assert_int_equal(memory_page_state(mem, GFN(8)), PAGE_LOST);
	assert_true(commit(mem, 20, 2, data) >= 0);
	wait_until(is_here(mem, 20));
	check_pages(mem, 20, 2);
	memory_stats(mem, &stats);
	assert_int_equal(stats.lost, 1);
	memory_free(mem);
}

static void test_zeros_need_no_room(void **unused)
{
	struct memory *mem = late_memory(NULL);
	unsigned int i;

	(void)unused;
	/* A few among data: the huge page is whole all the same. */
	commit(mem, 0, 10, NULL);
	assert_int_equal(bring(mem, 10, 502), 502);
	assert_true(!memory_can_promote(mem) || is_huge(mem, 0));
	for (i = 0; i < 512; i++)
		check_page(mem, i, i < 10);
	/* Over the ends of huge pages, and a whole one: they cost no memory. */
	assert_true(commit(mem, 1000, 600, NULL) >= 512);
	wait_until(is_here(mem, 1000) && is_here(mem, 1599));
	for (i = 1000; i < 1600; i++)
		check_page(mem, i, true);
	assert_false(is_huge(mem, 2));
	assert_int_equal(commit(mem, PAGES - 1, 2, NULL), -EFAULT);
	memory_free(mem);
}

/* ---- many at a time ---- */

#define FILLERS 3

struct filler {
	struct memory *mem;
	pthread_t thread;
	unsigned int seed, wrong;
};

/* Rooms of any size, up to four out at a time, some given back; at the end all in order. */
static void *filler_main(void *arg)
{
	struct filler *filler = arg;
	uint64_t first[4], n[4], round, i = 0;
	void *data[4] = { NULL };
	int64_t got;

	for (round = 0; round < 2000; round++, i = round % 4) {
		if (data[i]) {
			write_pages(data[i], first[i], n[i]);
			got = rand_r(&filler->seed) % 8 ? (int64_t)n[i] : 0;
			filler->wrong += commit(filler->mem, first[i], (uint64_t)got, data[i]) < 0;
		}
		first[i] = (uint64_t)rand_r(&filler->seed) % PAGES;
		n[i] = 1 + (uint64_t)rand_r(&filler->seed) % 128;
		got = room(filler->mem, first[i], n[i], &data[i]);
		filler->wrong += got <= 0;
		n[i] = (uint64_t)got;
	}
	for (i = 0; i < 4; i++)
		filler->wrong += commit(filler->mem, first[i], 0, data[i]) < 0;
	for (i = 0; i < PAGES; i += 64)
		filler->wrong += bring(filler->mem, i, 64) < 0;
	return NULL;
}

static void *toucher_main(void *arg)
{
	struct filler *toucher = arg;
	uint64_t i, words[2], want[PAGE_BYTES / 8];

	for (i = 0; i < PAGES; i++) {
		uint64_t gfn = (uint64_t)rand_r(&toucher->seed) % PAGES;

		page_pattern((uint8_t *)want, GFN(gfn));
		toucher->wrong += gup_read(toucher->mem, GPA(gfn * PAGE_BYTES + 4080), words, 16, 0,
					   NULL) < 0 || words[1] != want[511];
	}
	return NULL;
}

static void on_complete(void *arg)
{
	atomic_fetch_add((_Atomic int *)arg, 1);
}

static void test_many_fill_and_touch(void **unused)
{
	_Atomic int completed = 0;
	struct memory_events events = { .complete = on_complete, .arg = &completed };
	struct memory *mem = late_memory(&events);
	struct filler thread[2 * FILLERS];
	struct memory_stats stats;
	unsigned int i;

	(void)unused;
	for (i = 0; i < 2 * FILLERS; i++) {
		thread[i] = (struct filler){ .mem = mem, .seed = i + 1 };
		assert_int_equal(pthread_create(&thread[i].thread, NULL,
						i % 2 ? toucher_main : filler_main, &thread[i]), 0);
	}
	for (i = 0; i < 2 * FILLERS; i++) {
		pthread_join(thread[i].thread, NULL);
		assert_int_equal(thread[i].wrong, 0);
	}
	memory_detach(mem);
	wait_until(atomic_load(&completed) == 1);
	check_pages(mem, 0, PAGES);
	memory_stats(mem, &stats);
	assert_int_equal(stats.filled, PAGES);
	assert_int_equal(stats.requested, 0);
	memory_free(mem);
}

/* ---- what a peer may do ---- */

/* An area has two, at least. */
static unsigned int mappings(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	unsigned int n = 0;
	int c;

	assert_non_null(maps);
	while ((c = getc(maps)) != EOF)
		n += c == '\n';
	fclose(maps);
	return n;
}

/* As data, as zeros, before it is there and after: no memory is bound by it. */
static void test_a_page_that_comes_again_and_again_has_one_area(void **unused)
{
	struct memory *mem = memory_for_test(HUGES, 0, true, NULL);
	unsigned int i, before = mappings();

	(void)unused;
	memory_set_way_out(mem, WAY_OUT_KERNEL);
	for (i = 0; i < 500; i++)
		assert_true(bring(mem, 7, 1) >= 0);
	assert_true(mappings() < before + 50);
	for (i = 0; i < 500; i++)
		assert_true(commit(mem, HUGE_PAGES + 9, 1, NULL) >= 0);
	assert_true(mappings() < before + 50);
	check_page(mem, 7, false);
	memory_free(mem);
}

/* ---- the end ---- */

/*
 * The last pages are placed, by the thread that held them back, at about the time of the end: what
 * their coming starts ends, too.
 */
static void test_the_end_meets_the_last_page(void **unused)
{
	uint8_t page[PAGE_BYTES];
	unsigned int i;

	(void)unused;
	for (i = 0; i < 80; i++) {
		struct memory *mem = memory_for_test(2, 0, true, NULL);

		memory_set_way_out(mem, WAY_OUT_KERNEL);
		bring(mem, 0, HUGE_PAGES - 1);
		page_pattern(page, GFN(HUGE_PAGES - 1));
		assert_true(memory_fill(mem, GFN(HUGE_PAGES - 1), 1, page) >= 0);
		/* Held back for 10 ms: from a little before to a little after. */
		usleep(8000 + i % 40 * 100);
		memory_shut(mem);
		assert_false(mem->collapsing);
		memory_free(mem);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_comes_in_order_comes_huge),
		cmocka_unit_test(test_rooms_of_one_thread_come_back_in_any_order),
		cmocka_unit_test(test_a_room_ends_with_its_huge_page_and_may_be_given_back),
		cmocka_unit_test(test_pages_are_held_back_for_a_moment_only),
		cmocka_unit_test(test_nobody_waits_for_what_is_held_back),
		cmocka_unit_test(test_what_is_held_back_is_not_lost),
		cmocka_unit_test(test_zeros_need_no_room),
		cmocka_unit_test(test_a_page_that_comes_again_and_again_has_one_area),
		cmocka_unit_test(test_the_end_meets_the_last_page),
		cmocka_unit_test(test_many_fill_and_touch),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
