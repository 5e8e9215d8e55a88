// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// The eject, without KVM: threads wait for missing pages inside write(2), which
// like KVM_RUN returns -EFAULT when the page's protection goes.
#include "fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "memory/internal.h"

/* A thread that, like a vCPU, enters, waits, leaves, and parks when it was asked to. */
struct runner {
	struct memory *mem;
	struct memory_thread *self;
	int pipe[2];
	pthread_t thread;
	unsigned int seed;		/* 0: touch page `gfn` once */
	gfn_t gfn;
	_Atomic bool want_park, parked, end;
	_Atomic uint64_t turns, ejected, unexplained, wrong;
};

static void runner_turn(struct runner *r, gfn_t gfn)
{
	uint64_t word = 0;
	ssize_t n;
	int result;
	bool ejected;

	memory_thread_enter(r->self);
	n = write(r->pipe[1], r->mem->region[0].host + gfn.v * PAGE_BYTES + 8, sizeof(word));
	result = n < 0 ? -errno : 0;
	ejected = memory_thread_left(r->self, result);
	if (result == -EFAULT) {
		atomic_fetch_add(ejected ? &r->ejected : &r->unexplained, 1);
		if (ejected)
			memory_thread_wait_page(r->self);
		return;
	}
	if (n != sizeof(word) || read(r->pipe[0], &word, sizeof(word)) != sizeof(word) ||
	    word != (gfn.v + 1) * UINT64_C(0x9e3779b97f4a7c15) + 1)
		atomic_fetch_add(&r->wrong, 1);
	atomic_fetch_add(&r->turns, 1);
}

static void *runner_main(void *arg)
{
	struct runner *r = arg;
	gfn_t gfn = r->gfn;
	uint64_t turns;

	memory_thread_bind(r->self);
	while (!atomic_load(&r->end)) {
		if (atomic_load(&r->want_park)) {
			atomic_store(&r->parked, true);
			while (atomic_load(&r->want_park) && !atomic_load(&r->end))
				wait_a_little();
			memory_thread_clear(r->self);
			atomic_store(&r->parked, false);
			continue;
		}
		turns = atomic_load(&r->turns);
		runner_turn(r, gfn);
		if (atomic_load(&r->turns) == turns)
			continue;	/* the same page again */
		if (!r->seed)
			break;
		gfn = GFN((uint64_t)rand_r(&r->seed) % 512);
	}
	return NULL;
}

static void runner_start(struct runner *r, struct memory *mem, gfn_t gfn, unsigned int seed)
{
	*r = (struct runner){ .mem = mem, .gfn = gfn, .seed = seed };
	r->self = memory_thread_new(mem, "runner", (int)seed);
	assert_non_null(r->self);
	assert_int_equal(pipe(r->pipe), 0);
	assert_int_equal(pthread_create(&r->thread, NULL, runner_main, r), 0);
}

static void runner_end(struct runner *r)
{
	atomic_store(&r->end, true);
	pthread_join(r->thread, NULL);
	close(r->pipe[0]);
	close(r->pipe[1]);
	memory_thread_free(r->self);
	assert_int_equal(r->unexplained, 0);
	assert_int_equal(r->wrong, 0);
}

static bool runner_waits(struct runner *r)
{
	return atomic_load(&r->self->wait.active);
}

/* Kicks until it is parked, as a VMM does. */
static void runner_park(struct runner *r)
{
	atomic_store(&r->want_park, true);
	memory_thread_kick(r->self);
	for (int i = 0; !atomic_load(&r->parked); i++) {
		assert_true(i < 100000);
		wait_a_little();
		if (i % 10 == 9)
			memory_thread_kick(r->self);
	}
}

static void runner_go_on(struct runner *r)
{
	atomic_store(&r->want_park, false);
	wait_until(!atomic_load(&r->parked));
}

static void fill_one(struct memory *mem, gfn_t gfn)
{
	_Alignas(4096) uint8_t page[4096];

	page_pattern(page, gfn);
	assert_true(memory_fill(mem, gfn, 1, page) >= 0);
}

