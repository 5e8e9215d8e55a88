// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Snapshots one after the other: what has been written since the last one that
// was saved, and that nothing written is ever called the same.
#include "guest.h"

#include <stdlib.h>
#include <string.h>

#include "memory/internal.h"

#define MIB_PAGES 256u

static const struct memory_snapshot_config track = { .track = true };

struct chain {
	struct memory *mem;
	struct guests guests;
	uint64_t *saved; /* what the last snapshot that was saved has */
};

static void chain_init(struct chain *chain, unsigned int n_guests)
{
	uint64_t i;

	chain->mem = memory_for_test(16, 0, false, NULL);
	guests_start(&chain->guests, chain->mem, n_guests, 0, 4 * MIB_PAGES);
	for (i = 0; i < 12 * MIB_PAGES; i++)
		guests_write(&chain->guests, i, 0, i + 1);
	chain->saved = calloc(chain->guests.pages, PAGE_BYTES);
}

static void chain_fini(struct chain *chain)
{
	struct memory_stats stats;

	memory_stats(chain->mem, &stats);
	assert_int_equal(stats.direct_accesses, 0);
	guests_stop(&chain->guests);
	free(chain->saved);
	memory_free(chain->mem);
}

/* A page that is the same is the last one's. */
static void same_is_same(const struct chain *chain, const struct saver *saver, const uint64_t *want)
{
	uint64_t i;

	for (i = 0; i < chain->guests.pages; i++)
		if (saver->seen[i] == 's')
			assert_memory_equal(chain->saved + i * PAGE_BYTES / 8,
					    want + i * PAGE_BYTES / 8, PAGE_BYTES);
}

/*
 * Saves, or lets it fail half-way; returns how many pages were the same. The
 * guests run meanwhile, and afterwards if they did.
 */
static uint64_t chain_save_as(struct chain *chain, const struct memory_snapshot_config *config,
			      bool runs, bool saved)
{
	struct memory_snapshot *snapshot;
	struct memory_span span;
	uint64_t *want, same = 0;
	struct saver saver;
	uint8_t *data = malloc(MEMORY_SPAN_BYTES);

	snapshot = snapshot_at_once(&chain->guests, config, &want);
	if (runs)
		guests_go(&chain->guests);
	if (saved) {
		saver_init(&saver, snapshot, want, chain->guests.pages);
		saver_run(&saver);
		saver_check(&saver);
		same_is_same(chain, &saver, want);
		same = saver_count(&saver, 's');
		saver_fini(&saver);
	} else {
		assert_int_equal(memory_snapshot_next(snapshot, &span, data), 1);
	}
	memory_snapshot_end(snapshot, saved);
	if (saved)
		memcpy(chain->saved, want, chain->guests.pages * PAGE_BYTES);
	free(want);
	free(data);
	return same;
}

static uint64_t chain_save(struct chain *chain, bool runs, bool saved)
{
	return chain_save_as(chain, &track, runs, saved);
}

static void chain_write(struct chain *chain, uint64_t page, uint64_t value)
{
	uint64_t at = page * PAGE_BYTES / 8;

	assert_int_equal(gup_write(chain->mem, gfn_to_gpa(GFN(page)), &value, 8, GUP_NOWAIT, NULL),
			 0);
	chain->guests.shadow[at] = value;
}

static void test_what_is_not_written_is_the_same(void **unused)
{
	struct chain chain;

	(void)unused;
	chain_init(&chain, 1);
	assert_int_equal(chain_save(&chain, false, true), 0);
	assert_int_equal(chain_save(&chain, false, true), chain.guests.pages);
	/* A device's write is one, one of what was never touched too. */
	chain_write(&chain, 1000, 1);
	chain_write(&chain, 14 * MIB_PAGES, 2);
	assert_true(chain_save(&chain, false, true) >= chain.guests.pages - 2 * HUGE_PAGES);
	assert_int_equal(chain_save(&chain, false, true), chain.guests.pages);
	chain_fini(&chain);
}

static void test_guests_write_all_the_time(void **unused)
{
	struct chain chain;
	uint64_t at, same;
	unsigned int i;

	(void)unused;
	chain_init(&chain, 2);
	guests_go(&chain.guests);
	assert_int_equal(chain_save(&chain, true, true), 0);
	for (i = 0; i < 5; i++) {
		at = guests_writes(&chain.guests);
		wait_until(guests_writes(&chain.guests) > at + 5000);
		same = chain_save(&chain, true, true);
		assert_true(same >= 8 * MIB_PAGES && same < chain.guests.pages);
	}
	chain_fini(&chain);
}

/*
 * What a snapshot that failed would have had as written is so for the next one.
 */
static void test_one_that_fails_forgets_nothing(void **unused)
{
	struct chain chain;

	(void)unused;
	chain_init(&chain, 1);
	chain_save(&chain, false, true);
	chain_write(&chain, 100, 1);
	chain_save(&chain, false, false);
	chain_write(&chain, 3000, 2);
	assert_true(chain_save(&chain, false, true) <= chain.guests.pages - 2 * MEMORY_SPAN_PAGES);
	assert_int_equal(chain_save(&chain, false, true), chain.guests.pages);
	chain_fini(&chain);
}

/* What is given up is written. */
static void test_what_is_given_up_is_not_the_same(void **unused)
{
	struct chain chain;
	uint64_t i;

	(void)unused;
	chain_init(&chain, 1);
	chain_save(&chain, false, true);
	assert_int_equal(memory_discard(chain.mem, GFN(1000), 100), 100);
	for (i = 1000; i < 1100; i++)
		chain.guests.shadow[i * PAGE_BYTES / 8] = 0;
	assert_true(chain_save(&chain, false, true) <= chain.guests.pages - 100);
	chain_fini(&chain);
}

