// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// gup's flags, as a table: one row for each combination of flags and state of
// the page, kicked and not.
#include "fixture.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "memory/internal.h"

#define W GUP_WRITE
#define N GUP_NOWAIT
#define I GUP_INTERRUPTIBLE
#define MISS PAGE_MISSING
#define REQ PAGE_REQUESTED
#define PRES PAGE_PRESENT
#define LOST PAGE_LOST

/* A page that nobody fills: who sleeps does so until the deadline. */
static const struct gup_row {
	unsigned int flags;
	enum page_state state;
	bool kicked;
	int ret;
	bool slept, asked, unlocked;
} gup_rows[] = {
	/* flags     state kicked  returns      slept  asked  dropped the lock */
	{ 0,         MISS, false, -ETIMEDOUT, true,  true,  true },
	{ 0,         REQ,  false, -ETIMEDOUT, true,  false, true },
	{ 0,         PRES, false, 0,          false, false, false },
	{ 0,         LOST, false, -EIO,       false, false, false },
	{ W,         MISS, false, -ETIMEDOUT, true,  true,  true },
	{ W,         REQ,  false, -ETIMEDOUT, true,  false, true },
	{ W,         PRES, false, 0,          false, false, false },
	{ W,         LOST, false, -EIO,       false, false, false },
	{ N,         MISS, false, -EAGAIN,    false, true,  false },
	{ N,         REQ,  false, -EAGAIN,    false, false, false },
	{ N,         PRES, false, 0,          false, false, false },
	{ N,         LOST, false, -EIO,       false, false, false },
	{ N | W,     MISS, false, -EAGAIN,    false, true,  false },
	{ N | W,     REQ,  false, -EAGAIN,    false, false, false },
	{ N | W,     PRES, false, 0,          false, false, false },
	{ N | W,     LOST, false, -EIO,       false, false, false },
	{ I,         MISS, false, -ETIMEDOUT, true,  true,  true },
	{ I,         REQ,  false, -ETIMEDOUT, true,  false, true },
	{ I,         PRES, false, 0,          false, false, false },
	{ I,         LOST, false, -EIO,       false, false, false },
	{ I | W,     MISS, false, -ETIMEDOUT, true,  true,  true },
	{ I | W,     REQ,  false, -ETIMEDOUT, true,  false, true },
	{ I | W,     PRES, false, 0,          false, false, false },
	{ I | W,     LOST, false, -EIO,       false, false, false },
	{ I | N,     MISS, false, -EAGAIN,    false, true,  false },
	{ I | N,     REQ,  false, -EAGAIN,    false, false, false },
	{ I | N,     PRES, false, 0,          false, false, false },
	{ I | N,     LOST, false, -EIO,       false, false, false },
	{ I | N | W, MISS, false, -EAGAIN,    false, true,  false },
	{ I | N | W, REQ,  false, -EAGAIN,    false, false, false },
	{ I | N | W, PRES, false, 0,          false, false, false },
	{ I | N | W, LOST, false, -EIO,       false, false, false },
	/*
	 * A pending kick matters to INTERRUPTIBLE alone, and is looked at
	 * before any error of the page.
	 */
	{ 0,         MISS, true,  -ETIMEDOUT, true,  true,  true },
	{ 0,         REQ,  true,  -ETIMEDOUT, true,  false, true },
	{ 0,         PRES, true,  0,          false, false, false },
	{ 0,         LOST, true,  -EIO,       false, false, false },
	{ W,         MISS, true,  -ETIMEDOUT, true,  true,  true },
	{ W,         REQ,  true,  -ETIMEDOUT, true,  false, true },
	{ W,         PRES, true,  0,          false, false, false },
	{ W,         LOST, true,  -EIO,       false, false, false },
	{ N,         MISS, true,  -EAGAIN,    false, true,  false },
	{ N,         REQ,  true,  -EAGAIN,    false, false, false },
	{ N,         PRES, true,  0,          false, false, false },
	{ N,         LOST, true,  -EIO,       false, false, false },
	{ N | W,     MISS, true,  -EAGAIN,    false, true,  false },
	{ N | W,     REQ,  true,  -EAGAIN,    false, false, false },
	{ N | W,     PRES, true,  0,          false, false, false },
	{ N | W,     LOST, true,  -EIO,       false, false, false },
	{ I,         MISS, true,  -EINTR,     false, false, false },
	{ I,         REQ,  true,  -EINTR,     false, false, false },
	{ I,         PRES, true,  0,          false, false, false },
	{ I,         LOST, true,  -EINTR,     false, false, false },
	{ I | W,     MISS, true,  -EINTR,     false, false, false },
	{ I | W,     REQ,  true,  -EINTR,     false, false, false },
	{ I | W,     PRES, true,  0,          false, false, false },
	{ I | W,     LOST, true,  -EINTR,     false, false, false },
	{ I | N,     MISS, true,  -EAGAIN,    false, true,  false },
	{ I | N,     REQ,  true,  -EAGAIN,    false, false, false },
	{ I | N,     PRES, true,  0,          false, false, false },
	{ I | N,     LOST, true,  -EIO,       false, false, false },
	{ I | N | W, MISS, true,  -EAGAIN,    false, true,  false },
	{ I | N | W, REQ,  true,  -EAGAIN,    false, false, false },
	{ I | N | W, PRES, true,  0,          false, false, false },
	{ I | N | W, LOST, true,  -EIO,       false, false, false },
};

