// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Who waits for which page, and how they are woken: one book, under wait_lock.
//
//   - A thread inside the kernel (a vCPU in KVM_RUN) is noted when the fault
//     thread reads of it. userfaultfd's fill wakes it; the note is for kicks
//     and statistics. One that has no memory_thread, such as a worker of KVM's
//     own, is kept in one of a few slots, for statistics alone.
//   - A sleeper in gup waits here, on a condition of its own.
//   - A ticket (GUP_NOWAIT) is a function to be called.
//
// Nobody is left behind. Whoever is to wait sets WAITED in the page's byte, and
// finds out by it that the page is not there; whoever makes the page PRESENT
// takes WAITED out of the byte, and comes here if it was set (memory_wake). Of a
// sleeper and a ticket the byte and the entry change under wait_lock, together.
// A thread in the kernel is noted after its WAITED, and the byte looked at once
// more (watch.c). Nor is a page left that nobody asks for: see ask_again.
//
// To be woken means to look again; it does not say that the page is there. How
// threads are brought out of a wait is in eject.c.
#include "memory/wait.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/cond.h"
#include "base/probe.h"
#include "memory/internal.h"

/* ---- threads ---- */

struct memory_thread *memory_thread_new(struct memory *mem, const char *name, int cpu)
{
	struct memory_thread *thread = calloc(1, sizeof(*thread));

	if (!thread)
		return NULL;
	thread->mem = mem;
	thread->cpu = cpu;
	strncpy(thread->name, name, sizeof(thread->name) - 1);
	pthread_mutex_lock(&mem->wait_lock);
	thread->next = mem->threads;
	mem->threads = thread;
	pthread_mutex_unlock(&mem->wait_lock);
	return thread;
}

void memory_thread_free(struct memory_thread *thread)
{
	struct memory_thread **p;
	struct memory *mem;

	if (!thread)
		return;
	mem = thread->mem;
	pthread_mutex_lock(&mem->wait_lock);
	for (p = &mem->threads; *p != thread; p = &(*p)->next)
		;
	*p = thread->next;
	pthread_mutex_unlock(&mem->wait_lock);
	free(thread);
}

void memory_thread_bind(struct memory_thread *thread)
{
	atomic_store(&thread->tid, (pid_t)syscall(SYS_gettid));
}

/*
 * Its number may be another thread's as soon as it has ended. Under the lock: a
 * signal that is under way is waited for.
 */
void memory_thread_unbind(struct memory_thread *thread)
{
	pthread_mutex_lock(&thread->mem->wait_lock);
	atomic_store(&thread->tid, 0);
	atomic_store(&thread->wait.active, false);
	pthread_mutex_unlock(&thread->mem->wait_lock);
}

/* ---- who waits inside the kernel ---- */

/*
 * The note is for statistics and for kicks; that the page is waited for stands
 * in its WAITED bit.
 */
static void wait_note(struct wait *wait, gfn_t gfn, int64_t now)
{
	/* The same wait reported again keeps its beginning. */
	if (!atomic_load(&wait->active) || wait->gfn.v != gfn.v)
		wait->since_ns = wait->tried_ns = now;
	wait->gfn = gfn;
	atomic_store(&wait->active, true);
}

static void unregistered_note(struct memory *mem, pid_t tid, gfn_t gfn, int64_t now)
{
	struct memory_unregistered *free_slot = NULL, *s;

	for (s = mem->unregistered; s < mem->unregistered + MEMORY_UNREGISTERED; s++) {
		if (atomic_load(&s->wait.active) && s->tid == tid) {
			free_slot = s;
			break;
		}
		if (!atomic_load(&s->wait.active) && !free_slot)
			free_slot = s;
	}
	if (!free_slot)
		return;
	free_slot->tid = tid;
	wait_note(&free_slot->wait, gfn, now);
}

void memory_note_wait(struct memory *mem, pid_t tid, gfn_t gfn, struct memory_thread **kicked)
{
	int64_t now = clock_now_ns();
	struct memory_thread *thread;

	pthread_mutex_lock(&mem->wait_lock);
	for (thread = mem->threads; thread; thread = thread->next)
		if (atomic_load(&thread->tid) == tid)
			break;
	PROBE_FAULT(gfn.v, tid, thread ? thread->cpu : -1);
	if (thread) {
		wait_note(&thread->wait, gfn, now);
		/*
		 * A kick that came before this report found nobody waiting; its
		 * eject is made up for now.
		 */
		if (atomic_load(&thread->kicked) && mem->way == WAY_OUT_EJECT)
			*kicked = thread;
	} else {
		unregistered_note(mem, tid, gfn, now);
	}
	pthread_mutex_unlock(&mem->wait_lock);
}

