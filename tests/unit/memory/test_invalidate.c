// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "fixture.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "memory/internal.h"

static void assert_page(struct memory *mem, uint64_t gfn, uint64_t as)
{
	uint8_t page[PAGE_BYTES], want[PAGE_BYTES];

	page_pattern(want, GFN(as));
	assert_int_equal(read_page(mem, gfn, page), 0);
	assert_memory_equal(page, want, PAGE_BYTES);
}

static void assert_counts(struct memory *mem, uint64_t present, uint64_t requested)
{
	struct memory_stats stats;

	memory_stats(mem, &stats);
	assert_int_equal(stats.missing, stats.pages - present);
	assert_int_equal(stats.requested, requested);
	assert_int_equal(stats.filled, present);
}

/*
 * Pages are committed to the sink, as a source's bulk is; they wait there for
 * the rest of their huge page.
 */
static void commit(struct memory *mem, uint64_t first, uint64_t n, uint64_t as)
{
	struct page_sink *sink = memory_sink(mem);
	uint64_t i;
	void *room;

	assert_int_equal(sink->ops->room(sink, GFN(first), n, &room), n);
	for (i = 0; i < n; i++)
		page_pattern((uint8_t *)room + i * PAGE_BYTES, GFN(as + i));
	assert_true(sink->ops->commit(sink, GFN(first), n, room) >= 0);
}

/* ---- one at a time ---- */

static void test_the_next_copy_is_the_truth(void **unused)
{
	struct memory *mem = memory_for_test(6, 2, true, NULL);
	const uint64_t high = UINT64_C(1) << 20;

	(void)unused;
	fill_pages(mem, 500, 24, 500);
	fill_pages(mem, 1024, 512, 1024);
	fill_pages(mem, high, 2, 9);
	assert_counts(mem, 538, 0);
	/* The first copy wins while it is not invalidated. */
	assert_int_equal(memory_fill(mem, GFN(505), 1, NULL), 0);
	/* Over a huge page's boundary, within one, and what is missing already. */
	assert_int_equal(memory_invalidate(mem, GFN(505), 15), 15);
	assert_int_equal(memory_invalidate(mem, GFN(1030), 1), 1);
	assert_int_equal(memory_invalidate(mem, GFN(high), 512), 2);
	assert_int_equal(memory_invalidate(mem, GFN(505), 15), 0);
	assert_counts(mem, 520, 0);
	assert_int_equal(memory_page_state(mem, GFN(505)), PAGE_MISSING);
	fill_pages(mem, 505, 15, 7000);
	fill_pages(mem, 1030, 1, 8000);
	assert_page(mem, 504, 504);
	assert_page(mem, 505, 7000);
	assert_page(mem, 519, 7014);
	assert_page(mem, 520, 520);
	assert_page(mem, 1029, 1029);
	assert_page(mem, 1030, 8000);
	assert_page(mem, 1031, 1031);
	assert_true(memory_is_late(mem));
	memory_free(mem);
}

static void test_only_late_memory_is_invalidated(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, false, NULL);
	struct memory_stats stats;

	(void)unused;
	assert_int_equal(memory_invalidate(mem, GFN(0), 1), -EINVAL);
	memory_free(mem);
	mem = memory_for_test(2, 2, true, NULL);
	assert_int_equal(memory_invalidate(mem, GFN(511), 2), -EFAULT);
	assert_int_equal(memory_invalidate(mem, GFN(0), 0), -EFAULT);
	assert_int_equal(memory_invalidate(mem, GFN(UINT64_MAX), 2), -EFAULT);
	memory_free(mem);
	/* All has come: huge pages are collapsed, nothing is watched, and what there is stays. */
	mem = memory_for_test(2, 0, true, NULL);
	fill_pages(mem, 0, 512, 0);
	assert_false(memory_is_late(mem));
	assert_int_equal(memory_invalidate(mem, GFN(0), 512), -EINVAL);
	assert_page(mem, 3, 3);
	memory_stats(mem, &stats);
	assert_int_equal(stats.missing, 0);
	memory_free(mem);
}

