// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// A snapshot whose buffer is full, because its store is slow or away: who writes
// is held up where he can be reached, and goes on when there is room.
#include "guest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "memory/internal.h"

#define MIB_PAGES 256u
/* The least: 16 copies. */
static const struct memory_snapshot_config small = { .buffer_bytes = 1 };

struct full {
	struct memory *mem;
	struct memory_snapshot *snapshot;
	struct guests guests;
	uint64_t *want;
};

static bool is_throttled(struct full *full, unsigned int guest)
{
	struct memory_thread *waits = full->guests.guest[guest].waits;
	bool throttled;

	pthread_mutex_lock(&full->mem->wait_lock);
	throttled = waits->throttled;
	pthread_mutex_unlock(&full->mem->wait_lock);
	return throttled;
}

/* Nobody takes anything: in the end all guests are held back. */
static void full_init(struct full *full, unsigned int guests)
{
	unsigned int i;

	full->mem = memory_for_test(32, 0, false, NULL);
	guests_start(&full->guests, full->mem, guests, 0, 24 * MIB_PAGES);
	guests_go(&full->guests);
	wait_until(guests_writes(&full->guests) > 50000);
	full->snapshot = snapshot_at_once(&full->guests, &small, &full->want);
	guests_go(&full->guests);
	for (i = 0; i < guests; i++)
		wait_until(is_throttled(full, i));
	assert_true(memory_snapshot_is_pressed(full->snapshot));
}

/* All is handed out, right and whole, after whatever the test did. */
static void full_drain(struct full *full)
{
	struct memory_snapshot_stats stats;
	struct memory_stats all;
	struct saver saver;

	saver_init(&saver, full->snapshot, full->want, full->guests.pages);
	saver_run(&saver);
	saver_check(&saver);
	assert_false(memory_snapshot_is_pressed(full->snapshot));
	memory_snapshot_stats(full->snapshot, &stats);
	assert_true(stats.throttled > 0 && stats.throttled_ns > 0);
	/* The reserve is not used but by those who come out. */
	assert_true(stats.buffered_max < 16 + 16);
	memory_snapshot_end(full->snapshot, true);
	memory_stats(full->mem, &all);
	assert_int_equal(all.direct_accesses, 0);
	saver_fini(&saver);
}

static void full_fini(struct full *full)
{
	guests_stop(&full->guests);
	free(full->want);
	memory_free(full->mem);
}

/* `stop` while the store is away. */
static void test_who_is_held_up_comes_out_by_a_kick(void **unused)
{
	struct full full;
	int64_t start, longest = 0, took;
	unsigned int i;

	(void)unused;
	full_init(&full, 2);
	for (i = 0; i < 20; i++) {
		start = clock_now_ns();
		guests_park(&full.guests);
		took = clock_now_ns() - start;
		longest = took > longest ? took : longest;
		guests_go(&full.guests);
		wait_until(is_throttled(&full, 0) && is_throttled(&full, 1));
	}
	print_message("20 stops while the buffer was full: the longest took %ld us\n",
		      (long)(longest / NS_PER_US));
	assert_true(longest < NS_PER_SEC);
	full_drain(&full);
	full_fini(&full);
}

/* And a debugger's, signals: it sleeps in user space. */
static void test_who_is_held_up_sleeps_outside_the_guest(void **unused)
{
	struct full full;
	unsigned int i;

	(void)unused;
	full_init(&full, 2);
	for (i = 0; i < 2; i++) {
		assert_false(atomic_load(&full.guests.guest[i].waits->in_run));
		wait_until(thread_sleeps(atomic_load(&full.guests.guest[i].waits->tid)));
	}
	full_drain(&full);
	full_fini(&full);
}

static void test_writers_go_on_as_copies_are_taken(void **unused)
{
	uint8_t *data = malloc(MEMORY_SPAN_BYTES);
	struct memory_span span;
	struct full full;
	uint64_t at;

	(void)unused;
	full_init(&full, 1);
	at = guests_writes(&full.guests);
	/* Into a sink that is not looked at: so this one ends without a check. */
	assert_int_equal(memory_snapshot_next(full.snapshot, &span, data), 1);
	assert_int_equal(span.here, 0xffff);
	while (guests_writes(&full.guests) == at &&
	       memory_snapshot_next(full.snapshot, &span, data) > 0)
		;
	wait_until(guests_writes(&full.guests) > at);
	memory_snapshot_end(full.snapshot, false);
	at = guests_writes(&full.guests);
	wait_until(guests_writes(&full.guests) > at + 10000);
	full_fini(&full);
	free(data);
}

/* The end lets all go that are held up. */
static void test_the_end_frees_writers(void **unused)
{
	struct full full;
	uint64_t at;

	(void)unused;
	full_init(&full, 2);
	memory_snapshot_cancel(full.snapshot);
	memory_snapshot_end(full.snapshot, false);
	at = guests_writes(&full.guests);
	wait_until(guests_writes(&full.guests) > at + 10000);
	full_fini(&full);
}

/* ---- gup ---- */

static _Atomic int fired;

static void on_fire(struct gup_ticket *ticket)
{
	(void)ticket;
	atomic_fetch_add(&fired, 1);
}

/* With a page that holds something, and that no guest writes. */
static void full_with_a_page(struct full *full, gpa_t *gpa)
{
	full->mem = memory_for_test(32, 0, false, NULL);
	guests_start(&full->guests, full->mem, 1, 0, 24 * MIB_PAGES);
	guests_write(&full->guests, 24 * MIB_PAGES, 0, 1);
	guests_go(&full->guests);
	wait_until(guests_writes(&full->guests) > 50000);
	full->snapshot = snapshot_at_once(&full->guests, &small, &full->want);
	guests_go(&full->guests);
	wait_until(is_throttled(full, 0));
	*gpa = GPA(24 * MIB_PAGES * PAGE_BYTES);
}

