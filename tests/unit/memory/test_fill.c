// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Pages that come, in any order and by several threads, while others wait for
// them inside the kernel (a plain touch of the memory here; nothing but a test
// may do that).
#include "fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

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
	assert_memory_equal(mem->region[0].host + 3 * PAGE_BYTES, pages + 3 * PAGE_BYTES,
			    5 * PAGE_BYTES);
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
						i < RACE_FILLERS ? race_fill : race_touch,
						&race[i]),
				 0);
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
		assert_int_equal(
			gup_read(mem, gfn_to_gpa(GFN(first.v + i)), got, 4096, GUP_NOWAIT, NULL),
			0);
		assert_memory_equal(got, want, 4096);
	}
}

static int64_t place(struct memory_stage *stage, gfn_t first, unsigned int n)
{
	stage_patterns(stage, first, n);
	assert_int_equal(memory_stage_add(stage, first, n, false), 0);
	return memory_stage_place(stage);
}

static bool is_huge(const struct memory *mem, unsigned int huge)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	bool yes = memory_is_huge(pagemap, mem->region[0].host + huge * HUGE_BYTES);

	close(pagemap);
	return yes;
}

static void check_guests_page(struct memory *mem, gfn_t gfn)
{
	char got[8];

	assert_int_equal(gup_read(mem, gfn_to_gpa(gfn), got, 8, GUP_NOWAIT, NULL), 0);
	assert_memory_equal(got, "guest's", 8);
}

static void test_staged_pages_come_whole_in_part_and_around_present_ones(void **unused)
{
	struct memory *mem = memory_for_test(8, 0, true, NULL);
	struct memory_stage *stage;
	_Alignas(4096) uint8_t page[4096];
	struct memory_stats stats;
	struct gup_span span;

	(void)unused;
	memory_set_way_out(mem, WAY_OUT_KERNEL);
	assert_int_equal(memory_stage_new(&stage, mem, NULL), 0);
	/* A whole huge page. */
	assert_true(memory_stage_is_empty(stage));
	assert_int_equal(place(stage, GFN(0), 512), 512);
	assert_true(!mem->can_move || is_huge(mem, 0));
	/* A part, then the rest around an urgent page that the guest has changed since. */
	page_pattern(page, GFN(700));
	assert_int_equal(memory_fill(mem, GFN(700), 1, page), 1);
	assert_int_equal(gup_write(mem, GPA(700 * PAGE_BYTES), "guest's", 8, 0, NULL), 0);
	assert_int_equal(place(stage, GFN(600), 20), 20);
	stage_patterns(stage, GFN(512), 512);
	assert_int_equal(memory_stage_add(stage, GFN(512), 188, false), 0);
	assert_true(!mem->can_move || !memory_stage_is_due(stage));
	assert_false(memory_stage_takes(stage, GFN(699), 1));
	assert_int_equal(memory_stage_add(stage, GFN(1024), 1, false), -EFAULT);
	assert_int_equal(memory_stage_add(stage, GFN(701), 323, false), 0);
	assert_true(memory_stage_is_due(stage));
	assert_int_equal(memory_stage_place(stage), 512 - 21);
	assert_true(!memory_can_promote(mem) || is_huge(mem, 1));
	check_guests_page(mem, GFN(700));
	/* Somebody holds a page: what he writes is not lost. */
	page_pattern(page, GFN(1024));
	assert_int_equal(memory_fill(mem, GFN(1024), 1, page), 1);
	assert_int_equal(gup(mem, GPA(1024 * PAGE_BYTES), PAGE_BYTES, GUP_WRITE, NULL, &span), 0);
	assert_int_equal(place(stage, GFN(1024), 512), 511);
	assert_false(is_huge(mem, 2));
	memcpy(span.hva, "guest's", 8);
	gup_put(mem, &span);
	check_guests_page(mem, GFN(1024));
	check_patterns(mem, GFN(0), 700);
	check_patterns(mem, GFN(701), 1024 - 701);
	check_patterns(mem, GFN(1025), 511);
	/* It may not leave its huge page. */
	assert_int_equal(memory_stage_add(stage, GFN(1536 + 511), 2, false), -EFAULT);
	/* Zeros between: still whole, and zero although the area held something else. */
	stage_patterns(stage, GFN(1536), 512);
	assert_int_equal(memory_stage_add(stage, GFN(1536), 10, true), 0);
	assert_int_equal(memory_stage_add(stage, GFN(1546), 502, false), 0);
	assert_int_equal(memory_stage_place(stage), 512);
	assert_true(!mem->can_move || is_huge(mem, 3));
	memset(page, 1, sizeof(page));
	assert_int_equal(gup_read(mem, GPA(1540 * PAGE_BYTES), page, 4096, 0, NULL), 0);
	assert_true(page[0] == 0 && !memcmp(page, page + 1, 4095));
	check_patterns(mem, GFN(1546), 502);
	assert_false(memory_is_late(mem));
	memory_stats(mem, &stats);
	assert_int_equal(stats.filled, 2048);
	assert_int_equal(stats.requested, 0);
	/* What came in pieces is collapsed, and what it holds stays. */
	memory_collapse_end(mem);
	check_patterns(mem, GFN(0), 700);
	check_patterns(mem, GFN(1025), 511);
	check_guests_page(mem, GFN(1024));
	memory_stage_free(stage);
	memory_free(mem);
}

