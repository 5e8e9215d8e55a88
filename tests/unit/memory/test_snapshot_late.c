// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Snapshots of memory that is still arriving, and what is done to late memory
// meanwhile: pages come one by one and in huge pages, what is out of date goes,
// a page is ejected from.
#include "guest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "memory/internal.h"
#include "memory/page_source.h"

#define MIB_PAGES 256u
#define HERE (8 * MIB_PAGES) /* the pages that are here at first, and that guests write */

struct late {
	struct memory *mem;
	struct guests guests;
	struct memory_snapshot *snapshot;
	struct saver saver;
	uint64_t *want;
};

/* 16 MiB of which the first half is here, all zeros, and is being written. */
static void late_init(struct late *late, unsigned int n_guests,
		      const struct memory_snapshot_config *config)
{
	late->mem = memory_for_test(16, 0, true, NULL);
	memory_set_way_out(late->mem, WAY_OUT_KERNEL);
	assert_int_equal(memory_fill(late->mem, GFN(0), HERE, NULL), HERE);
	guests_start(&late->guests, late->mem, n_guests, 0, HERE);
	guests_go(&late->guests);
	wait_until(guests_writes(&late->guests) > 20000);
	late->snapshot = snapshot_at_once(&late->guests, config, &late->want);
	saver_init(&late->saver, late->snapshot, late->want, late->guests.pages);
}

static void late_fini(struct late *late)
{
	guests_stop(&late->guests);
	saver_fini(&late->saver);
	free(late->want);
	memory_free(late->mem);
}

static void fill_one(struct late *late, uint64_t page)
{
	uint8_t data[PAGE_BYTES];

	page_pattern(data, GFN(page));
	assert_int_equal(memory_fill(late->mem, GFN(page), 1, data), 1);
}

static bool holds_pattern(struct late *late, uint64_t page)
{
	uint8_t want[PAGE_BYTES], got[PAGE_BYTES];

	page_pattern(want, GFN(page));
	assert_int_equal(
		gup_read(late->mem, gfn_to_gpa(GFN(page)), got, PAGE_BYTES, GUP_NOWAIT, NULL), 0);
	return !memcmp(want, got, PAGE_BYTES);
}

/*
 * It came, and was written, and it is late all the same: what it held at the
 * moment is where it came from.
 */
static void test_what_comes_meanwhile_is_late(void **unused)
{
	struct late late;
	uint64_t i;

	(void)unused;
	late_init(&late, 1, NULL);
	guests_go(&late.guests);
	for (i = HERE; i < HERE + 1000; i++) {
		fill_one(&late, i);
		assert_int_equal(
			gup_write(late.mem, gfn_to_gpa(GFN(i)), "new", 3, GUP_NOWAIT, NULL), 0);
	}
	saver_run(&late.saver);
	saver_check(&late.saver);
	assert_int_equal(saver_count(&late.saver, 'l'), late.guests.pages - HERE);
	memory_snapshot_end(late.snapshot, true);
	/* And stays late: a page that has not come is still asked for. */
	assert_int_equal(memory_page_state(late.mem, GFN(HERE + 1000)), PAGE_MISSING);
	assert_true(memory_is_late(late.mem));
	fill_one(&late, HERE + 1000);
	assert_true(holds_pattern(&late, HERE + 1000));
	late_fini(&late);
}

/*
 * Some of a span is here, and written; others of it come: the first are
 * protected all the same.
 */
static void test_a_span_can_be_here_in_part(void **unused)
{
	struct late late;
	uint64_t at = HERE + 32, i;

	(void)unused;
	late.mem = memory_for_test(16, 0, true, NULL);
	assert_int_equal(memory_fill(late.mem, GFN(0), HERE, NULL), HERE);
	assert_int_equal(memory_fill(late.mem, GFN(at), 3, NULL), 3);
	guests_start(&late.guests, late.mem, 1, 0, HERE);
	guests_write(&late.guests, at + 1, 9, 1234);
	late.snapshot = snapshot_at_once(&late.guests, NULL, &late.want);
	saver_init(&late.saver, late.snapshot, late.want, late.guests.pages);
	for (i = 3; i < 9; i++)
		fill_one(&late, at + i);
	assert_int_equal(gup_write(late.mem, gfn_to_gpa(GFN(at + 4)), "new", 3, GUP_NOWAIT, NULL),
			 0);
	assert_int_equal(gup_write(late.mem, gfn_to_gpa(GFN(at + 1)), "new", 3, GUP_NOWAIT, NULL),
			 0);
	saver_run(&late.saver);
	saver_check(&late.saver);
	for (i = 0; i < 16; i++)
		assert_int_equal(late.saver.seen[at + i], i < 3 ? 'h' : 'l');
	memory_snapshot_end(late.snapshot, true);
	late_fini(&late);
}