static void test_a_page_that_somebody_holds_stays(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	struct gup_span span, many[STATE_PIN_MAX];
	unsigned int i;

	(void)unused;
	fill_pages(mem, 8, 8, 8);
	assert_int_equal(gup(mem, gfn_to_gpa(GFN(10)), PAGE_BYTES, GUP_NOWAIT, NULL, &span), 0);
	assert_int_equal(memory_invalidate(mem, GFN(8), 8), -EBUSY);
	/* The others are gone all the same. */
	assert_counts(mem, 1, 0);
	assert_page(mem, 10, 10);
	gup_put(mem, &span);
	assert_int_equal(memory_invalidate(mem, GFN(8), 8), 1);
	assert_counts(mem, 0, 0);
	/*
	 * Ejected from: KVM_RUN is on its way out with -EFAULT, and the page's
	 * protection is to come back.
	 */
	fill_pages(mem, 10, 1, 10);
	mem->state[0][10] |= STATE_EJECTING;
	assert_int_equal(memory_invalidate(mem, GFN(10), 1), -EBUSY);
	state_end_eject(&mem->state[0][10]);
	/* Pinned for good: never. */
	for (i = 0; i < STATE_PIN_MAX; i++)
		assert_int_equal(gup(mem, gfn_to_gpa(GFN(10)), 8, GUP_NOWAIT, NULL, &many[i]), 0);
	for (i = 0; i < STATE_PIN_MAX; i++)
		gup_put(mem, &many[i]);
	assert_int_equal(memory_invalidate(mem, GFN(10), 1), -EBUSY);
	assert_page(mem, 10, 10);
	memory_free(mem);
}

static void test_what_is_not_present_stays_as_it_is(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	uint8_t *host = mem->region[0].host, page[PAGE_BYTES];
	struct counting_source source;
	struct memory_stats stats;
	gfn_t gfn;

	(void)unused;
	counting_source_init(&source);
	memory_attach(mem, &source.source);
	assert_int_equal(read_page(mem, 1, page), -EAGAIN);
	assert_int_equal(memory_lose(mem, GFN(2)), 0);
	fill_pages(mem, 3, 2, 3);
	assert_int_equal(memory_poison(mem, host + 3 * PAGE_BYTES, &gfn), 1);
	assert_int_equal(memory_invalidate(mem, GFN(0), 8), 1);
	assert_int_equal(memory_page_state(mem, GFN(0)), PAGE_MISSING);
	assert_int_equal(memory_page_state(mem, GFN(1)), PAGE_REQUESTED);
	assert_int_equal(memory_page_state(mem, GFN(2)), PAGE_LOST);
	assert_int_equal(memory_page_state(mem, GFN(3)), PAGE_LOST);
	assert_int_equal(memory_page_state(mem, GFN(4)), PAGE_MISSING);
	memory_stats(mem, &stats);
	assert_int_equal(stats.missing, 512);
	assert_int_equal(stats.requested, 1);
	assert_int_equal(stats.lost, 2);
	/* Asked once, and its answer still counts. */
	assert_int_equal(atomic_load(&source.pages), 1);
	fill_pages(mem, 1, 1, 1);
	assert_page(mem, 1, 1);
	/* A page whose memory has failed is not filled any more. */
	assert_int_equal(memory_fill(mem, GFN(3), 1, NULL), 0);
	memory_detach(mem);
	memory_free(mem);
}

static void test_its_mark_goes_with_it(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	uint8_t bits = 0;

	(void)unused;
	fill_pages(mem, 0, 2, 0);
	assert_int_equal(gup_write(mem, GPA(0), "written", 8, GUP_NOWAIT, NULL), 0);
	assert_int_equal(gup_write(mem, GPA(PAGE_BYTES), "written", 8, GUP_NOWAIT, NULL), 0);
	assert_int_equal(memory_invalidate(mem, GFN(0), 1), 1);
	assert_int_equal(memory_harvest_dirty(mem, GFN(0), 8, &bits), 1);
	assert_int_equal(bits, 2);
	memory_free(mem);
}

/* The host does not let some of it go: these are as they were, no page is zeros. */
static void test_locked_memory_stays(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);

	(void)unused;
	fill_pages(mem, 8, 8, 8);
	if (mlock2(mem->region[0].host + 10 * PAGE_BYTES, 2 * PAGE_BYTES, MLOCK_ONFAULT) < 0)
		skip();
	assert_int_equal(memory_invalidate(mem, GFN(8), 8), -EPERM);
	assert_counts(mem, 2, 0);
	assert_page(mem, 10, 10);
	assert_page(mem, 11, 11);
	assert_int_equal(memory_page_state(mem, GFN(9)), PAGE_MISSING);
	fill_pages(mem, 8, 2, 70);
	assert_page(mem, 8, 70);
	memory_free(mem);
}

