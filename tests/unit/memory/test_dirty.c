// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "fixture.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "memory/internal.h"

#define PAGES 512

/* Harvests all of the first region; tells which pages there were. */
static int64_t harvest(struct memory *mem, uint8_t bits[PAGES / 8])
{
	memset(bits, 0, PAGES / 8);
	return memory_harvest_dirty(mem, GFN(0), PAGES, bits);
}

static bool has(const uint8_t *bits, uint64_t page)
{
	return bits[page / 8] >> (page % 8) & 1;
}

static void write_at(struct memory *mem, uint64_t page)
{
	assert_int_equal(gup_write(mem, gfn_to_gpa(GFN(page)), "written", 8, GUP_NOWAIT, NULL), 0);
}

static void test_what_was_written_is_told_once(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, false, NULL);
	uint8_t bits[PAGES / 8], byte;

	(void)unused;
	assert_int_equal(harvest(mem, bits), 0);
	write_at(mem, 3);
	write_at(mem, 3);
	write_at(mem, 64);
	write_at(mem, 511);
	/* Over a page's end: both. */
	assert_int_equal(gup_write(mem, GPA(101 * PAGE_BYTES - 4), "12345678", 8, GUP_NOWAIT, NULL),
			 0);
	assert_int_equal(gup_read(mem, GPA(200 * PAGE_BYTES), &byte, 1, GUP_NOWAIT, NULL), 0);
	assert_int_equal(harvest(mem, bits), 5);
	assert_true(has(bits, 3) && has(bits, 64) && has(bits, 100) && has(bits, 101) &&
		    has(bits, 511));
	assert_int_equal(harvest(mem, bits), 0);
	write_at(mem, 64);
	assert_int_equal(harvest(mem, bits), 1);
	assert_true(has(bits, 64));
	memory_free(mem);
}

static void test_parts_are_harvested_and_other_bits_stay(void **unused)
{
	struct memory *mem = memory_for_test(2, 2, false, NULL);
	const uint64_t high = UINT64_C(1) << 20;
	uint8_t bits[3] = { 0x01, 0x00, 0xf0 };

	(void)unused;
	write_at(mem, 9);
	write_at(mem, 10);
	write_at(mem, 25);
	write_at(mem, high + 7);
	/* Pages 10 to 26, none of their bits at a byte's boundary. */
	assert_int_equal(memory_harvest_dirty(mem, GFN(10), 17, bits), 2);
	assert_int_equal(bits[0], 0x01);
	assert_int_equal(bits[1], 0x80);
	assert_int_equal(bits[2], 0xf0);
	assert_int_equal(memory_harvest_dirty(mem, GFN(9), 1, bits), 1);
	assert_int_equal(memory_harvest_dirty(mem, GFN(high), 8, bits), 1);
	assert_int_equal(bits[0], 0x81);
	assert_int_equal(memory_harvest_dirty(mem, GFN(511), 2, bits), -EFAULT);
	assert_int_equal(memory_harvest_dirty(mem, GFN(0), 0, bits), -EFAULT);
	assert_int_equal(memory_harvest_dirty(mem, GFN(UINT64_MAX), 2, bits), -EFAULT);
	memory_free(mem);
}

static void test_what_a_source_brings_is_not_written(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	uint8_t bits[PAGES / 8], page[PAGE_BYTES];

	(void)unused;
	page_pattern(page, GFN(7));
	assert_int_equal(memory_fill(mem, GFN(7), 1, page), 1);
	assert_int_equal(memory_fill(mem, GFN(8), 8, NULL), 8);
	/* Nor is what could not be written: it is not there. */
	assert_int_equal(gup_write(mem, gfn_to_gpa(GFN(20)), "12345678", 8, GUP_NOWAIT, NULL),
			 -EAGAIN);
	assert_int_equal(harvest(mem, bits), 0);
	write_at(mem, 7);
	assert_int_equal(harvest(mem, bits), 1);
	memory_free(mem);
}

static void test_what_is_given_up_is_told(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, false, NULL);
	uint8_t bits[PAGES / 8];

	(void)unused;
	assert_int_equal(memory_discard(mem, GFN(30), 3), 3);
	assert_int_equal(harvest(mem, bits), 3);
	assert_true(has(bits, 30) && has(bits, 31) && has(bits, 32));
	memory_free(mem);
}

/* Its mark outlasts the moment in which nobody may touch it. */
static void test_an_ejected_page_is_told(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, false, NULL);
	uint8_t bits[PAGES / 8];

	(void)unused;
	write_at(mem, 5);
	write_at(mem, 6);
	mem->state[0][5] |= STATE_EJECTING;
	assert_int_equal(harvest(mem, bits), 2);
	assert_int_equal(mem->state[0][5], PAGE_PRESENT | STATE_EJECTING);
	state_end_eject(&mem->state[0][5]);
	assert_int_equal(harvest(mem, bits), 0);
	memory_free(mem);
}

