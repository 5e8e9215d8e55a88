// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// What a snapshot of a running guest hands out: each page once, as it was at the
// moment, whoever writes meanwhile and by whatever way.
#include "guest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "memory/internal.h"

#define MIB_PAGES 256u

/*
 * Guests write all the time, savers take all the time; some of the memory
 * nobody has ever touched.
 */
static void snapshot_of_writers(unsigned int mib, uint64_t written, unsigned int n_savers,
				const struct memory_snapshot_config *config)
{
	struct memory *mem = memory_for_test(mib, 2, false, NULL);
	struct memory_snapshot_stats stats;
	struct memory_snapshot *snapshot;
	struct saver saver[2];
	struct guests guests;
	uint64_t *want, at;
	unsigned int i;

	guests_start(&guests, mem, 2, 0, written);
	guests_go(&guests);
	wait_until(guests_writes(&guests) > 20000);
	snapshot = snapshot_at_once(&guests, config, &want);
	at = guests_writes(&guests);
	guests_go(&guests);
	saver_init(&saver[0], snapshot, want, guests.pages);
	for (i = 0; i < n_savers; i++) {
		if (i)
			saver[i] = saver[0];
		saver_start(&saver[i]);
	}
	for (i = 0; i < n_savers; i++)
		saver_join(&saver[i]);
	for (i = 0; i < n_savers; i++)
		saver_check(&saver[i]);
	memory_snapshot_stats(snapshot, &stats);
	assert_int_equal(stats.left, 0);
	assert_int_equal(stats.spans, (mib + 2) * MIB_PAGES / MEMORY_SPAN_PAGES);
	memory_snapshot_end(snapshot, true);
	/* They do write: also once it is over. */
	assert_true(guests_writes(&guests) > at);
	at = guests_writes(&guests);
	wait_until(guests_writes(&guests) > at + 10000);
	guests_stop(&guests);
	saver_fini(&saver[0]);
	free(want);
	memory_free(mem);
}

static void test_spans_come_once_as_they_were(void **unused)
{
	(void)unused;
	snapshot_of_writers(32, 32 * MIB_PAGES, 1, NULL);
}

static void test_two_savers_share_the_spans(void **unused)
{
	(void)unused;
	snapshot_of_writers(32, 32 * MIB_PAGES, 2, NULL);
}

static void test_a_small_buffer_holds_writers_up(void **unused)
{
	const struct memory_snapshot_config config = { .buffer_bytes = 1 };

	(void)unused;
	snapshot_of_writers(32, 32 * MIB_PAGES, 1, &config);
}

/* What is not touched before is touched while the snapshot is under way. */
static void test_untouched_memory_is_zero(void **unused)
{
	struct memory *mem = memory_for_test(16, 0, false, NULL);
	struct memory_snapshot *snapshot;
	struct saver saver;
	struct guests guests;
	uint64_t *want, i;
	unsigned int n;
	uint8_t byte = 1;

	(void)unused;
	guests_start(&guests, mem, 1, 0, 2 * MIB_PAGES);
	/* One huge page, and a page of a third. */
	for (i = 0; i < HUGE_PAGES; i++)
		guests_write(&guests, i, 0, i + 1);
	assert_int_equal(madvise(memory_regions(mem, &n)->host + 2 * HUGE_BYTES, HUGE_BYTES,
				 MADV_NOHUGEPAGE),
			 0);
	guests_write(&guests, 2 * HUGE_PAGES + 5, 7, 99);
	snapshot = snapshot_at_once(&guests, NULL, &want);
	/* By a guest, by a device, by who only reads. */
	guests_write(&guests, HUGE_PAGES + 3, 1, 1);
	guests_write(&guests, 2 * HUGE_PAGES + 6, 1, 1);
	assert_int_equal(gup_write(mem, gfn_to_gpa(GFN(3 * HUGE_PAGES)), "device", 7, 0, NULL), 0);
	assert_int_equal(gup_read(mem, gfn_to_gpa(GFN(4 * HUGE_PAGES)), &byte, 1, 0, NULL), 0);
	assert_int_equal(byte, 0);
	saver_init(&saver, snapshot, want, guests.pages);
	saver_run(&saver);
	saver_check(&saver);
	assert_true(saver_count(&saver, 'z') >= guests.pages - 2 * HUGE_PAGES - MEMORY_SPAN_PAGES);
	saver_fini(&saver);
	memory_snapshot_end(snapshot, true);
	assert_int_equal(gup_read(mem, GPA((HUGE_PAGES + 3) * PAGE_BYTES + 8), &byte, 1, 0, NULL),
			 0);
	assert_int_equal(byte, 1);
	guests_stop(&guests);
	free(want);
	memory_free(mem);
}

/* ---- devices ---- */

#define DEVICE_PAGE (8 * MIB_PAGES)
#define DEVICE_PAGES (4 * MIB_PAGES)

struct device {
	struct guests *guests;
	pthread_t thread;
	pthread_mutex_t lock; /* held while it writes: to drain it */
	_Atomic bool end;
	_Atomic uint64_t writes;
};

/*
 * Gets a span of some pages, holds it for a moment, writes it all, as io_uring
 * would.
 */