/* ---- huge pages ---- */

static void commit_run(struct late *late, uint64_t first, uint64_t n)
{
	struct page_sink *sink = memory_sink(late->mem);
	uint64_t i;
	void *room;

	assert_int_equal(sink->ops->room(sink, GFN(first), n, &room), n);
	for (i = 0; i < n; i++)
		page_pattern((uint8_t *)room + i * PAGE_BYTES, GFN(first + i));
	assert_true(sink->ops->commit(sink, GFN(first), n, room) >= 0);
}

/*
 * Whole huge pages take their place, around nothing, and around pages that came
 * before and are wanted.
 */
static void test_huge_pages_come_meanwhile(void **unused)
{
	const uint64_t whole = HERE, around = HERE + HUGE_PAGES;
	struct late late;
	uint64_t i;

	(void)unused;
	late.mem = memory_for_test(16, 0, true, NULL);
	memory_set_way_out(late.mem, WAY_OUT_KERNEL);
	assert_int_equal(memory_fill(late.mem, GFN(0), HERE, NULL), HERE);
	assert_int_equal(memory_fill(late.mem, GFN(around + 7), 1, NULL), 1);
	guests_start(&late.guests, late.mem, 1, 0, HERE);
	guests_write(&late.guests, around + 7, 0, 77);
	late.snapshot = snapshot_at_once(&late.guests, NULL, &late.want);
	saver_init(&late.saver, late.snapshot, late.want, late.guests.pages);
	guests_go(&late.guests);
	commit_run(&late, whole, HUGE_PAGES);
	commit_run(&late, around, 7);
	commit_run(&late, around + 8, HUGE_PAGES - 8);
	wait_until(memory_page_state(late.mem, GFN(around + 100)) == PAGE_PRESENT);
	guests_park(&late.guests);
	guests_write(&late.guests, around + 7, 0, 78);
	guests_go(&late.guests);
	for (i = 0; i < HUGE_PAGES; i++) {
		assert_true(holds_pattern(&late, whole + i));
		assert_int_equal(
			gup_write(late.mem, gfn_to_gpa(GFN(whole + i)), "new", 3, GUP_NOWAIT, NULL),
			0);
	}
	saver_run(&late.saver);
	saver_check(&late.saver);
	assert_int_equal(late.saver.seen[around + 7], 'h');
	assert_int_equal(saver_count(&late.saver, 'l'), late.guests.pages - HERE - 1);
	memory_snapshot_end(late.snapshot, true);
	late_fini(&late);
}

/* The last page comes: the guest is still watched, until the snapshot ends. */
static void test_memory_completes_meanwhile(void **unused)
{
	struct memory_stats stats;
	struct late late;
	uint64_t i;

	(void)unused;
	late_init(&late, 2, NULL);
	guests_go(&late.guests);
	for (i = HERE; i < late.guests.pages; i += MIB_PAGES)
		assert_int_equal(memory_fill(late.mem, GFN(i), MIB_PAGES, NULL), MIB_PAGES);
	assert_false(memory_is_late(late.mem));
	/* Its memory can be given up from now on, and is zero then. */
	assert_int_equal(memory_discard(late.mem, GFN(HERE), 32), 32);
	assert_int_equal(gup_write(late.mem, GPA(HERE * PAGE_BYTES), "new", 3, GUP_NOWAIT, NULL),
			 0);
	saver_run(&late.saver);
	saver_check(&late.saver);
	assert_int_equal(saver_count(&late.saver, 'l'), late.guests.pages - HERE);
	memory_snapshot_end(late.snapshot, true);
	memory_stats(late.mem, &stats);
	assert_int_equal(stats.direct_accesses, 0);
	assert_int_equal(stats.missing, 0);
	late_fini(&late);
}

/* Pages come while it is being prepared as well. */
struct filler {
	struct late *late;
	pthread_t thread;
	_Atomic uint64_t next;
};