/* ---- the sink's staging ---- */

static void test_a_staged_copy_does_not_come_back(void **unused)
{
	struct memory *mem = memory_for_test(4, 0, true, NULL);

	(void)unused;
	memory_set_way_out(mem, WAY_OUT_KERNEL);
	/*
	 * All but the last come in bulk, page 7 has come by itself before; then
	 * a new copy of 6 to 8 is announced.
	 */
	fill_pages(mem, 7, 1, 7);
	commit(mem, 0, 511, 0);
	assert_true(memory_invalidate(mem, GFN(6), 3) >= 0);
	commit(mem, 511, 1, 511);
	memory_rooms_flush(mem);
	assert_counts(mem, 509, 0);
	assert_int_equal(memory_page_state(mem, GFN(6)), PAGE_MISSING);
	assert_int_equal(memory_page_state(mem, GFN(7)), PAGE_MISSING);
	assert_int_equal(memory_page_state(mem, GFN(8)), PAGE_MISSING);
	assert_page(mem, 5, 5);
	assert_page(mem, 9, 9);
	/* The new copy, in bulk as well. */
	commit(mem, 6, 3, 9000);
	memory_rooms_flush(mem);
	assert_page(mem, 6, 9000);
	assert_page(mem, 8, 9002);
	assert_page(mem, 511, 511);
	memory_free(mem);
}

static void test_a_new_copy_is_staged_beside_older_pages(void **unused)
{
	struct memory *mem = memory_for_test(4, 0, true, NULL);
	unsigned int i;

	(void)unused;
	commit(mem, 0, 100, 0);
	assert_true(memory_invalidate(mem, GFN(50), 1) >= 0);
	commit(mem, 50, 1, 9000);
	commit(mem, 100, 412, 100);
	memory_rooms_flush(mem);
	for (i = 0; i < 512; i++)
		assert_page(mem, i, i == 50 ? 9000 : i);
	memory_free(mem);
}

/* Its answer was staged and is forgotten: nobody would answer, were it not asked for again. */
static void test_who_waits_for_a_forgotten_page_has_it_asked_again(void **unused)
{
	struct memory *mem = memory_for_test(4, 0, true, NULL);
	struct counting_source source;
	struct page_sink *sink = memory_sink(mem);
	uint8_t page[PAGE_BYTES];
	struct gup_ticket ticket = { 0 };
	struct gup_opts opts = { .ticket = &ticket };
	void *room, *other;

	(void)unused;
	if (!mem->can_move) {
		/* This kernel places what was committed at once. */
		memory_free(mem);
		skip();
	}
	counting_source_init(&source);
	memory_attach(mem, &source.source);
	/* While another room of it is out, what was committed is held back for long. */
	assert_int_equal(sink->ops->room(sink, GFN(30), 1, &other), 1);
	assert_int_equal(sink->ops->room(sink, GFN(20), 2, &room), 2);
	memset(room, 1, 2 * PAGE_BYTES);
	assert_true(sink->ops->commit(sink, GFN(20), 2, room) >= 0);
	assert_int_equal(read_page(mem, 20, page), -EAGAIN);
	assert_int_equal(gup_read(mem, gfn_to_gpa(GFN(21)), page, 1, GUP_NOWAIT, &opts), -EAGAIN);
	assert_int_equal(atomic_load(&source.pages), 2);
	assert_int_equal(memory_invalidate(mem, GFN(20), 2), 0);
	assert_int_equal(atomic_load(&source.pages), 3);
	assert_int_equal(atomic_load(&source.last_gfn), 21);
	assert_int_equal(memory_page_state(mem, GFN(20)), PAGE_MISSING);
	assert_int_equal(memory_page_state(mem, GFN(21)), PAGE_REQUESTED);
	assert_counts(mem, 0, 1);
	assert_true(gup_ticket_cancel(mem, &ticket));
	assert_true(sink->ops->commit(sink, GFN(30), 0, other) >= 0);
	memory_detach(mem);
	memory_free(mem);
}

/* ---- who waits ---- */