void memory_wait_clear(struct memory_thread *thread)
{
	if (!atomic_load(&thread->wait.active))
		return;
	pthread_mutex_lock(&thread->mem->wait_lock);
	atomic_store(&thread->wait.active, false);
	pthread_mutex_unlock(&thread->mem->wait_lock);
}

unsigned int memory_waiters(struct memory *mem, struct memory_waiter *waiters, unsigned int max)
{
	struct memory_thread *thread;
	struct gup_wait *gw;
	unsigned int i, n = 0;

	pthread_mutex_lock(&mem->wait_lock);
	for (thread = mem->threads; thread && n < max; thread = thread->next) {
		if (!atomic_load(&thread->wait.active))
			continue;
		waiters[n] = (struct memory_waiter){
			.cpu = thread->cpu,
			.gpa = gfn_to_gpa(thread->wait.gfn),
			.since_ns = thread->wait.since_ns,
		};
		memcpy(waiters[n++].name, thread->name, sizeof(thread->name));
	}
	for (gw = mem->gup_waits; gw && n < max; gw = gw->next) {
		if (gw->self && atomic_load(&gw->self->wait.active))
			continue;	/* waits in user space: shown above */
		waiters[n++] = (struct memory_waiter){
			.name = "gup", .cpu = -1,
			.gpa = gfn_to_gpa(gw->gfn), .since_ns = gw->since_ns,
		};
	}
	for (i = 0; i < MEMORY_UNREGISTERED && n < max; i++)
		if (atomic_load(&mem->unregistered[i].wait.active))
			waiters[n++] = (struct memory_waiter){
				.name = "other", .cpu = -1,
				.gpa = gfn_to_gpa(mem->unregistered[i].wait.gfn),
				.since_ns = mem->unregistered[i].wait.since_ns,
			};
	pthread_mutex_unlock(&mem->wait_lock);
	return n;
}

/*
 * Somebody has just entered himself as waiting for this page. He has asked for
 * it before, when there may have been no source, or when the page was there and
 * has gone since (memory_invalidate). Whoever attaches a source, or takes a
 * page away, asks for those whose WAITED he sees; he who set it afterwards asks
 * here.
 */
static void ask_again(struct memory *mem, unsigned int region, uint64_t offset)
{
	if (state_of(state_load(&mem->state[region][offset])) == PAGE_MISSING)
		memory_ask(mem, region, offset, 1);
}

/* ---- tickets ---- */

/* With wait_lock held. */
static void ticket_enter(struct memory *mem, struct gup_ticket *ticket, gfn_t gfn)
{
	ticket->gfn = gfn;
	ticket->since_ns = clock_now_ns();
	ticket->armed = true;
	ticket->next = mem->tickets;
	mem->tickets = ticket;
}

bool memory_ticket_arm_room(struct memory *mem, struct gup_ticket *ticket, gfn_t gfn)
{
	bool armed;

	pthread_mutex_lock(&mem->wait_lock);
	assert(!ticket->armed);
	armed = !atomic_load(&mem->shut) && memory_room_is_wanted(mem);
	if (armed)
		ticket_enter(mem, ticket, gfn);
	pthread_mutex_unlock(&mem->wait_lock);
	return armed;
}

bool memory_ticket_arm(struct memory *mem, struct gup_ticket *ticket, unsigned int region,
		       uint64_t offset)
{
	bool armed;

	memory_begin(mem, region, offset);
	pthread_mutex_lock(&mem->wait_lock);
	assert(!ticket->armed);
	/* Lost since the caller looked: nobody would fire it. */
	armed = !atomic_load(&mem->shut) && state_set_waited(&mem->state[region][offset]) &&
		state_of(state_load(&mem->state[region][offset])) != PAGE_LOST;
	if (armed)
		ticket_enter(mem, ticket, GFN(mem->region[region].first.v + offset));
	pthread_mutex_unlock(&mem->wait_lock);
	/* The ticket is not looked at any more: it may have fired. */
	if (armed)
		ask_again(mem, region, offset);
	return armed;
}