static void *device_main(void *arg)
{
	struct device *device = arg;
	struct guests *guests = device->guests;
	uint64_t seed = 99, page, words, i;
	struct gup_span span;

	while (!atomic_load(&device->end)) {
		pthread_mutex_lock(&device->lock);
		seed = seed * 6364136223846793005u + 1442695040888963407u;
		page = DEVICE_PAGE + (seed >> 33) % (DEVICE_PAGES - 20);
		words = ((seed >> 20) % 20 + 1) * PAGE_BYTES / 8;
		memory_map_lock(guests->mem);
		assert_int_equal(
			gup(guests->mem, gfn_to_gpa(GFN(page)), words * 8, GUP_WRITE, NULL, &span),
			0);
		memory_map_unlock(guests->mem);
		for (i = 0; i < words; i++)
			((uint64_t *)(void *)span.hva)[i] =
				guests->shadow[page * PAGE_BYTES / 8 + i] = seed + i;
		gup_put(guests->mem, &span);
		atomic_fetch_add(&device->writes, 1);
		pthread_mutex_unlock(&device->lock);
	}
	return NULL;
}

static void test_what_devices_write_takes_part(void **unused)
{
	struct memory *mem = memory_for_test(16, 0, false, NULL);
	struct memory_snapshot_stats stats;
	struct memory_snapshot *snapshot;
	struct memory_stats all;
	struct device device = { .lock = PTHREAD_MUTEX_INITIALIZER };
	struct saver saver;
	struct guests guests;
	struct err err;
	uint64_t *want, before;

	(void)unused;
	guests_start(&guests, mem, 1, 0, 8 * MIB_PAGES);
	device.guests = &guests;
	assert_int_equal(pthread_create(&device.thread, NULL, device_main, &device), 0);
	guests_go(&guests);
	wait_until(atomic_load(&device.writes) > 1000);
	assert_int_equal(memory_snapshot_new(&snapshot, mem, NULL, &err), 0);
	if (memory_snapshot_prepare(snapshot, &err) < 0)
		fail_msg("%s", err.text);
	guests_park(&guests);
	pthread_mutex_lock(&device.lock);
	want = guests_copy(&guests);
	assert_int_equal(memory_snapshot_begin(snapshot, &err), 0);
	pthread_mutex_unlock(&device.lock);
	guests_go(&guests);
	before = atomic_load(&device.writes);
	wait_until(atomic_load(&device.writes) > before + 100);
	saver_init(&saver, snapshot, want, guests.pages);
	saver_run(&saver);
	saver_check(&saver);
	memory_snapshot_stats(snapshot, &stats);
	assert_true(stats.copied > 0);
	memory_snapshot_end(snapshot, true);
	atomic_store(&device.end, true);
	pthread_join(device.thread, NULL);
	/* No thread but the guests has met a protected page. */
	memory_stats(mem, &all);
	assert_int_equal(all.direct_accesses, 0);
	guests_stop(&guests);
	saver_fini(&saver);
	free(want);
	memory_free(mem);
}

/*
 * What a device holds over the moment is copied then: the kernel would not
 * notice what goes into a page that is pinned.
 */