/* ---- writers, while their pages are taken into a huge page ---- */

#define PROMOTE_HUGES 8u
#define PROMOTE_PAGES (PROMOTE_HUGES * 512)

struct promote_writer {
	struct memory *mem;
	pthread_t thread;
	unsigned int id;
	unsigned int wrong;
};

static _Atomic bool promote_stop;

/*
 * Writes ever larger numbers into its own words of every seventh page, by gup
 * and through the mapping in turn, and reads back what it wrote last: no write
 * may get lost.
 */
static void *promote_write(void *arg)
{
	struct promote_writer *w = arg;
	uint64_t value, got, i;

	for (value = 1; !atomic_load(&promote_stop); value++) {
		for (i = 0; i < PROMOTE_PAGES; i += 7) {
			gpa_t gpa = GPA(i * PAGE_BYTES + 8 * w->id);

			if (i % 2)
				w->wrong += gup_write(w->mem, gpa, &value, 8, 0, NULL) != 0;
			else
				*(volatile uint64_t *)(w->mem->region[0].host + gpa.v) = value;
		}
		for (i = 0; i < PROMOTE_PAGES; i += 7) {
			got = 0;
			w->wrong += gup_read(w->mem, GPA(i * PAGE_BYTES + 8 * w->id), &got, 8, 0,
					     NULL) != 0;
			w->wrong += got != value;
		}
	}
	return NULL;
}

/* How many huge pages were promoted under the hands of three writers, and whether any could be. */
static unsigned int promote_under_writers(bool *can)
{
	struct memory *mem = memory_for_test(2 * PROMOTE_HUGES, 0, true, NULL);
	struct promote_writer writer[3];
	struct memory_stage *stage;
	_Alignas(4096) uint8_t page[4096] = { 0 };
	unsigned int i, h, promoted = 0;

	memory_set_way_out(mem, WAY_OUT_KERNEL);
	*can = memory_can_promote(mem);
	atomic_store(&promote_stop, false);
	assert_int_equal(memory_stage_new(&stage, mem, NULL), 0);
	for (i = 0; i < PROMOTE_PAGES; i += 7)
		assert_int_equal(memory_fill(mem, GFN(i), 1, page), 1);
	for (i = 0; i < 3; i++) {
		writer[i] = (struct promote_writer){ .mem = mem, .id = i };
		assert_int_equal(pthread_create(&writer[i].thread, NULL, promote_write, &writer[i]),
				 0);
	}
	for (h = 0; h < PROMOTE_HUGES; h++) {
		/* Pages that are there come once more, with what they held at first. */
		memset(memory_stage_at(stage, GFN(h * 512)), 0, HUGE_BYTES);
		assert_int_equal(memory_stage_add(stage, GFN(h * 512), 512, false), 0);
		assert_true(memory_stage_place(stage) > 0);
		promoted += is_huge(mem, h);
		sched_yield();
	}
	atomic_store(&promote_stop, true);
	for (i = 0; i < 3; i++) {
		pthread_join(writer[i].thread, NULL);
		assert_int_equal(writer[i].wrong, 0);
	}
	assert_false(memory_is_late(mem));
	memory_stage_free(stage);
	memory_free(mem);
	return promoted;
}

/* One that is held at the wrong moment stays in pieces: on a busy machine all of a round may be. */
static void test_no_write_is_lost_while_a_huge_page_is_promoted(void **unused)
{
	unsigned int rounds = 0, promoted;
	bool can;

	(void)unused;
	do
		promoted = promote_under_writers(&can);
	while (can && !promoted && ++rounds < 20);
	assert_true(promoted || !can);
}

/* ---- what must not be promoted ---- */

/*
 * A huge page of `data` pages with data that came first, the rest zeros; then
 * one more page comes.
 */
static void fill_sparse(struct memory *mem, struct memory_stage *stage, gfn_t first,
			unsigned int data)
{
	stage_patterns(stage, first, data);
	assert_int_equal(memory_stage_add(stage, first, data, false), 0);
	assert_int_equal(memory_stage_add(stage, GFN(first.v + data), 511 - data, true), 0);
	assert_int_equal(memory_stage_place(stage), 511);
	assert_int_equal(place(stage, GFN(first.v + 511), 1), 1);
	check_patterns(mem, first, data);
}