/* Brings the page into the state by the product's own transitions. */
static void page_to(struct memory *mem, gfn_t gfn, enum page_state state)
{
	unsigned int region;
	uint64_t offset;

	assert_true(memory_find(mem, gfn, 1, &region, &offset));
	if (state == PAGE_REQUESTED)
		memory_ask(mem, region, offset, 1);
	else if (state == PAGE_PRESENT)
		assert_int_equal(memory_fill(mem, gfn, 1, NULL), 1);
	else if (state == PAGE_LOST)
		assert_int_equal(memory_lose(mem, gfn), 0);
	assert_int_equal(memory_page_state(mem, gfn), state);
}

static void gup_row_check(struct memory *mem, struct counting_source *source,
			  struct memory_thread *self, gfn_t gfn, const struct gup_row *row)
{
	struct memory_stats before, after;
	struct gup_ticket ticket = { 0 };
	bool unlocked = false;
	struct gup_opts opts = {
		.self = self, .unlocked = &unlocked, .ticket = &ticket,
		.deadline_ns = clock_now_ns() + 50 * NS_PER_MS,
	};
	struct gup_span span;
	uint64_t asked;
	int r;

	page_to(mem, gfn, row->state);
	if (row->kicked)
		memory_thread_kick(self);
	asked = atomic_load(&source->requests);
	memory_stats(mem, &before);
	memory_map_lock(mem);
	r = gup(mem, gfn_to_gpa(gfn), 8, row->flags, &opts, &span);
	memory_map_unlock(mem);
	memory_stats(mem, &after);
	if (r != row->ret || (after.gup_sleeps > before.gup_sleeps) != row->slept ||
	    (atomic_load(&source->requests) > asked) != row->asked || unlocked != row->unlocked)
		fail_msg(
			"flags 0x%x state %d kicked %d: returned %d slept %d asked %d dropped the lock %d",
			row->flags, row->state, row->kicked, r,
			after.gup_sleeps > before.gup_sleeps,
			atomic_load(&source->requests) > asked, unlocked);
	/* A ticket is armed by -EAGAIN and by nothing else. */
	assert_int_equal(gup_ticket_cancel(mem, &ticket), r == -EAGAIN);
	if (!r)
		gup_put(mem, &span);
	memory_thread_clear(self);
}

static void test_every_flag_and_state(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	struct memory_thread *self = memory_thread_new(mem, "test", -1);
	struct counting_source source;
	size_t i, n = sizeof(gup_rows) / sizeof(gup_rows[0]);

	(void)unused;
	counting_source_init(&source);
	memory_thread_bind(self);
	memory_attach(mem, &source.source);
	/* 8 combinations of flags, 4 states, kicked or not. */
	assert_int_equal(n, 64);
	for (i = 0; i < n; i++)
		gup_row_check(mem, &source, self, GFN(i), &gup_rows[i]);
	memory_detach(mem);
	memory_thread_free(self);
	memory_free(mem);
}

static void test_addresses_that_are_no_memory(void **unused)
{
	struct memory *mem = memory_for_test(2, 2, false, NULL);
	struct gup_span span;

	(void)unused;
	memory_map_lock(mem);
	assert_int_equal(gup(mem, GPA(2 << 20), 1, 0, NULL, &span), -EFAULT);
	assert_int_equal(gup(mem, GPA((2 << 20) - 1), 2, 0, NULL, &span), -EFAULT);
	assert_int_equal(gup(mem, GPA(0), 0, 0, NULL, &span), -EFAULT);
	assert_int_equal(gup(mem, GPA(UINT64_MAX), 2, 0, NULL, &span), -EFAULT);
	assert_int_equal(gup(mem, GPA(8), SIZE_MAX - 4, 0, NULL, &span), -EFAULT);
	assert_int_equal(gup(mem, GPA(0), 2 << 20, 0, NULL, &span), 0);
	assert_int_equal(span.pages, 512);
	gup_put(mem, &span);
	memory_map_unlock(mem);
	memory_free(mem);
}