bool gup_ticket_cancel(struct memory *mem, struct gup_ticket *ticket)
{
	struct gup_ticket **p;
	bool was = false;

	pthread_mutex_lock(&mem->wait_lock);
	for (p = &mem->tickets; *p; p = &(*p)->next) {
		if (*p != ticket)
			continue;
		*p = ticket->next;
		ticket->armed = false;
		was = true;
		break;
	}
	pthread_mutex_unlock(&mem->wait_lock);
	return was;
}

/* ---- sleeping ---- */

bool memory_wait_is_off(const struct memory *mem, const struct memory_thread *self)
{
	return atomic_load(&mem->shut) || (self && atomic_load(&self->kicked));
}

/* In the book; wait_lock held. */
static void sleeper_enter(struct memory *mem, struct gup_wait *wait, bool *unlocked)
{
	wait->next = mem->gup_waits;
	mem->gup_waits = wait;
	mem->sleepers++;
	count_add(&mem->n_gup_sleeps, 1);
	if (unlocked)
		*unlocked = true;
}

/* Until it is woken; the map lock is dropped meanwhile. */
static void sleeper_sleep(struct memory *mem, struct gup_wait *wait, int64_t deadline_ns)
{
	struct gup_wait **p;
	int r = 0;

	memory_map_unlock(mem);
	pthread_mutex_lock(&mem->wait_lock);
	while (!wait->woken && r != ETIMEDOUT)
		r = cond_wait(&wait->cond, &mem->wait_lock, deadline_ns ? deadline_ns : INT64_MAX);
	for (p = &mem->gup_waits; *p != wait; p = &(*p)->next)
		;
	*p = wait->next;
	if (!--mem->sleepers)
		pthread_cond_broadcast(&mem->no_sleepers);
	pthread_mutex_unlock(&mem->wait_lock);
	memory_map_lock(mem);
}

void memory_wait_sleep(struct memory *mem, unsigned int region, uint64_t offset,
		       int64_t deadline_ns, struct memory_thread *self, bool lost_ends,
		       bool *unlocked)
{
	struct gup_wait wait = {
		.self = self,
		.gfn = GFN(mem->region[region].first.v + offset),
		.since_ns = clock_now_ns(),
	};
	state_byte *state = &mem->state[region][offset];
	bool sleeps;

	memory_begin(mem, region, offset);
	cond_init(&wait.cond);
	pthread_mutex_lock(&mem->wait_lock);
	sleeps = !memory_wait_is_off(mem, self) && state_set_waited(state) &&
		 !(lost_ends && state_of(state_load(state)) == PAGE_LOST);
	if (sleeps)
		sleeper_enter(mem, &wait, unlocked);
	pthread_mutex_unlock(&mem->wait_lock);
	if (sleeps) {
		ask_again(mem, region, offset);
		sleeper_sleep(mem, &wait, deadline_ns);
	}
	pthread_cond_destroy(&wait.cond);
}

void memory_wait_room(struct memory *mem, gfn_t gfn, int64_t deadline_ns,
		      struct memory_thread *self, bool *unlocked)
{
	struct gup_wait wait = { .self = self, .gfn = gfn, .since_ns = clock_now_ns() };
	bool sleeps;

	cond_init(&wait.cond);
	pthread_mutex_lock(&mem->wait_lock);
	sleeps = !memory_wait_is_off(mem, self) && memory_room_is_wanted(mem);
	if (sleeps)
		sleeper_enter(mem, &wait, unlocked);
	pthread_mutex_unlock(&mem->wait_lock);
	if (sleeps)
		sleeper_sleep(mem, &wait, deadline_ns);
	pthread_cond_destroy(&wait.cond);
}

bool memory_wait_page(struct memory *mem, gfn_t gfn, struct memory_thread *self)
{
	unsigned int region;
	bool usable = false;
	uint64_t offset;

	memory_map_lock(mem);
	while (!memory_wait_is_off(mem, self) && memory_find(mem, gfn, 1, &region, &offset) &&
	       !(usable = state_usable(state_load(&mem->state[region][offset])))) {
		memory_ask(mem, region, offset, 1);
		memory_wait_sleep(mem, region, offset, 0, self, false, NULL);
	}
	memory_map_unlock(mem);
	return usable;
}

/* ---- waking ---- */

static bool gfn_in(gfn_t gfn, gfn_t first, uint64_t n)
{
	return gfn.v >= first.v && gfn.v - first.v < n;
}