static void test_eject_brings_out_and_the_access_is_retried(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	struct runner r;

	(void)unused;
	runner_start(&r, mem, GFN(3), 0);
	wait_until(runner_waits(&r));
	runner_park(&r);
	assert_int_equal(atomic_load(&r.ejected), 1);
	/* Parked: the page is plain again, and still missing. */
	assert_int_equal(mem->ejecting, 0);
	assert_int_equal(memory_page_state(mem, GFN(3)), PAGE_MISSING);
	runner_go_on(&r);
	wait_until(runner_waits(&r));
	fill_one(mem, GFN(3));
	wait_until(atomic_load(&r.turns) == 1);
	runner_end(&r);
	memory_free(mem);
}

static void test_a_bystander_of_an_eject_just_runs_again(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	struct runner asked, bystander;

	(void)unused;
	runner_start(&asked, mem, GFN(3), 0);
	runner_start(&bystander, mem, GFN(3), 0);
	wait_until(runner_waits(&asked) && runner_waits(&bystander));
	runner_park(&asked);
	wait_until(atomic_load(&bystander.ejected) == 1);
	wait_until(runner_waits(&bystander));
	assert_false(atomic_load(&bystander.parked));
	runner_go_on(&asked);
	fill_one(mem, GFN(3));
	wait_until(atomic_load(&asked.turns) == 1 && atomic_load(&bystander.turns) == 1);
	runner_end(&asked);
	runner_end(&bystander);
	memory_free(mem);
}

static void test_two_ejected_from_one_page(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	struct runner r[2];
	unsigned int i;

	(void)unused;
	for (i = 0; i < 2; i++)
		runner_start(&r[i], mem, GFN(3), 0);
	wait_until(runner_waits(&r[0]) && runner_waits(&r[1]));
	atomic_store(&r[0].want_park, true);
	atomic_store(&r[1].want_park, true);
	memory_thread_kick(r[0].self);
	memory_thread_kick(r[1].self);
	for (i = 0; i < 2; i++)
		runner_park(&r[i]);
	assert_int_equal(mem->ejecting, 0);
	for (i = 0; i < 2; i++)
		runner_go_on(&r[i]);
	fill_one(mem, GFN(3));
	wait_until(atomic_load(&r[0].turns) == 1 && atomic_load(&r[1].turns) == 1);
	for (i = 0; i < 2; i++)
		runner_end(&r[i]);
	memory_free(mem);
}

static void test_a_kick_before_the_wait_is_made_up_for(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	struct runner r;

	(void)unused;
	runner_start(&r, mem, GFN(3), 0);
	/* Wherever it is by now: one kick, no repetition, no signal. */
	wait_until(atomic_load(&r.self->tid));
	assert_true(memory_thread_kick(r.self) == KICK_SIGNAL || runner_waits(&r) || r.ejected);
	wait_until(atomic_load(&r.ejected) >= 1);
	runner_park(&r);
	runner_go_on(&r);
	fill_one(mem, GFN(3));
	wait_until(atomic_load(&r.turns) == 1);
	runner_end(&r);
	memory_free(mem);
}

static void test_gup_does_not_touch_a_page_under_eject(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	struct memory_thread *self = memory_thread_new(mem, "held", -1);
	struct gup_span span;
	uint64_t word;

	(void)unused;
	/* A thread that says it is in KVM_RUN and does not come out: the eject stays under way. */
	memory_thread_bind(self);
	memory_thread_enter(self);
	assert_true(memory_eject(mem, self, GFN(3)));
	fill_one(mem, GFN(3));
	assert_int_equal(memory_page_state(mem, GFN(3)), PAGE_PRESENT);
	memory_map_lock(mem);
	assert_int_equal(gup(mem, GPA(3 * PAGE_BYTES), 8, GUP_NOWAIT, NULL, &span), -EAGAIN);
	memory_map_unlock(mem);
	assert_true(memory_thread_left(self, -EFAULT));
	assert_int_equal(gup_read(mem, GPA(3 * PAGE_BYTES), &word, 8, GUP_NOWAIT, NULL), 0);
	assert_int_equal(word, 4 * UINT64_C(0x9e3779b97f4a7c15));
	memory_thread_free(self);
	memory_free(mem);
}