/* ---- waits that end ---- */

struct sleeper {
	struct memory *mem;
	struct memory_thread *self;
	gpa_t gpa;
	size_t len;
	unsigned int flags;
	int result;
	uint64_t first_word;
	pthread_t thread;
};

static void *sleeper_main(void *arg)
{
	struct sleeper *s = arg;
	struct gup_opts opts = { .self = s->self };
	struct gup_span span;

	memory_map_lock(s->mem);
	s->result = gup(s->mem, s->gpa, s->len, s->flags, &opts, &span);
	if (!s->result) {
		memcpy(&s->first_word, span.hva, sizeof(s->first_word));
		gup_put(s->mem, &span);
	}
	memory_map_unlock(s->mem);
	return NULL;
}

static uint64_t sleeps(struct memory *mem)
{
	struct memory_stats stats;

	memory_stats(mem, &stats);
	return stats.gup_sleeps;
}

static void sleeper_start(struct sleeper *s)
{
	uint64_t before = sleeps(s->mem);

	assert_int_equal(pthread_create(&s->thread, NULL, sleeper_main, s), 0);
	wait_until(sleeps(s->mem) > before);
}

static void test_a_fill_ends_the_wait_with_the_data(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	struct sleeper s = { .mem = mem, .gpa = GPA(5 * PAGE_BYTES), .len = 2 * PAGE_BYTES };
	_Alignas(4096) uint8_t page[2 * PAGE_BYTES];

	(void)unused;
	page_pattern(page, GFN(5));
	page_pattern(page + PAGE_BYTES, GFN(6));
	sleeper_start(&s);
	assert_int_equal(memory_fill(mem, GFN(5), 2, page), 2);
	pthread_join(s.thread, NULL);
	assert_int_equal(s.result, 0);
	assert_memory_equal(&s.first_word, page, 8);
	memory_free(mem);
}

static void test_a_kick_ends_an_interruptible_wait(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	struct memory_thread *self = memory_thread_new(mem, "test", -1);
	struct sleeper s = { .mem = mem, .self = self, .len = 8, .flags = GUP_INTERRUPTIBLE };

	(void)unused;
	sleeper_start(&s);
	assert_int_equal(memory_thread_kick(self), KICK_DONE);
	pthread_join(s.thread, NULL);
	assert_int_equal(s.result, -EINTR);
	memory_thread_free(self);
	memory_free(mem);
}

static void test_shut_down_ends_every_wait(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	struct sleeper s = { .mem = mem, .len = 8 };

	(void)unused;
	sleeper_start(&s);
	memory_shut(mem);
	pthread_join(s.thread, NULL);
	assert_int_equal(s.result, -EINTR);
	memory_free(mem);
}

static void test_loss_ends_the_wait_with_eio(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	struct sleeper s = { .mem = mem, .gpa = GPA(PAGE_BYTES), .len = 8 };

	(void)unused;
	sleeper_start(&s);
	assert_int_equal(memory_lose(mem, GFN(1)), 0);
	pthread_join(s.thread, NULL);
	assert_int_equal(s.result, -EIO);
	memory_free(mem);
}

static void test_a_new_source_is_asked_for_what_is_waited_for(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	struct counting_source first, second;
	struct sleeper s = { .mem = mem, .gpa = GPA(7 * PAGE_BYTES), .len = 8 };

	(void)unused;
	counting_source_init(&first);
	counting_source_init(&second);
	memory_attach(mem, &first.source);
	sleeper_start(&s);
	assert_int_equal(atomic_load(&first.pages), 1);
	memory_detach(mem);
	assert_int_equal(memory_page_state(mem, GFN(7)), PAGE_MISSING);
	memory_attach(mem, &second.source);
	assert_int_equal(atomic_load(&second.pages), 1);
	assert_int_equal(atomic_load(&second.last_gfn), 7);
	memory_fill(mem, GFN(7), 1, NULL);
	pthread_join(s.thread, NULL);
	assert_int_equal(s.result, 0);
	memory_detach(mem);
	memory_free(mem);
}

/* Asks for page 3, when nobody lets it enter itself as waiting yet. */
struct late_waiter {
	struct memory *mem;
	struct gup_ticket *ticket;	/* NULL: it sleeps */
	pthread_t thread;
	_Atomic pid_t tid;
	int result;
};