/* A write that is under way when a harvest comes (io_uring, say) is the next one's. */
static void test_a_write_under_way_is_not_lost(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, false, NULL);
	struct gup_span span, copy;
	uint8_t bits[PAGES / 8];

	(void)unused;
	assert_int_equal(
		gup(mem, GPA(8 * PAGE_BYTES), 2 * PAGE_BYTES, GUP_WRITE | GUP_NOWAIT, NULL, &span),
		0);
	harvest(mem, bits);
	memcpy(span.hva, "late", 4);
	assert_int_equal(harvest(mem, bits), 0);
	memcpy(span.hva + PAGE_BYTES, "later", 5);
	/* Handed on, as whoever keeps a breakpoint does: still one span, put once. */
	copy = span;
	gup_put(mem, &copy);
	assert_int_equal(harvest(mem, bits), 2);
	assert_true(has(bits, 8) && has(bits, 9));
	assert_int_equal(harvest(mem, bits), 0);
	memory_free(mem);
}

static void test_who_reads_or_gets_nothing_marks_nothing(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	struct gup_span span;
	uint8_t bits[PAGES / 8];

	(void)unused;
	assert_int_equal(memory_fill(mem, GFN(0), 2, NULL), 2);
	assert_int_equal(gup(mem, GPA(0), 2 * PAGE_BYTES, GUP_NOWAIT, NULL, &span), 0);
	gup_put(mem, &span);
	/* The third page is missing: the first two were pinned for a moment, and not written. */
	assert_int_equal(gup(mem, GPA(0), 3 * PAGE_BYTES, GUP_WRITE | GUP_NOWAIT, NULL, &span),
			 -EAGAIN);
	assert_int_equal(harvest(mem, bits), 0);
	memory_free(mem);
}

/* Nobody knows any more how many hold such a page; each writer's put tells all the same. */
static void test_a_page_pinned_for_good_is_told_after_each_put(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, false, NULL);
	struct gup_span span[STATE_PIN_MAX + 2];
	uint8_t bits[PAGES / 8];
	unsigned int i;

	(void)unused;
	for (i = 0; i < STATE_PIN_MAX + 2; i++)
		assert_int_equal(
			gup(mem, GPA(PAGE_BYTES), 8, i < 2 ? GUP_WRITE : 0, NULL, &span[i]), 0);
	assert_int_equal(harvest(mem, bits), 0);
	for (i = STATE_PIN_MAX + 2; i-- > 0;) {
		gup_put(mem, &span[i]);
		assert_int_equal(harvest(mem, bits), i < 2);
	}
	memory_free(mem);
}

/* Writes, holds, writes again, puts; all over the first pages. */
#define RACE_PAGES 16
#define RACE_ROUNDS 30000

struct race {
	struct memory *mem;
	_Atomic bool done;
};

static void *race_writer(void *arg)
{
	struct race *race = arg;
	struct gup_span span;
	uint64_t i;

	for (i = 1; i <= RACE_ROUNDS; i++) {
		assert_int_equal(
			gup(race->mem, gfn_to_gpa(GFN(i % RACE_PAGES)), 8, GUP_WRITE, NULL, &span),
			0);
		__atomic_store_n((uint64_t *)(void *)span.hva, i, __ATOMIC_RELAXED);
		gup_put(race->mem, &span);
	}
	atomic_store(&race->done, true);
	return NULL;
}

/* What a copier does: harvest, then read what was told. At the end its copy is the memory. */
static void test_a_copy_made_while_others_write_is_whole(void **unused)
{
	struct race race = { .mem = memory_for_test(2, 0, false, NULL) };
	uint64_t copy[RACE_PAGES] = { 0 }, i, now;
	uint8_t bits[PAGES / 8];
	pthread_t thread;
	struct gup_span span;
	bool last;

	(void)unused;
	assert_int_equal(pthread_create(&thread, NULL, race_writer, &race), 0);
	do {
		last = atomic_load(&race.done);
		harvest(race.mem, bits);
		for (i = 0; i < RACE_PAGES; i++) {
			if (!has(bits, i))
				continue;
			assert_int_equal(gup(race.mem, gfn_to_gpa(GFN(i)), 8, 0, NULL, &span), 0);
			copy[i] = __atomic_load_n((uint64_t *)(void *)span.hva, __ATOMIC_RELAXED);
			gup_put(race.mem, &span);
		}
	} while (!last);
	pthread_join(thread, NULL);
	for (i = 0; i < RACE_PAGES; i++) {
		assert_int_equal(gup_read(race.mem, gfn_to_gpa(GFN(i)), &now, 8, 0, NULL), 0);
		assert_int_equal(copy[i], now);
	}
	memory_free(race.mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_was_written_is_told_once),
		cmocka_unit_test(test_parts_are_harvested_and_other_bits_stay),
		cmocka_unit_test(test_what_a_source_brings_is_not_written),
		cmocka_unit_test(test_what_is_given_up_is_told),
		cmocka_unit_test(test_an_ejected_page_is_told),
		cmocka_unit_test(test_a_write_under_way_is_not_lost),
		cmocka_unit_test(test_who_reads_or_gets_nothing_marks_nothing),
		cmocka_unit_test(test_a_page_pinned_for_good_is_told_after_each_put),
		cmocka_unit_test(test_a_copy_made_while_others_write_is_whole),
	};

	return cmocka_run_group_tests_name("dirty", tests, NULL, NULL);
}