static void test_a_bystander_that_enters_during_an_eject_and_leaves_after_it(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	struct memory_thread *ejected = memory_thread_new(mem, "ejected", 0);
	struct memory_thread *bystander = memory_thread_new(mem, "bystander", 1);

	(void)unused;
	memory_thread_enter(ejected);
	assert_true(memory_eject(mem, ejected, GFN(3)));
	memory_thread_enter(bystander);
	assert_true(memory_thread_left(ejected, -EFAULT));
	/* The eject that took the page from it has ended by now. */
	assert_true(memory_thread_left(bystander, -EFAULT));
	/* And the next time nobody is to blame. */
	memory_thread_enter(bystander);
	assert_false(memory_thread_left(bystander, -EFAULT));
	memory_thread_free(ejected);
	memory_thread_free(bystander);
	memory_free(mem);
}

static void test_a_present_page_is_never_ejected_and_efault_is_then_real(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	struct memory_thread *self = memory_thread_new(mem, "test", -1);

	(void)unused;
	memory_thread_bind(self);
	fill_one(mem, GFN(3));
	memory_thread_enter(self);
	assert_false(memory_eject(mem, self, GFN(3)));
	assert_false(memory_thread_left(self, -EFAULT));
	/* Out of KVM_RUN nobody is ejected. */
	assert_false(memory_eject(mem, self, GFN(4)));
	memory_thread_free(self);
	memory_free(mem);
}

static bool runner_waits_in_user(struct runner *r)
{
	bool waits;

	pthread_mutex_lock(&r->mem->wait_lock);
	waits = r->self->waits_in_user;
	pthread_mutex_unlock(&r->mem->wait_lock);
	return waits;
}

static void test_a_long_wait_moves_to_user_space(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	struct memory_waiter waiter[3];
	struct runner r;

	(void)unused;
	runner_start(&r, mem, GFN(3), 0);
	/* Nobody kicks it. */
	wait_until(runner_waits_in_user(&r));
	assert_int_equal(atomic_load(&r.ejected), 1);
	/* It is still shown as the one wait that it is, on its page. */
	assert_int_equal(memory_waiters(mem, waiter, 3), 1);
	assert_string_equal(waiter[0].name, "runner");
	assert_int_equal(waiter[0].gpa.v, 3 * PAGE_BYTES);
	/* A kick ends that wait at once, by itself. */
	runner_park(&r);
	runner_go_on(&r);
	wait_until(runner_waits_in_user(&r));
	/* Lost: it goes on waiting. Then the page comes after all. */
	memory_lose(mem, GFN(3));
	assert_true(runner_waits_in_user(&r));
	fill_one(mem, GFN(3));
	wait_until(atomic_load(&r.turns) == 1);
	assert_int_equal(hist_read(&memory_latency(mem)->count), 1);
	runner_end(&r);
	memory_free(mem);
}

static void on_signal(void *arg)
{
	atomic_fetch_add((_Atomic int *)arg, 1);
}

/* Nothing becomes overdue by itself, however long this thread is held up; LONG_AGO is. */
#define LONG_AGO (-200 * NS_PER_SEC)

static struct memory *memory_without_a_clock(void)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);

	mem->eject_after_ns = 100 * NS_PER_SEC;
	return mem;
}

static void test_an_eject_that_misses_is_followed_by_a_signal(void **unused)
{
	struct memory *mem = memory_without_a_clock();
	struct memory_thread *self = memory_thread_new(mem, "test", -1), *kicked = NULL;
	_Atomic int signalled = 0;

	(void)unused;
	memory_thread_set_signal(self, on_signal, &signalled);
	memory_thread_bind(self);
	memory_thread_enter(self);
	/* A report that comes late: the thread runs, and waits for nothing. */
	memory_note_wait(mem, atomic_load(&self->tid), GFN(3), &kicked);
	assert_null(kicked);
	/* The clock is ours: it has been waiting for a moment, for long, for longer. */
	self->wait.tried_ns = clock_now_ns();
	assert_true(memory_eject_overdue(mem) > 0);
	assert_int_equal(mem->ejecting, 0);
	self->wait.tried_ns = LONG_AGO;
	memory_eject_overdue(mem);
	assert_int_equal(mem->ejecting, 1);
	assert_int_equal(signalled, 0);
	self->eject_tried_ns = LONG_AGO;
	memory_eject_overdue(mem);
	assert_int_equal(signalled, 1);
	/* The signal brings it out; the page is plain again. */
	assert_false(memory_thread_left(self, -EINTR));
	assert_int_equal(mem->ejecting, 0);
	assert_int_equal(memory_eject_overdue(mem), -1);
	fill_one(mem, GFN(3));
	memory_thread_free(self);
	memory_free(mem);
}