static void *late_waiter_main(void *arg)
{
	struct late_waiter *w = arg;
	struct gup_opts opts = { .ticket = w->ticket };
	uint64_t word;

	atomic_store(&w->tid, gettid());
	w->result = gup_read(w->mem, GPA(3 * PAGE_BYTES), &word, sizeof(word),
			     w->ticket ? GUP_NOWAIT : 0, &opts);
	return NULL;
}

/*
 * It has found no source to ask, and one comes before it waits: whoever comes
 * second sees the other.
 */
static void check_source_that_comes_meanwhile(struct gup_ticket *ticket)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	struct late_waiter w = { .mem = mem, .ticket = ticket };
	struct counting_source source;

	counting_source_init(&source);
	pthread_mutex_lock(&mem->wait_lock);
	assert_int_equal(pthread_create(&w.thread, NULL, late_waiter_main, &w), 0);
	wait_until(atomic_load(&w.tid) && thread_sleeps(w.tid));
	memory_attach(mem, &source.source);
	assert_int_equal(atomic_load(&source.pages), 0);
	pthread_mutex_unlock(&mem->wait_lock);
	wait_until(memory_page_state(mem, GFN(3)) == PAGE_REQUESTED);
	assert_int_equal(memory_fill(mem, GFN(3), 1, NULL), 1);
	pthread_join(w.thread, NULL);
	assert_int_equal(w.result, ticket ? -EAGAIN : 0);
	assert_int_equal(atomic_load(&source.pages), 1);
	memory_detach(mem);
	memory_free(mem);
}

static void count_fire(struct gup_ticket *ticket);

static void test_a_source_that_comes_while_one_begins_to_wait_is_asked(void **unused)
{
	_Atomic int fired = 0;
	struct gup_ticket ticket = { .fire = count_fire, .arg = &fired };

	(void)unused;
	check_source_that_comes_meanwhile(NULL);
	check_source_that_comes_meanwhile(&ticket);
	assert_int_equal(fired, 1);
}

static void test_a_source_that_is_gone_leaves_the_page_missing(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	struct counting_source source;
	struct gup_span span;

	(void)unused;
	counting_source_init(&source);
	source.answer = -ENOTCONN;
	memory_attach(mem, &source.source);
	memory_map_lock(mem);
	assert_int_equal(gup(mem, GPA(0), 8, GUP_NOWAIT, NULL, &span), -EAGAIN);
	memory_map_unlock(mem);
	assert_int_equal(memory_page_state(mem, GFN(0)), PAGE_MISSING);
	memory_detach(mem);
	memory_free(mem);
}

static void count_fire(struct gup_ticket *ticket)
{
	atomic_fetch_add((_Atomic int *)ticket->arg, 1);
}

static void test_a_ticket_fires_once_when_the_page_is_in(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	_Atomic int fired = 0;
	struct gup_ticket ticket = { .fire = count_fire, .arg = &fired };
	struct gup_opts opts = { .ticket = &ticket };
	struct gup_span span;

	(void)unused;
	memory_map_lock(mem);
	assert_int_equal(gup(mem, GPA(0), 8, GUP_NOWAIT, &opts, &span), -EAGAIN);
	memory_fill(mem, GFN(1), 1, NULL);
	assert_int_equal(fired, 0);
	memory_fill(mem, GFN(0), 1, NULL);
	assert_int_equal(fired, 1);
	assert_false(gup_ticket_cancel(mem, &ticket));
	assert_int_equal(gup(mem, GPA(0), 8, GUP_NOWAIT, &opts, &span), 0);
	gup_put(mem, &span);
	/*
	 * A span of several pages: the ticket is for the first that is missing;
	 * shutting down fires it too.
	 */
	assert_int_equal(gup(mem, GPA(0), 4 * PAGE_BYTES, GUP_NOWAIT, &opts, &span), -EAGAIN);
	memory_map_unlock(mem);
	assert_int_equal(ticket.gfn.v, 2);
	memory_shut(mem);
	assert_int_equal(fired, 2);
	memory_free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_flag_and_state),
		cmocka_unit_test(test_addresses_that_are_no_memory),
		cmocka_unit_test(test_a_fill_ends_the_wait_with_the_data),
		cmocka_unit_test(test_a_kick_ends_an_interruptible_wait),
		cmocka_unit_test(test_shut_down_ends_every_wait),
		cmocka_unit_test(test_loss_ends_the_wait_with_eio),
		cmocka_unit_test(test_a_new_source_is_asked_for_what_is_waited_for),
		cmocka_unit_test(test_a_source_that_comes_while_one_begins_to_wait_is_asked),
		cmocka_unit_test(test_a_source_that_is_gone_leaves_the_page_missing),
		cmocka_unit_test(test_a_ticket_fires_once_when_the_page_is_in),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