static void test_a_device_is_told_when_there_is_room(void **unused)
{
	struct gup_ticket ticket = { .fire = on_fire }, gone = { .fire = on_fire };
	const struct gup_opts opts = { .ticket = &ticket }, other = { .ticket = &gone };
	uint8_t *data = malloc(MEMORY_SPAN_BYTES);
	struct memory_span span;
	struct gup_span held;
	struct full full;
	gpa_t gpa;

	(void)unused;
	full_with_a_page(&full, &gpa);
	atomic_store(&fired, 0);
	memory_map_lock(full.mem);
	/* To read is no trouble. */
	assert_int_equal(gup(full.mem, gpa, 8, GUP_NOWAIT, NULL, &held), 0);
	gup_put(full.mem, &held);
	assert_int_equal(gup(full.mem, gpa, 8, GUP_WRITE | GUP_NOWAIT, &opts, &held), -EAGAIN);
	assert_int_equal(gup(full.mem, gpa, 8, GUP_WRITE | GUP_NOWAIT, &other, &held), -EAGAIN);
	memory_map_unlock(full.mem);
	assert_true(ticket.armed && gone.armed);
	assert_true(gup_ticket_cancel(full.mem, &gone));
	assert_int_equal(atomic_load(&fired), 0);
	/* What is held back is woken with it. */
	while (!atomic_load(&fired))
		assert_int_equal(memory_snapshot_next(full.snapshot, &span, data), 1);
	assert_int_equal(atomic_load(&fired), 1);
	memory_snapshot_cancel(full.snapshot);
	memory_snapshot_end(full.snapshot, false);
	assert_int_equal(gup_write(full.mem, gpa, "now", 3, GUP_NOWAIT, NULL), 0);
	full_fini(&full);
	free(data);
}

struct sleeper {
	struct full *full;
	struct memory_thread *waits;
	gpa_t gpa;
	int64_t deadline_ns;
	pthread_t thread;
	_Atomic int result;
};

static void *sleeper_main(void *arg)
{
	struct sleeper *sleeper = arg;
	struct gup_opts opts = { .self = sleeper->waits, .deadline_ns = sleeper->deadline_ns };

	memory_thread_bind(sleeper->waits);
	atomic_store(&sleeper->result, gup_write(sleeper->full->mem, sleeper->gpa, "written", 7,
						 GUP_INTERRUPTIBLE, &opts));
	memory_thread_unbind(sleeper->waits);
	return NULL;
}

static void sleeper_start(struct sleeper *sleeper, struct full *full, gpa_t gpa,
			  int64_t deadline_ns)
{
	*sleeper = (struct sleeper){
		.full = full,
		.gpa = gpa,
		.deadline_ns = deadline_ns,
		.result = 1,
		.waits = memory_thread_new(full->mem, "sleeper", -1),
	};
	assert_int_equal(pthread_create(&sleeper->thread, NULL, sleeper_main, sleeper), 0);
}

static int sleeper_end(struct sleeper *sleeper)
{
	pthread_join(sleeper->thread, NULL);
	memory_thread_free(sleeper->waits);
	return atomic_load(&sleeper->result);
}

static bool gup_sleeps(struct memory *mem)
{
	bool sleeps;

	pthread_mutex_lock(&mem->wait_lock);
	sleeps = mem->gup_waits;
	pthread_mutex_unlock(&mem->wait_lock);
	return sleeps;
}

static void test_a_sleeper_in_gup_has_its_ways_out(void **unused)
{
	struct sleeper sleeper;
	struct full full;
	gpa_t gpa;

	(void)unused;
	full_with_a_page(&full, &gpa);
	/* A kick, */
	sleeper_start(&sleeper, &full, gpa, 0);
	wait_until(gup_sleeps(full.mem));
	memory_thread_kick(sleeper.waits);
	assert_int_equal(sleeper_end(&sleeper), -EINTR);
	/* a deadline, */
	sleeper_start(&sleeper, &full, gpa, clock_now_ns() + 5 * NS_PER_MS);
	assert_int_equal(sleeper_end(&sleeper), -ETIMEDOUT);
	/* and room. */
	sleeper_start(&sleeper, &full, gpa, 0);
	wait_until(gup_sleeps(full.mem));
	full_drain(&full);
	assert_int_equal(sleeper_end(&sleeper), 0);
	full_fini(&full);
}

static void test_what_cannot_be_copied_is_not_given_up(void **unused)
{
	struct memory_snapshot_stats stats;
	struct full full;
	gpa_t gpa;

	(void)unused;
	full_with_a_page(&full, &gpa);
	memory_snapshot_stats(full.snapshot, &stats);
	assert_true(stats.buffered >= 16);
	assert_int_equal(memory_discard(full.mem, gpa_to_gfn(gpa), 1), 0);
	full_drain(&full);
	assert_int_equal(memory_discard(full.mem, gpa_to_gfn(gpa), 1), 1);
	full_fini(&full);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_who_is_held_up_comes_out_by_a_kick),
		cmocka_unit_test(test_who_is_held_up_sleeps_outside_the_guest),
		cmocka_unit_test(test_writers_go_on_as_copies_are_taken),
		cmocka_unit_test(test_the_end_frees_writers),
		cmocka_unit_test(test_a_device_is_told_when_there_is_room),
		cmocka_unit_test(test_a_sleeper_in_gup_has_its_ways_out),
		cmocka_unit_test(test_what_cannot_be_copied_is_not_given_up),
	};

	return cmocka_run_group_tests_name("snapshot_room", tests, NULL, NULL);
}