/* Waits for a page, as a thread of the VMM does; in pages of the first region. */
struct waiter {
	struct memory *mem;
	uint64_t gfn;
	pthread_t thread;
	_Atomic pid_t tid;
	uint64_t word;
	int result;
};

static void *waiter_main(void *arg)
{
	struct waiter *w = arg;

	atomic_store(&w->tid, gettid());
	w->result = gup_read(w->mem, gfn_to_gpa(GFN(w->gfn)), &w->word, 8, 0, NULL);
	return NULL;
}

static uint64_t word_of(uint64_t gfn)
{
	uint64_t page[PAGE_BYTES / 8];

	page_pattern((uint8_t *)page, GFN(gfn));
	return page[0];
}

static void waiter_start(struct waiter *w, struct memory *mem, uint64_t gfn)
{
	*w = (struct waiter){ .mem = mem, .gfn = gfn };
	assert_int_equal(pthread_create(&w->thread, NULL, waiter_main, w), 0);
	wait_until(atomic_load(&w->tid) && thread_sleeps(w->tid));
}

static void waiter_end(struct waiter *w, uint64_t as)
{
	pthread_join(w->thread, NULL);
	assert_int_equal(w->result, 0);
	assert_int_equal(w->word, word_of(as));
}

static void test_whoever_waits_gets_the_next_copy(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	struct counting_source source;
	struct waiter w;

	(void)unused;
	counting_source_init(&source);
	memory_attach(mem, &source.source);
	fill_pages(mem, 5, 1, 5);
	assert_int_equal(memory_invalidate(mem, GFN(5), 1), 1);
	/* Nobody waited: nobody was asked. */
	assert_int_equal(atomic_load(&source.pages), 0);
	waiter_start(&w, mem, 5);
	assert_int_equal(atomic_load(&source.pages), 1);
	fill_pages(mem, 5, 1, 900);
	waiter_end(&w, 900);
	memory_detach(mem);
	memory_free(mem);
}

/* It has asked; the page comes and goes again before it has entered itself as waiting. */
static void test_a_page_that_goes_while_one_begins_to_wait_is_asked_for(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	struct counting_source source;
	struct waiter w;

	(void)unused;
	counting_source_init(&source);
	memory_attach(mem, &source.source);
	pthread_mutex_lock(&mem->wait_lock);
	waiter_start(&w, mem, 5);
	assert_int_equal(atomic_load(&source.pages), 1);
	fill_pages(mem, 5, 1, 5);
	assert_int_equal(memory_invalidate(mem, GFN(5), 1), 1);
	pthread_mutex_unlock(&mem->wait_lock);
	wait_until(atomic_load(&source.pages) == 2);
	fill_pages(mem, 5, 1, 900);
	waiter_end(&w, 900);
	memory_detach(mem);
	memory_free(mem);
}

/*
 * A thread in the kernel, as a vCPU in KVM_RUN: the touch of a page that went
 * is a wait as any other.
 */
static void *toucher_main(void *arg)
{
	struct waiter *w = arg;
	struct memory_thread *self = memory_thread_new(w->mem, "toucher", 0);

	memory_thread_bind(self);
	memory_thread_enter(self);
	w->word = *(volatile uint64_t *)(void *)(w->mem->region[0].host + w->gfn * PAGE_BYTES);
	memory_thread_left(self, 0);
	memory_thread_unbind(self);
	memory_thread_free(self);
	return NULL;
}

static void test_a_vcpu_that_touches_it_waits(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	struct memory_waiter waiters[2];
	struct counting_source source;
	struct memory_stats stats;
	struct waiter w = { .mem = mem, .gfn = 5 };

	(void)unused;
	memory_set_way_out(mem, WAY_OUT_KERNEL);
	counting_source_init(&source);
	memory_attach(mem, &source.source);
	fill_pages(mem, 4, 4, 4);
	assert_int_equal(memory_invalidate(mem, GFN(5), 1), 1);
	assert_int_equal(pthread_create(&w.thread, NULL, toucher_main, &w), 0);
	wait_until(memory_waiters(mem, waiters, 2) == 1);
	assert_int_equal(waiters[0].gpa.v, 5 * PAGE_BYTES);
	wait_until(atomic_load(&source.pages) == 1);
	fill_pages(mem, 5, 1, 900);
	pthread_join(w.thread, NULL);
	assert_int_equal(w.word, word_of(900));
	memory_stats(mem, &stats);
	assert_int_equal(stats.direct_accesses, 0);
	memory_detach(mem);
	memory_free(mem);
}