/*
 * Until the way out is known threads are ejected; what was begun then comes to
 * its end, and nothing more is.
 */
static void test_the_way_may_change_during_an_eject(void **unused)
{
	struct memory *mem = memory_without_a_clock();
	struct memory_thread *self = memory_thread_new(mem, "test", -1), *kicked = NULL;
	_Atomic int signalled = 0;

	(void)unused;
	memory_set_way_out(mem, WAY_OUT_EJECT);
	memory_thread_set_signal(self, on_signal, &signalled);
	memory_thread_bind(self);
	memory_thread_enter(self);
	memory_note_wait(mem, atomic_load(&self->tid), GFN(3), &kicked);
	self->wait.tried_ns = LONG_AGO;
	memory_eject_overdue(mem);
	assert_int_equal(mem->ejecting, 1);
	memory_set_way_out(mem, WAY_OUT_KERNEL);
	/* It missed its thread. */
	self->eject_tried_ns = LONG_AGO;
	assert_true(memory_eject_overdue(mem) > 0);
	assert_int_equal(signalled, 1);
	assert_false(memory_thread_left(self, -EINTR));
	assert_int_equal(mem->ejecting, 0);
	memory_thread_clear(self);
	memory_thread_enter(self);
	memory_note_wait(mem, atomic_load(&self->tid), GFN(4), &kicked);
	self->wait.tried_ns = LONG_AGO;
	assert_int_equal(memory_eject_overdue(mem), -1);
	assert_int_equal(mem->ejecting, 0);
	assert_false(memory_thread_left(self, -EINTR));
	fill_one(mem, GFN(3));
	memory_thread_free(self);
	memory_free(mem);
}

struct slow_signal {
	_Atomic bool begun, over, unbound;
};

static void on_slow_signal(void *arg)
{
	struct slow_signal *signal = arg;
	int i;

	atomic_store(&signal->begun, true);
	/* The thread it is for has every chance to end. */
	for (i = 0; i < 200 && !atomic_load(&signal->unbound); i++)
		wait_a_little();
	atomic_store(&signal->over, true);
}

struct ending {
	struct memory_thread *waits;
	struct slow_signal signal;
	_Atomic bool in_run, saw_end;
};

static void *ending_main(void *arg)
{
	struct ending *e = arg;

	memory_thread_bind(e->waits);
	memory_thread_enter(e->waits);
	atomic_store(&e->in_run, true);
	while (!atomic_load(&e->signal.begun))
		wait_a_little();
	memory_thread_left(e->waits, -EINTR);
	memory_thread_unbind(e->waits);
	atomic_store(&e->saw_end, atomic_load(&e->signal.over));
	atomic_store(&e->signal.unbound, true);
	return NULL;
}

/* Its signal would go to a thread that is no more. */
static void test_a_thread_does_not_end_under_a_signal(void **unused)
{
	struct memory *mem = memory_without_a_clock();
	struct memory_thread *kicked = NULL;
	struct ending e = { .waits = memory_thread_new(mem, "ending", 0) };
	pthread_t thread;

	(void)unused;
	memory_thread_set_signal(e.waits, on_slow_signal, &e.signal);
	assert_int_equal(pthread_create(&thread, NULL, ending_main, &e), 0);
	wait_until(atomic_load(&e.in_run));
	memory_note_wait(mem, atomic_load(&e.waits->tid), GFN(3), &kicked);
	assert_true(memory_eject(mem, e.waits, GFN(3)));
	e.waits->eject_tried_ns = LONG_AGO;
	memory_eject_overdue(mem);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_true(e.saw_end);
	/* Whoever gets its number now is another. */
	assert_int_equal(atomic_load(&e.waits->tid), 0);
	memory_thread_free(e.waits);
	/* And one that is gone is not ejected. */
	assert_false(memory_eject(mem, e.waits, GFN(3)));
	memory_free(mem);
}