static void test_zero_pages_that_cost_no_memory_stay_so(void **unused)
{
	struct memory *mem = memory_for_test(8, 0, true, NULL);
	struct memory_stage *stage;

	(void)unused;
	memory_set_way_out(mem, WAY_OUT_KERNEL);
	assert_int_equal(memory_stage_new(&stage, mem, NULL), 0);
	fill_sparse(mem, stage, GFN(0), 1);
	assert_false(is_huge(mem, 0));
	fill_sparse(mem, stage, GFN(512), 500);
	assert_true(!memory_can_promote(mem) || is_huge(mem, 1));
	assert_int_equal(memory_fill(mem, GFN(1024), 1024, NULL), 1024);
	memory_collapse_end(mem);
	assert_false(is_huge(mem, 0));
	assert_false(is_huge(mem, 2));
	memory_stage_free(stage);
	memory_free(mem);
}

static void test_an_eject_host_keeps_what_is_present(void **unused)
{
	struct memory *mem = memory_for_test(4, 0, true, NULL);
	_Alignas(4096) uint8_t page[4096];
	struct memory_stage *stage;

	(void)unused;
	memory_set_way_out(mem, WAY_OUT_EJECT);
	assert_int_equal(memory_stage_new(&stage, mem, NULL), 0);
	page_pattern(page, GFN(9));
	assert_int_equal(memory_fill(mem, GFN(9), 1, page), 1);
	assert_int_equal(place(stage, GFN(0), 512), 511);
	assert_false(is_huge(mem, 0));
	check_patterns(mem, GFN(0), 512);
	memory_stage_free(stage);
	memory_free(mem);
}

/*
 * A part of guest RAM is locked: emptying the huge page fails half-way. What
 * the guest wrote is still there, and can be written.
 */
static void test_a_huge_page_that_cannot_be_emptied(void **unused)
{
	struct memory *mem = memory_for_test(4, 0, true, NULL);
	_Alignas(4096) uint8_t page[4096];
	struct memory_stage *stage;
	unsigned int i;

	(void)unused;
	memory_set_way_out(mem, WAY_OUT_KERNEL);
	assert_int_equal(
		mlock2(mem->region[0].host + HUGE_BYTES / 2, HUGE_BYTES / 2, MLOCK_ONFAULT), 0);
	assert_int_equal(memory_stage_new(&stage, mem, NULL), 0);
	for (i = 7; i < 512; i += 400) {
		page_pattern(page, GFN(i));
		assert_int_equal(memory_fill(mem, GFN(i), 1, page), 1);
		assert_int_equal(gup_write(mem, GPA(i * PAGE_BYTES), "guest's", 8, 0, NULL), 0);
	}
	assert_int_equal(place(stage, GFN(0), 512), 510);
	for (i = 7; i < 512; i += 400) {
		check_guests_page(mem, GFN(i));
		/* Through the mapping: would wait for ever if it were still protected, or gone. */
		((volatile uint8_t *)mem->region[0].host)[i * PAGE_BYTES + 9] = 1;
	}
	check_patterns(mem, GFN(0), 7);
	check_patterns(mem, GFN(8), 399);
	check_patterns(mem, GFN(408), 104);
	memory_stage_free(stage);
	memory_free(mem);
}

/* ---- tickets ---- */

static void fire_and_fill(struct gup_ticket *ticket)
{
	/* A page of the same huge page: whoever fires holds no lock. */
	memory_fill(ticket->arg, GFN(9), 1, NULL);
}

static void test_a_ticket_may_fill(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	struct gup_ticket ticket = { .fire = fire_and_fill, .arg = mem };
	struct gup_opts opts = { .ticket = &ticket };
	char c;

	(void)unused;
	assert_int_equal(gup_read(mem, GPA(8 * PAGE_BYTES), &c, 1, GUP_NOWAIT, &opts), -EAGAIN);
	assert_int_equal(memory_fill(mem, GFN(8), 1, NULL), 1);
	assert_int_equal(memory_page_state(mem, GFN(9)), PAGE_PRESENT);
	memory_free(mem);
}

static void *touch_one(void *arg)
{
	struct race *race = arg;

	race->wrong =
		host_word(race->mem, GFN(9), 0) != UINT64_C(10) * UINT64_C(0x9e3779b97f4a7c15);
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
		cmocka_unit_test(test_no_write_is_lost_while_a_huge_page_is_promoted),
		cmocka_unit_test(test_zero_pages_that_cost_no_memory_stay_so),
		cmocka_unit_test(test_an_eject_host_keeps_what_is_present),
		cmocka_unit_test(test_a_huge_page_that_cannot_be_emptied),
		cmocka_unit_test(test_a_ticket_may_fill),
		cmocka_unit_test(test_who_waits_is_shown_until_the_page_comes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