/* ---- all at once ---- */

#define RACE_PAGES 64
#define RACE_ROUNDS 3000
#define RACE_READERS 2

/* Every word of a page says which page it is, and which copy. */
struct race {
	struct memory *mem;
	_Atomic uint64_t copy[RACE_PAGES];	/* older ones may not be seen any more */
	_Atomic bool done;
	_Atomic uint64_t wrong;
};

struct race_writer {
	struct race *race;
	unsigned int first;			/* of the pages that are this one's */
	bool bulk;				/* now and then it commits its pages */
	pthread_t thread;
};

/* The source brings a copy, and the same once more. */
static void race_bring(struct race *race, uint64_t gfn, uint64_t copy, bool bulk)
{
	struct page_sink *sink = memory_sink(race->mem);
	_Alignas(4096) uint64_t page[PAGE_BYTES / 8];
	unsigned int i;
	void *room;

	for (i = 0; i < PAGE_BYTES / 8; i++)
		page[i] = gfn << 32 | copy;
	if (bulk && sink->ops->room(sink, GFN(gfn), 1, &room) == 1) {
		memcpy(room, page, PAGE_BYTES);
		if (sink->ops->commit(sink, GFN(gfn), 1, room) < 0)
			atomic_fetch_add(&race->wrong, 1);
		return;
	}
	if (memory_fill(race->mem, GFN(gfn), 1, page) < 0 ||
	    memory_fill(race->mem, GFN(gfn), 1, page) < 0)
		atomic_fetch_add(&race->wrong, 1);
}

static void *race_write(void *arg)
{
	struct race_writer *writer = arg;
	struct race *race = writer->race;
	unsigned int seed = writer->first + 1, i;
	uint64_t gfn, copy;
	int64_t r;

	for (i = 0; i < RACE_ROUNDS; i++) {
		gfn = writer->first + 2 * ((uint64_t)rand_r(&seed) % (RACE_PAGES / 2));
		while ((r = memory_invalidate(race->mem, GFN(gfn), 1)) == -EBUSY)
			sched_yield();
		if (r < 0)
			atomic_fetch_add(&race->wrong, 1);
		copy = atomic_fetch_add(&race->copy[gfn], 1) + 1;
		race_bring(race, gfn, copy, writer->bulk && i % 4 == 0);
	}
	return NULL;
}

/* Through gup, sleeping where a page is missing. */
static void *race_read(void *arg)
{
	struct race *race = arg;
	uint64_t page[PAGE_BYTES / 8], gfn, least;
	unsigned int seed = (unsigned int)gettid(), i;

	while (!atomic_load(&race->done)) {
		gfn = (uint64_t)rand_r(&seed) % RACE_PAGES;
		least = atomic_load(&race->copy[gfn]);
		if (gup_read(race->mem, gfn_to_gpa(GFN(gfn)), page, PAGE_BYTES, 0, NULL))
			atomic_fetch_add(&race->wrong, 1);
		/* Whole, and no older than what was announced before. */
		for (i = 1; i < PAGE_BYTES / 8 && page[i] == page[0]; i++)
			;
		if (i < PAGE_BYTES / 8 || page[0] >> 32 != gfn || (uint32_t)page[0] < least)
			atomic_fetch_add(&race->wrong, 1);
	}
	return NULL;
}

static int race_request(struct page_source *source, gfn_t first, uint64_t n)
{
	(void)source;
	(void)first;
	(void)n;
	return 0;
}