static void test_an_eject_whose_page_came_is_followed_by_a_signal(void **unused)
{
	struct memory *mem = memory_without_a_clock();
	struct memory_thread *self = memory_thread_new(mem, "test", -1), *kicked = NULL;
	_Atomic int signalled = 0;
	uint64_t word;

	(void)unused;
	memory_thread_set_signal(self, on_signal, &signalled);
	memory_thread_bind(self);
	memory_thread_enter(self);
	/*
	 * The page has been copied, its byte does not say so yet, and the
	 * thread runs on; it is ejected, and the byte says so.
	 */
	assert_true(state_set_waited_by_kernel(&mem->state[0][3]));
	memory_note_wait(mem, atomic_load(&self->tid), GFN(3), &kicked);
	self->wait.tried_ns = LONG_AGO;
	memory_eject_overdue(mem);
	assert_int_equal(mem->ejecting, 1);
	fill_one(mem, GFN(3));
	assert_false(atomic_load(&self->wait.active));
	/* It waits for nothing, but others wait for that page. */
	self->eject_tried_ns = LONG_AGO;
	assert_true(memory_eject_overdue(mem) > 0);
	assert_int_equal(signalled, 1);
	assert_int_equal(gup_read(mem, GPA(3 * PAGE_BYTES), &word, 8, GUP_NOWAIT, NULL), -EAGAIN);
	assert_false(memory_thread_left(self, -EINTR));
	assert_int_equal(gup_read(mem, GPA(3 * PAGE_BYTES), &word, 8, GUP_NOWAIT, NULL), 0);
	assert_int_equal(memory_eject_overdue(mem), -1);
	memory_thread_free(self);
	memory_free(mem);
}

static void test_memory_completes_while_its_last_page_is_ejected_from(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	struct memory_thread *self = memory_thread_new(mem, "held", -1);
	struct memory_stats stats;
	unsigned int i;

	(void)unused;
	memory_thread_bind(self);
	memory_thread_enter(self);
	assert_true(memory_eject(mem, self, GFN(3)));
	for (i = 0; i < 512; i++)
		fill_one(mem, GFN(i));
	assert_false(memory_is_late(mem));
	/*
	 * Whoever puts the pieces together again does not look at a page
	 * without permissions. It has every chance to. (Backed memory has none
	 * who does.)
	 */
	for (i = 0; i < 500; i++) {
		wait_a_little();
		assert_int_equal(count_get(&mem->n_split_huge), memory_is_backed(mem) ? 0 : 1);
	}
	assert_true(memory_thread_left(self, -EFAULT));
	wait_until(!count_get(&mem->n_split_huge));
	memory_stats(mem, &stats);
	assert_int_equal(stats.direct_accesses, 0);
	memory_thread_free(self);
	memory_free(mem);
}

static void test_an_eject_moves_to_the_page_that_is_waited_for_now(void **unused)
{
	struct memory *mem = memory_without_a_clock();
	struct memory_thread *self = memory_thread_new(mem, "test", -1), *kicked = NULL;
	_Alignas(4096) uint8_t page[4096];
	_Atomic int signalled = 0;

	(void)unused;
	memory_thread_set_signal(self, on_signal, &signalled);
	memory_thread_bind(self);
	memory_thread_enter(self);
	/*
	 * The page has been copied, and its byte does not say so yet: the eject
	 * is for a wait that is over.
	 */
	memory_note_wait(mem, atomic_load(&self->tid), GFN(3), &kicked);
	self->wait.tried_ns = LONG_AGO;
	memory_eject_overdue(mem);
	assert_int_equal(mem->ejecting, 1);
	fill_one(mem, GFN(3));
	/* No signal reaches it there. */
	memory_note_wait(mem, atomic_load(&self->tid), GFN(5), &kicked);
	self->wait.tried_ns = LONG_AGO;
	memory_eject_overdue(mem);
	assert_int_equal(mem->ejecting, 1);
	assert_int_equal(self->eject_gfn.v, 5);
	assert_int_equal(signalled, 0);
	/* The first page is plain again, and can be touched. */
	assert_false(state_load(&mem->state[0][3]) & STATE_EJECTING);
	page_pattern(page, GFN(3));
	assert_memory_equal(mem->region[0].host + 3 * PAGE_BYTES, page, PAGE_BYTES);
	assert_true(memory_thread_left(self, -EFAULT));
	assert_int_equal(mem->ejecting, 0);
	fill_one(mem, GFN(5));
	memory_thread_free(self);
	memory_free(mem);
}

/* ---- stress: pages come late and are ejected from at random ---- */

#define STRESS_RUNNERS 3
#define STRESS_STOPS 400