static void *filler_main(void *arg)
{
	struct filler *filler = arg;
	uint64_t page;

	while ((page = atomic_load(&filler->next)) < filler->late->guests.pages) {
		fill_one(filler->late, page);
		atomic_store(&filler->next, page + 1);
	}
	return NULL;
}

static void test_pages_come_all_the_time(void **unused)
{
	struct filler filler;
	struct late late;
	uint64_t i, here, at;
	uint8_t pattern[PAGE_BYTES];

	(void)unused;
	late.mem = memory_for_test(16, 0, true, NULL);
	assert_int_equal(memory_fill(late.mem, GFN(0), HERE, NULL), HERE);
	guests_start(&late.guests, late.mem, 1, 0, HERE);
	filler.late = &late;
	atomic_store(&filler.next, HERE);
	guests_go(&late.guests);
	assert_int_equal(pthread_create(&filler.thread, NULL, filler_main, &filler), 0);
	late.snapshot = snapshot_at_once(&late.guests, NULL, &late.want);
	at = atomic_load(&filler.next);
	guests_go(&late.guests);
	/*
	 * What is here by now is what it was: whether it had come at the
	 * moment, or not.
	 */
	for (i = HERE; i < late.guests.pages; i++) {
		page_pattern(pattern, GFN(i));
		memcpy(late.want + i * PAGE_BYTES / 8, pattern, PAGE_BYTES);
	}
	saver_init(&late.saver, late.snapshot, late.want, late.guests.pages);
	pthread_join(filler.thread, NULL);
	for (i = HERE; i < late.guests.pages; i++)
		assert_int_equal(
			gup_write(late.mem, gfn_to_gpa(GFN(i)), "new", 3, GUP_NOWAIT, NULL), 0);
	saver_run(&late.saver);
	saver_check(&late.saver);
	here = saver_count(&late.saver, 'h') + saver_count(&late.saver, 'z') - HERE;
	assert_true(here <= at + 1 - HERE);
	memory_snapshot_end(late.snapshot, true);
	late_fini(&late);
}

/* ---- what is out of date ---- */

static void test_what_is_out_of_date_was_handed_out(void **unused)
{
	struct late late;

	(void)unused;
	late_init(&late, 1, NULL);
	assert_int_equal(memory_invalidate(late.mem, GFN(50), 100), 100);
	assert_int_equal(memory_page_state(late.mem, GFN(50)), PAGE_MISSING);
	fill_one(&late, 60);
	saver_run(&late.saver);
	saver_check(&late.saver);
	assert_int_equal(saver_count(&late.saver, 'l'), late.guests.pages - HERE);
	memory_snapshot_end(late.snapshot, true);
	assert_true(holds_pattern(&late, 60));
	late_fini(&late);
}

/* No room: it stays, and the caller may try again. */
static void test_what_cannot_be_copied_stays(void **unused)
{
	const struct memory_snapshot_config small = { .buffer_bytes = 1 };
	struct late late;
	unsigned int i;

	(void)unused;
	late_init(&late, 1, &small);
	for (i = 0; i < 16; i++)
		assert_int_equal(memory_invalidate(late.mem, GFN(i * MEMORY_SPAN_PAGES), 1), 1);
	assert_int_equal(memory_invalidate(late.mem, GFN(16 * MEMORY_SPAN_PAGES), 1), -EBUSY);
	assert_int_equal(memory_page_state(late.mem, GFN(16 * MEMORY_SPAN_PAGES)), PAGE_PRESENT);
	saver_run(&late.saver);
	saver_check(&late.saver);
	assert_int_equal(memory_invalidate(late.mem, GFN(16 * MEMORY_SPAN_PAGES), 1), 1);
	memory_snapshot_end(late.snapshot, true);
	late_fini(&late);
}

static void test_a_lost_page_is_lost(void **unused)
{
	struct late late;

	(void)unused;
	late_init(&late, 1, NULL);
	assert_int_equal(memory_lose(late.mem, GFN(HERE + 5)), 0);
	saver_run(&late.saver);
	saver_check(&late.saver);
	assert_int_equal(late.saver.seen[HERE + 5], 'x');
	assert_int_equal(saver_count(&late.saver, 'x'), 1);
	memory_snapshot_end(late.snapshot, true);
	late_fini(&late);
}

/* ---- ejects ---- */