static void test_readers_see_no_copy_of_before(void **unused)
{
	static const struct page_source_ops ops = { .name = "race", .request = race_request };
	struct race race = { .mem = memory_for_test(2, 0, true, NULL) };
	struct race_writer writer[2] = { { &race, 0, true, 0 }, { &race, 1, false, 0 } };
	struct page_source source = { .ops = &ops };
	pthread_t reader[RACE_READERS];
	struct memory_stats stats;
	unsigned int i;

	(void)unused;
	memory_set_way_out(race.mem, WAY_OUT_KERNEL);
	memory_attach(race.mem, &source);
	for (i = 0; i < RACE_PAGES; i++)
		race_bring(&race, i, 0, false);
	for (i = 0; i < RACE_READERS; i++)
		assert_int_equal(pthread_create(&reader[i], NULL, race_read, &race), 0);
	for (i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&writer[i].thread, NULL, race_write, &writer[i]),
				 0);
	for (i = 0; i < 2; i++)
		pthread_join(writer[i].thread, NULL);
	memory_rooms_flush(race.mem);
	atomic_store(&race.done, true);
	for (i = 0; i < RACE_READERS; i++)
		pthread_join(reader[i], NULL);
	assert_int_equal(race.wrong, 0);
	memory_stats(race.mem, &stats);
	assert_int_equal(stats.filled, RACE_PAGES);
	assert_int_equal(stats.missing, 512 - RACE_PAGES);
	assert_int_equal(stats.requested, 0);
	memory_detach(race.mem);
	memory_free(race.mem);
}

/* ---- the last page ---- */

static void count_complete(void *arg)
{
	atomic_fetch_add((_Atomic int *)arg, 1);
}

struct last {
	struct memory *mem;
	_Atomic bool go;
};

static void *last_filler(void *arg)
{
	struct last *last = arg;
	_Alignas(4096) uint8_t page[PAGE_BYTES];

	page_pattern(page, GFN(511));
	while (!atomic_load(&last->go))
		;
	assert_int_equal(memory_fill(last->mem, GFN(511), 1, page), 1);
	return NULL;
}

/*
 * The last page comes while another goes: either all was complete before, or it
 * is not until that one has come again.
 */
static void test_memory_completes_once_and_with_every_page(void **unused)
{
	_Atomic int complete = 0;
	struct memory_events events = { .complete = count_complete, .arg = &complete };
	struct gup_span span;
	struct last last;
	pthread_t thread;
	unsigned int i, round;
	int64_t r;

	(void)unused;
	for (round = 0; round < 300; round++) {
		last = (struct last){ .mem = memory_for_test(2, 0, true, &events) };
		atomic_store(&complete, 0);
		fill_pages(last.mem, 0, 511, 0);
		/*
		 * One is held: that it is counted for a moment may be what
		 * keeps memory from completing.
		 */
		assert_int_equal(gup(last.mem, GPA(0), 8, 0, NULL, &span), 0);
		assert_int_equal(pthread_create(&thread, NULL, last_filler, &last), 0);
		atomic_store(&last.go, true);
		for (i = round % 32; i; i--)
			sched_yield();
		r = memory_invalidate(last.mem, GFN(0), 1 + round % 2);
		pthread_join(thread, NULL);
		assert_true(r == -EINVAL || r == -EBUSY);
		if (r == -EBUSY && round % 2) {
			assert_int_equal(memory_page_state(last.mem, GFN(1)), PAGE_MISSING);
			assert_true(memory_is_late(last.mem));
			assert_int_equal(complete, 0);
			fill_pages(last.mem, 1, 1, 1);
		}
		assert_false(memory_is_late(last.mem));
		assert_int_equal(complete, 1);
		assert_page(last.mem, 0, 0);
		assert_page(last.mem, 1, 1);
		assert_page(last.mem, 511, 511);
		gup_put(last.mem, &span);
		memory_free(last.mem);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_next_copy_is_the_truth),
		cmocka_unit_test(test_only_late_memory_is_invalidated),
		cmocka_unit_test(test_a_page_that_somebody_holds_stays),
		cmocka_unit_test(test_what_is_not_present_stays_as_it_is),
		cmocka_unit_test(test_its_mark_goes_with_it),
		cmocka_unit_test(test_locked_memory_stays),
		cmocka_unit_test(test_a_staged_copy_does_not_come_back),
		cmocka_unit_test(test_a_new_copy_is_staged_beside_older_pages),
		cmocka_unit_test(test_who_waits_for_a_forgotten_page_has_it_asked_again),
		cmocka_unit_test(test_whoever_waits_gets_the_next_copy),
		cmocka_unit_test(test_a_page_that_goes_while_one_begins_to_wait_is_asked_for),
		cmocka_unit_test(test_a_vcpu_that_touches_it_waits),
		cmocka_unit_test(test_readers_see_no_copy_of_before),
		cmocka_unit_test(test_memory_completes_once_and_with_every_page),
	};

	return cmocka_run_group_tests_name("invalidate", tests, NULL, NULL);
}