/* Keeps the earlier beginning in *since. */
static void wait_end(struct memory *mem, struct wait *wait, gfn_t first, uint64_t n, int64_t now,
		     int64_t *since)
{
	if (!atomic_load(&wait->active) || !gfn_in(wait->gfn, first, n))
		return;
	hist_add(&mem->latency, now - wait->since_ns);
	*since = wait->since_ns < *since ? wait->since_ns : *since;
	atomic_store(&wait->active, false);
}

/* A page that is usable is waited for only because there was no room for a copy of it. */
static bool wants_room(struct memory *mem, gfn_t gfn)
{
	unsigned int region;
	uint64_t offset;

	return memory_find(mem, gfn, 1, &region, &offset) &&
	       state_usable(state_load(&mem->state[region][offset]));
}

/*
 * Unlinks the tickets for [first, first + n), or all with n == UINT64_MAX, or
 * with n == 0 those that want room; wait_lock held.
 */
static struct gup_ticket *tickets_take(struct memory *mem, gfn_t first, uint64_t n)
{
	struct gup_ticket **p = &mem->tickets, *ticket, *taken = NULL;

	while ((ticket = *p)) {
		if (n != UINT64_MAX &&
		    !(n ? gfn_in(ticket->gfn, first, n) : wants_room(mem, ticket->gfn))) {
			p = &ticket->next;
			continue;
		}
		*p = ticket->next;
		ticket->next = taken;
		ticket->armed = false;
		taken = ticket;
	}
	return taken;
}

/* Fires them; *since as wait_end. */
static void tickets_fire(struct gup_ticket *ticket, int64_t *since)
{
	struct gup_ticket *next;

	for (; ticket; ticket = next) {
		/* Its owner may free it as soon as it has fired. */
		next = ticket->next;
		*since = ticket->since_ns < *since ? ticket->since_ns : *since;
		ticket->fire(ticket);
	}
}

int64_t memory_wake(struct memory *mem, gfn_t first, uint64_t n, bool filled)
{
	int64_t now = clock_now_ns(), since = now;
	struct gup_ticket *tickets;
	struct memory_thread *thread;
	struct gup_wait *wait;
	unsigned int i;

	pthread_mutex_lock(&mem->wait_lock);
	for (wait = mem->gup_waits; wait; wait = wait->next) {
		if (!gfn_in(wait->gfn, first, n))
			continue;
		/* A thread that waits in user space is counted as the wait that it began with. */
		if (filled && !wait->woken &&
		    !(wait->self && atomic_load(&wait->self->wait.active)))
			hist_add(&mem->latency, now - wait->since_ns);
		if (!wait->woken && wait->since_ns < since)
			since = wait->since_ns;
		wait->woken = true;
		pthread_cond_signal(&wait->cond);
	}
	if (filled) {
		for (thread = mem->threads; thread; thread = thread->next)
			wait_end(mem, &thread->wait, first, n, now, &since);
		for (i = 0; i < MEMORY_UNREGISTERED; i++)
			wait_end(mem, &mem->unregistered[i].wait, first, n, now, &since);
	}
	tickets = tickets_take(mem, first, n);
	pthread_mutex_unlock(&mem->wait_lock);
	tickets_fire(tickets, &since);
	return now - since;
}

void memory_wake_room(struct memory *mem)
{
	struct gup_ticket *tickets;
	struct gup_wait *wait;
	int64_t since = 0;

	pthread_mutex_lock(&mem->wait_lock);
	memory_room_let_go(mem);
	for (wait = mem->gup_waits; wait; wait = wait->next) {
		if (!wants_room(mem, wait->gfn))
			continue;
		wait->woken = true;
		pthread_cond_signal(&wait->cond);
	}
	tickets = tickets_take(mem, GFN(0), 0);
	pthread_mutex_unlock(&mem->wait_lock);
	tickets_fire(tickets, &since);
	memory_spans_release(mem);
}

void memory_wake_all(struct memory *mem)
{
	struct gup_ticket *tickets;
	struct gup_wait *wait;
	int64_t since = 0;

	pthread_mutex_lock(&mem->wait_lock);
	memory_room_let_go(mem);
	for (wait = mem->gup_waits; wait; wait = wait->next) {
		wait->woken = true;
		pthread_cond_signal(&wait->cond);
	}
	tickets = tickets_take(mem, GFN(0), UINT64_MAX);
	while (mem->sleepers)
		pthread_cond_wait(&mem->no_sleepers, &mem->wait_lock);
	pthread_mutex_unlock(&mem->wait_lock);
	tickets_fire(tickets, &since);
}