/* A write that is under way at the moment is one of before, and of after. */
static void test_what_is_held_over_the_moment_is_written_twice(void **unused)
{
	struct gup_span span;
	struct chain chain;

	(void)unused;
	chain_init(&chain, 1);
	chain_save(&chain, false, true);
	assert_int_equal(gup(chain.mem, GPA(1000 * PAGE_BYTES), 8, GUP_WRITE, NULL, &span), 0);
	assert_true(chain_save(&chain, false, true) < chain.guests.pages);
	*(uint64_t *)(void *)span.hva = chain.guests.shadow[1000 * PAGE_BYTES / 8] = 42;
	gup_put(chain.mem, &span);
	assert_true(chain_save(&chain, false, true) < chain.guests.pages);
	assert_int_equal(chain_save(&chain, false, true), chain.guests.pages);
	chain_fini(&chain);
}

/*
 * Late memory: what comes after the moment is not the same, whoever writes it
 * then.
 */
static void test_what_has_come_since_is_not_the_same(void **unused)
{
	struct chain chain = { .mem = memory_for_test(8, 0, true, NULL) };
	uint64_t i, same;
	uint8_t page[PAGE_BYTES];

	(void)unused;
	assert_int_equal(memory_fill(chain.mem, GFN(0), 4 * MIB_PAGES, NULL), 4 * MIB_PAGES);
	guests_start(&chain.guests, chain.mem, 1, 0, 2 * MIB_PAGES);
	chain.saved = calloc(chain.guests.pages, PAGE_BYTES);
	chain_save(&chain, false, true);
	for (i = 4 * MIB_PAGES; i < 6 * MIB_PAGES; i++) {
		page_pattern(page, GFN(i));
		assert_int_equal(memory_fill(chain.mem, GFN(i), 1, page), 1);
		memcpy(chain.guests.shadow + i * PAGE_BYTES / 8, page, PAGE_BYTES);
	}
	same = chain_save(&chain, false, true);
	assert_int_equal(same, 6 * MIB_PAGES);
	guests_write(&chain.guests, 5 * MIB_PAGES, 0, 3);
	assert_true(chain_save(&chain, false, true) < chain.guests.pages);
	assert_int_equal(memory_fill(chain.mem, GFN(6 * MIB_PAGES), 2 * MIB_PAGES, NULL),
			 2 * MIB_PAGES);
	assert_false(memory_is_late(chain.mem));
	assert_int_equal(chain_save(&chain, false, true), 6 * MIB_PAGES);
	assert_int_equal(chain_save(&chain, false, true), chain.guests.pages);
	guests_stop(&chain.guests);
	free(chain.saved);
	memory_free(chain.mem);
}

/*
 * One that goes elsewhere gets all of it, and is what the next one is compared with; if it fails,
 * that is the one before still.
 */
static void test_all_of_it_can_be_had(void **unused)
{
	static const struct memory_snapshot_config all = { .track = true, .all = true };
	struct chain chain;

	(void)unused;
	chain_init(&chain, 1);
	assert_false(memory_snapshot_is_tracked(chain.mem));
	chain_save(&chain, false, true);
	assert_true(memory_snapshot_is_tracked(chain.mem));
	chain_write(&chain, 1000, 1);
	assert_int_equal(chain_save_as(&chain, &all, true, true), 0);
	guests_park(&chain.guests);
	assert_true(memory_snapshot_is_tracked(chain.mem));
	chain_save(&chain, false, true);
	assert_int_equal(chain_save(&chain, false, true), chain.guests.pages);
	chain_write(&chain, 1000, 2);
	assert_int_equal(chain_save_as(&chain, &all, false, false), 0);
	assert_true(memory_snapshot_is_tracked(chain.mem));
	assert_int_equal(chain_save(&chain, false, true), chain.guests.pages - MEMORY_SPAN_PAGES);
	chain_fini(&chain);
}

/* Tracking ends with a snapshot that does not ask for it. */
static void test_tracking_ends(void **unused)
{
	struct memory_snapshot *snapshot;
	struct chain chain;
	uint64_t *want;

	(void)unused;
	chain_init(&chain, 1);
	chain_save(&chain, false, true);
	assert_int_equal(atomic_load(&chain.mem->spans.phase), SPANS_TRACK);
	snapshot = snapshot_at_once(&chain.guests, NULL, &want);
	memory_snapshot_end(snapshot, false);
	free(want);
	assert_int_equal(atomic_load(&chain.mem->spans.phase), SPANS_OFF);
	assert_false(atomic_load(&chain.mem->spans.watching));
	assert_int_equal(chain_save(&chain, false, true), 0);
	chain_fini(&chain);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_is_not_written_is_the_same),
		cmocka_unit_test(test_guests_write_all_the_time),
		cmocka_unit_test(test_one_that_fails_forgets_nothing),
		cmocka_unit_test(test_what_is_given_up_is_not_the_same),
		cmocka_unit_test(test_what_is_held_over_the_moment_is_written_twice),
		cmocka_unit_test(test_what_has_come_since_is_not_the_same),
		cmocka_unit_test(test_all_of_it_can_be_had),
		cmocka_unit_test(test_tracking_ends),
	};

	return cmocka_run_group_tests_name("snapshot_track", tests, NULL, NULL);
}