struct waiter {
	struct late *late;
	struct memory_thread *waits;
	uint64_t page;
	pthread_t thread;
	_Atomic bool entered;
};

/*
 * A vCPU that writes a missing page: its store waits in the kernel until the
 * page is there.
 */
static void *waiter_main(void *arg)
{
	struct waiter *waiter = arg;

	memory_thread_bind(waiter->waits);
	memory_thread_enter(waiter->waits);
	atomic_store(&waiter->entered, true);
	__atomic_store_n(
		(uint64_t *)(void *)(memory_regions(waiter->late->mem, &(unsigned int){ 0 })->host +
				     waiter->page * PAGE_BYTES),
		1, __ATOMIC_RELAXED);
	memory_thread_left(waiter->waits, -EINTR);
	memory_thread_unbind(waiter->waits);
	return NULL;
}

/*
 * A page's protection is taken away in the middle of a huge page: what is
 * around it is protected and opened all the same.
 */
static void test_spans_are_armed_around_a_page_without_permission(void **unused)
{
	struct late late;
	uint8_t *host;
	unsigned int n;
	uint64_t i;

	(void)unused;
	late.mem = memory_for_test(16, 0, true, NULL);
	assert_int_equal(memory_fill(late.mem, GFN(0), HERE, NULL), HERE);
	host = memory_regions(late.mem, &n)->host;
	guests_start(&late.guests, late.mem, 1, 0, HERE);
	for (i = 0; i < HERE; i++)
		guests_write(&late.guests, i, 0, i + 1);
	/* As an eject from a missing page of the span does (eject.c). */
	assert_int_equal(mprotect(host + (HERE + 3) * PAGE_BYTES, PAGE_BYTES, PROT_NONE), 0);
	assert_int_equal(memory_fill(late.mem, GFN(HERE), 3, NULL), 3);
	guests_write(&late.guests, HERE + 1, 5, 55);
	late.snapshot = snapshot_at_once(&late.guests, NULL, &late.want);
	assert_int_equal(gup_write(late.mem, gfn_to_gpa(GFN(HERE + 1)), "new", 3, GUP_NOWAIT, NULL),
			 0);
	assert_int_equal(
		mprotect(host + (HERE + 3) * PAGE_BYTES, PAGE_BYTES, PROT_READ | PROT_WRITE), 0);
	saver_init(&late.saver, late.snapshot, late.want, late.guests.pages);
	saver_run(&late.saver);
	saver_check(&late.saver);
	assert_int_equal(late.saver.seen[HERE + 1], 'h');
	memory_snapshot_end(late.snapshot, true);
	late_fini(&late);
}

/*
 * A vCPU waits for a missing page while a snapshot begins and ends: nobody
 * shows it zeros.
 */
static void test_who_waits_for_a_page_waits_on(void **unused)
{
	struct waiter waiter = { 0 };
	struct memory_waiter seen;
	struct late late;

	(void)unused;
	late_init(&late, 1, NULL);
	waiter.late = &late;
	waiter.page = HERE + 77;
	waiter.waits = memory_thread_new(late.mem, "waiter", 9);
	assert_int_equal(pthread_create(&waiter.thread, NULL, waiter_main, &waiter), 0);
	wait_until(memory_waiters(late.mem, &seen, 1) == 1 && seen.cpu == 9);
	saver_run(&late.saver);
	saver_check(&late.saver);
	memory_snapshot_end(late.snapshot, true);
	assert_int_equal(memory_waiters(late.mem, &seen, 1), 1);
	fill_one(&late, waiter.page);
	pthread_join(waiter.thread, NULL);
	memory_thread_free(waiter.waits);
	late_fini(&late);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_comes_meanwhile_is_late),
		cmocka_unit_test(test_a_span_can_be_here_in_part),
		cmocka_unit_test(test_huge_pages_come_meanwhile),
		cmocka_unit_test(test_memory_completes_meanwhile),
		cmocka_unit_test(test_pages_come_all_the_time),
		cmocka_unit_test(test_what_is_out_of_date_was_handed_out),
		cmocka_unit_test(test_what_cannot_be_copied_stays),
		cmocka_unit_test(test_a_lost_page_is_lost),
		cmocka_unit_test(test_spans_are_armed_around_a_page_without_permission),
		cmocka_unit_test(test_who_waits_for_a_page_waits_on),
	};

	return cmocka_run_group_tests_name("snapshot_late", tests, NULL, NULL);
}