struct late_filler {
	struct memory *mem;
	struct page_source source;
	_Atomic bool end;
	pthread_t thread;
	pthread_mutex_t lock;	/* guards the queue */
	gfn_t queue[4096];
	unsigned int queued;
};

static int late_request(struct page_source *source, gfn_t first, uint64_t n)
{
	struct late_filler *f =
		(struct late_filler *)((char *)source - offsetof(struct late_filler, source));

	(void)n;
	pthread_mutex_lock(&f->lock);
	assert_true(f->queued < 4096);
	f->queue[f->queued++] = first;
	pthread_mutex_unlock(&f->lock);
	return 0;
}

static const struct page_source_ops late_ops = { "late", late_request };

static void *late_main(void *arg)
{
	struct late_filler *f = arg;
	unsigned int seed = 7;
	gfn_t gfn;

	while (!atomic_load(&f->end)) {
		usleep((unsigned int)rand_r(&seed) % 3000);
		pthread_mutex_lock(&f->lock);
		gfn = f->queued ? f->queue[--f->queued] : GFN(UINT64_MAX);
		pthread_mutex_unlock(&f->lock);
		if (gfn.v != UINT64_MAX)
			fill_one(f->mem, gfn);
	}
	return NULL;
}

static void test_stress_every_stop_is_reached_and_no_word_is_wrong(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	struct late_filler f = { .mem = mem, .source.ops = &late_ops };
	struct runner r[STRESS_RUNNERS];
	struct memory_stats stats;
	unsigned int i, stop;

	(void)unused;
	pthread_mutex_init(&f.lock, NULL);
	memory_attach(mem, &f.source);
	assert_int_equal(pthread_create(&f.thread, NULL, late_main, &f), 0);
	for (i = 0; i < STRESS_RUNNERS; i++)
		runner_start(&r[i], mem, GFN(i), i + 1);
	for (stop = 0; stop < STRESS_STOPS && memory_is_late(mem); stop++) {
		for (i = 0; i < STRESS_RUNNERS; i++)
			atomic_store(&r[i].want_park, true);
		for (i = 0; i < STRESS_RUNNERS; i++)
			runner_park(&r[i]);
		assert_int_equal(mem->ejecting, 0);
		for (i = 0; i < STRESS_RUNNERS; i++)
			runner_go_on(&r[i]);
	}
	memory_stats(mem, &stats);
	assert_true(stats.ejects > 0);
	assert_int_equal(stats.direct_accesses, 0);
	/* The rest at once, so that all runners come to an end. */
	for (i = 0; i < 512; i++)
		fill_one(mem, GFN(i));
	for (i = 0; i < STRESS_RUNNERS; i++)
		runner_end(&r[i]);
	atomic_store(&f.end, true);
	pthread_join(f.thread, NULL);
	print_message("%u stops, %lu ejects, %lu faults\n", stop, stats.ejects, stats.faults);
	assert_int_equal(memory_is_late(mem), false);
	memory_detach(mem);
	pthread_mutex_destroy(&f.lock);
	memory_free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_eject_brings_out_and_the_access_is_retried),
		cmocka_unit_test(test_a_bystander_of_an_eject_just_runs_again),
		cmocka_unit_test(test_two_ejected_from_one_page),
		cmocka_unit_test(test_a_kick_before_the_wait_is_made_up_for),
		cmocka_unit_test(test_gup_does_not_touch_a_page_under_eject),
		cmocka_unit_test(test_a_bystander_that_enters_during_an_eject_and_leaves_after_it),
		cmocka_unit_test(test_a_present_page_is_never_ejected_and_efault_is_then_real),
		cmocka_unit_test(test_a_long_wait_moves_to_user_space),
		cmocka_unit_test(test_an_eject_that_misses_is_followed_by_a_signal),
		cmocka_unit_test(test_the_way_may_change_during_an_eject),
		cmocka_unit_test(test_a_thread_does_not_end_under_a_signal),
		cmocka_unit_test(test_an_eject_whose_page_came_is_followed_by_a_signal),
		cmocka_unit_test(test_memory_completes_while_its_last_page_is_ejected_from),
		cmocka_unit_test(test_an_eject_moves_to_the_page_that_is_waited_for_now),
		cmocka_unit_test(test_stress_every_stop_is_reached_and_no_word_is_wrong),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