static void test_what_is_held_over_the_moment_is_copied_by_hand(void **unused)
{
	struct memory *mem = memory_for_test(4, 0, false, NULL);
	struct memory_snapshot_stats stats;
	struct memory_snapshot *snapshot;
	struct gup_span before, during;
	struct guests guests;
	struct saver saver;
	struct memory_stats all;
	struct err err;
	uint64_t *want;

	(void)unused;
	guests_start(&guests, mem, 1, 0, MIB_PAGES);
	guests_write(&guests, 40, 0, 1);
	guests_write(&guests, 600, 0, 2);
	assert_int_equal(gup(mem, GPA(40 * PAGE_BYTES), 8, GUP_WRITE, NULL, &before), 0);
	assert_int_equal(memory_snapshot_new(&snapshot, mem, NULL, &err), 0);
	if (memory_snapshot_prepare(snapshot, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(gup(mem, GPA(600 * PAGE_BYTES), 8, GUP_WRITE, NULL, &during), 0);
	want = guests_copy(&guests);
	assert_int_equal(memory_snapshot_begin(snapshot, &err), 0);
	memory_snapshot_stats(snapshot, &stats);
	assert_int_equal(stats.copied, 2);
	*(uint64_t *)(void *)before.hva = 77;
	*(uint64_t *)(void *)during.hva = 78;
	memory_stats(mem, &all);
	assert_int_equal(all.direct_accesses, 0);
	saver_init(&saver, snapshot, want, guests.pages);
	saver_run(&saver);
	saver_check(&saver);
	gup_put(mem, &before);
	gup_put(mem, &during);
	memory_snapshot_end(snapshot, true);
	guests_stop(&guests);
	saver_fini(&saver);
	free(want);
	memory_free(mem);
}

/* ---- the balloon ---- */

static void test_what_is_given_up_is_handed_out(void **unused)
{
	struct memory *mem = memory_for_test(8, 0, false, NULL);
	struct memory_snapshot *snapshot;
	struct guests guests;
	struct saver saver;
	uint64_t *want, i, now = 1;

	(void)unused;
	guests_start(&guests, mem, 1, 0, MIB_PAGES);
	for (i = 0; i < guests.pages; i++)
		guests_write(&guests, i, 3, i + 1);
	snapshot = snapshot_at_once(&guests, NULL, &want);
	assert_int_equal(memory_discard(mem, GFN(100), 1000), 1000);
	/* They read as zeros at once, and can be written. */
	assert_int_equal(gup_read(mem, GPA(500 * PAGE_BYTES + 24), &now, 8, 0, NULL), 0);
	assert_int_equal(now, 0);
	guests_write(&guests, 700, 3, 5);
	saver_init(&saver, snapshot, want, guests.pages);
	saver_run(&saver);
	saver_check(&saver);
	assert_int_equal(saver_count(&saver, 'h'), guests.pages);
	memory_snapshot_end(snapshot, true);
	guests_stop(&guests);
	saver_fini(&saver);
	free(want);
	memory_free(mem);
}

/* ---- without ---- */

static void test_a_paused_snapshot_needs_nothing_of_the_kernel(void **unused)
{
	const struct memory_snapshot_config config = { .paused = true };
	struct memory *mem = memory_for_test(8, 0, false, NULL);
	struct memory_snapshot *snapshot;
	struct guests guests;
	struct saver saver;
	uint64_t *want, i;

	(void)unused;
	guests_start(&guests, mem, 1, 0, 4 * MIB_PAGES);
	for (i = 0; i < HUGE_PAGES; i++)
		guests_write(&guests, i, 3, i + 1);
	snapshot = snapshot_at_once(&guests, &config, &want);
	assert_int_equal(mem->uffd, -1);
	saver_init(&saver, snapshot, want, guests.pages);
	saver_run(&saver);
	saver_check(&saver);
	assert_int_equal(saver_count(&saver, 'z'), guests.pages - HUGE_PAGES);
	memory_snapshot_end(snapshot, true);
	guests_stop(&guests);
	saver_fini(&saver);
	free(want);
	memory_free(mem);
}

static void test_there_is_one_at_a_time(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, false, NULL);
	struct memory_snapshot *one, *other;
	struct err err;

	(void)unused;
	assert_int_equal(memory_snapshot_new(&one, mem, NULL, &err), 0);
	assert_int_equal(memory_snapshot_new(&other, mem, NULL, &err), -EBUSY);
	memory_snapshot_end(one, false);
	memory_snapshot_end(NULL, false);
	assert_int_equal(memory_snapshot_new(&other, mem, NULL, &err), 0);
	memory_snapshot_end(other, false);
	memory_free(mem);
}

/* Whatever has been done so far: the guest goes on, and the next one is whole. */
static void test_it_can_end_at_any_time(void **unused)
{
	struct memory *mem = memory_for_test(8, 0, false, NULL);
	struct memory_snapshot *snapshot;
	struct memory_span span;
	struct guests guests;
	struct err err;
	uint8_t *data = malloc(MEMORY_SPAN_BYTES);
	uint64_t at, *want = NULL;
	unsigned int step;

	(void)unused;
	guests_start(&guests, mem, 2, 0, 8 * MIB_PAGES);
	guests_go(&guests);
	for (step = 0; step < 4; step++) {
		if (step < 2) {
			assert_int_equal(memory_snapshot_new(&snapshot, mem, NULL, &err), 0);
			if (step)
				memory_snapshot_cancel(snapshot);
			assert_int_equal(memory_snapshot_prepare(snapshot, &err),
					 step ? -ECANCELED : 0);
		} else {
			snapshot = snapshot_at_once(&guests, NULL, &want);
			guests_go(&guests);
			assert_int_equal(memory_snapshot_next(snapshot, &span, data), 1);
			if (step == 3)
				memory_snapshot_cancel(snapshot);
			assert_int_equal(memory_snapshot_next(snapshot, &span, data),
					 step == 3 ? -ECANCELED : 1);
			free(want);
		}
		memory_snapshot_end(snapshot, false);
		at = guests_writes(&guests);
		wait_until(guests_writes(&guests) > at + 1000);
	}
	guests_stop(&guests);
	free(data);
	memory_free(mem);
	snapshot_of_writers(8, 8 * MIB_PAGES, 1, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_spans_come_once_as_they_were),
		cmocka_unit_test(test_two_savers_share_the_spans),
		cmocka_unit_test(test_a_small_buffer_holds_writers_up),
		cmocka_unit_test(test_untouched_memory_is_zero),
		cmocka_unit_test(test_what_devices_write_takes_part),
		cmocka_unit_test(test_what_is_held_over_the_moment_is_copied_by_hand),
		cmocka_unit_test(test_what_is_given_up_is_handed_out),
		cmocka_unit_test(test_a_paused_snapshot_needs_nothing_of_the_kernel),
		cmocka_unit_test(test_there_is_one_at_a_time),
		cmocka_unit_test(test_it_can_end_at_any_time),
	};

	return cmocka_run_group_tests_name("snapshot", tests, NULL, NULL);
}
