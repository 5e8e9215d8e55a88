// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// The door. The fast path is one compare-and-swap a page, which looks and pins in one step; everything else happens
// when a page is not usable: see the order of checks in gup.h.
#include "memory/gup.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "memory/internal.h"

void memory_map_lock(struct memory *mem)
{
	pthread_rwlock_rdlock(&mem->map_lock);
}

void memory_map_unlock(struct memory *mem)
{
	pthread_rwlock_unlock(&mem->map_lock);
}

/* ---- pins ---- */

static void gup_unpin(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n)
{
	uint64_t i;

	for (i = 0; i < n; i++)
		state_unpin(&mem->state[region][offset + i]);
}

/* Pins all n pages, or none: then *bad is the first that is not usable, *byte what it was. */
static bool gup_pin(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n, bool dirty,
		    uint64_t *bad, uint8_t *byte)
{
	uint64_t i;

	for (i = 0; i < n; i++) {
		*byte = state_pin(&mem->state[region][offset + i], dirty);
		if (state_usable(*byte))
			continue;
		gup_unpin(mem, region, offset, i);
		*bad = offset + i;
		return false;
	}
	return true;
}

void gup_put(struct memory *mem, struct gup_span *span)
{
	unsigned int region;
	uint64_t offset;
	bool found = memory_find(mem, span->first, span->pages, &region, &offset);

	assert(found);
	if (found)
		gup_unpin(mem, region, offset, span->pages);
	*span = (struct gup_span){ 0 };
}

/* ---- tickets ---- */

/* Arms the ticket for a page. False: the page is usable by now (or memory shuts down), look again. */
static bool ticket_arm(struct memory *mem, struct gup_ticket *ticket, unsigned int region,
		       uint64_t offset)
{
	bool armed;

	pthread_mutex_lock(&mem->wait_lock);
	assert(!ticket->armed);
	/* Lost since the caller looked: nobody would fire it. */
	armed = !atomic_load(&mem->shut) && state_set_waited(&mem->state[region][offset]) &&
		state_of(state_load(&mem->state[region][offset])) != PAGE_LOST;
	if (armed) {
		ticket->gfn = GFN(mem->region[region].first.v + offset);
		ticket->since_ns = clock_now_ns();
		ticket->armed = true;
		ticket->next = mem->tickets;
		mem->tickets = ticket;
	}
	pthread_mutex_unlock(&mem->wait_lock);
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

/* ---- waking ---- */

static bool gfn_in(gfn_t gfn, gfn_t first, uint64_t n)
{
	return gfn.v >= first.v && gfn.v - first.v < n;
}

/* Keeps the earlier beginning in *since. */
static void wait_end(struct memory *mem, struct wait *wait, gfn_t first, uint64_t n, int64_t now, int64_t *since)
{
	if (!atomic_load(&wait->active) || !gfn_in(wait->gfn, first, n))
		return;
	hist_add(&mem->latency, now - wait->since_ns);
	*since = wait->since_ns < *since ? wait->since_ns : *since;
	atomic_store(&wait->active, false);
}

/* Unlinks the tickets for [first, first + n), or all with n == UINT64_MAX; wait_lock held. */
static struct gup_ticket *tickets_take(struct memory *mem, gfn_t first, uint64_t n)
{
	struct gup_ticket **p = &mem->tickets, *ticket, *taken = NULL;

	while ((ticket = *p)) {
		if (n != UINT64_MAX && !gfn_in(ticket->gfn, first, n)) {
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
		/* A thread that sits out is counted as the wait that it began with. */
		if (filled && !wait->woken && !(wait->self && atomic_load(&wait->self->wait.active)))
			hist_add(&mem->latency, now - wait->since_ns);
		if (!wait->woken && wait->since_ns < since)
			since = wait->since_ns;
		wait->woken = true;
		pthread_cond_signal(&wait->cond);
	}
	if (filled) {
		for (thread = mem->threads; thread; thread = thread->next)
			wait_end(mem, &thread->wait, first, n, now, &since);
		for (i = 0; i < MEMORY_STRANGERS; i++)
			wait_end(mem, &mem->stranger[i].wait, first, n, now, &since);
	}
	tickets = tickets_take(mem, first, n);
	pthread_mutex_unlock(&mem->wait_lock);
	tickets_fire(tickets, &since);
	return now - since;
}

void memory_wake_all(struct memory *mem)
{
	struct gup_ticket *tickets;
	struct gup_wait *wait;
	int64_t since = 0;

	pthread_mutex_lock(&mem->wait_lock);
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

/* ---- sleeping ---- */

static bool gup_interrupted(const struct memory *mem, const struct memory_thread *self)
{
	return atomic_load(&mem->shut) || (self && atomic_load(&self->kicked));
}

/*
 * Sleeps until the page at offset is usable or (lost_ends) lost, self is kicked, memory shuts down, or the deadline has passed; the
 * map lock is dropped meanwhile. Returns without sleep, and without dropping the lock, when one of these is so already.
 * The caller looks again in any case.
 */
static void gup_sleep(struct memory *mem, unsigned int region, uint64_t offset, int64_t deadline_ns,
		      struct memory_thread *self, bool lost_ends, bool *unlocked)
{
	struct timespec until = clock_to_timespec(deadline_ns);
	struct gup_wait wait = {
		.self = self,
		.gfn = GFN(mem->region[region].first.v + offset),
		.since_ns = clock_now_ns(),
	}, **p;
	state_byte *state = &mem->state[region][offset];
	pthread_condattr_t attr;
	int r = 0;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&wait.cond, &attr);
	pthread_condattr_destroy(&attr);

	pthread_mutex_lock(&mem->wait_lock);
	if (gup_interrupted(mem, self) || !state_set_waited(state) ||
	    (lost_ends && state_of(state_load(state)) == PAGE_LOST)) {
		pthread_mutex_unlock(&mem->wait_lock);
		pthread_cond_destroy(&wait.cond);
		return;
	}
	wait.next = mem->gup_waits;
	mem->gup_waits = &wait;
	mem->sleepers++;
	count_add(&mem->n_gup_sleeps, 1);
	if (unlocked)
		*unlocked = true;
	memory_map_unlock(mem);
	while (!wait.woken && r != ETIMEDOUT)
		r = deadline_ns ? pthread_cond_timedwait(&wait.cond, &mem->wait_lock, &until) :
				  pthread_cond_wait(&wait.cond, &mem->wait_lock);
	for (p = &mem->gup_waits; *p != &wait; p = &(*p)->next)
		;
	*p = wait.next;
	if (!--mem->sleepers)
		pthread_cond_broadcast(&mem->no_sleepers);
	pthread_mutex_unlock(&mem->wait_lock);
	pthread_cond_destroy(&wait.cond);
	memory_map_lock(mem);
}

bool memory_wait_page(struct memory *mem, gfn_t gfn, struct memory_thread *self)
{
	unsigned int region;
	bool usable = false;
	uint64_t offset;

	memory_map_lock(mem);
	while (!gup_interrupted(mem, self) && memory_find(mem, gfn, 1, &region, &offset) &&
	       !(usable = state_usable(state_load(&mem->state[region][offset])))) {
		memory_ask(mem, region, offset, 1);
		gup_sleep(mem, region, offset, 0, self, false, NULL);
	}
	memory_map_unlock(mem);
	return usable;
}

/* ---- gup ---- */

static const struct gup_opts gup_no_opts;

int gup(struct memory *mem, gpa_t gpa, size_t len, unsigned int flags, const struct gup_opts *opts,
	struct gup_span *span)
{
	struct memory_thread *self;
	uint64_t offset, bad, last, n;
	unsigned int region;
	uint8_t byte;

	if (!opts)
		opts = &gup_no_opts;
	assert(!(flags & GUP_INTERRUPTIBLE) || opts->self);
	if (!len || __builtin_add_overflow(gpa.v, len - 1, &last))
		return -EFAULT;
	n = last / PAGE_BYTES - gpa.v / PAGE_BYTES + 1;
	self = (flags & (GUP_INTERRUPTIBLE | GUP_NOWAIT)) == GUP_INTERRUPTIBLE ? opts->self : NULL;

	for (;;) {
		/* Inside the loop: a sleep has dropped the map lock. */
		if (!memory_find(mem, gpa_to_gfn(gpa), n, &region, &offset))
			return -EFAULT;
		if (gup_pin(mem, region, offset, n, flags & GUP_WRITE, &bad, &byte))
			break;
		if (gup_interrupted(mem, self))
			return -EINTR;
		if (state_of(byte) == PAGE_LOST)
			return -EIO;
		memory_ask(mem, region, bad, n - (bad - offset));
		if (flags & GUP_NOWAIT) {
			if (opts->ticket && !ticket_arm(mem, opts->ticket, region, bad))
				continue;
			return -EAGAIN;
		}
		if (opts->deadline_ns && clock_now_ns() >= opts->deadline_ns)
			return -ETIMEDOUT;
		gup_sleep(mem, region, bad, opts->deadline_ns, self, true, opts->unlocked);
	}
	*span = (struct gup_span){
		.hva = mem->region[region].host + offset * PAGE_BYTES + gpa_offset(gpa),
		.len = len,
		.first = gpa_to_gfn(gpa),
		.pages = n,
	};
	return 0;
}

/* ---- copies ---- */

static int gup_copy(struct memory *mem, gpa_t gpa, uint8_t *to, const uint8_t *from, size_t len,
		    unsigned int flags, const struct gup_opts *opts)
{
	struct gup_span span;
	size_t part;
	int r = 0;

	memory_map_lock(mem);
	while (len && !r) {
		part = PAGE_BYTES - gpa_offset(gpa);
		if (part > len)
			part = len;
		r = gup(mem, gpa, part, flags, opts, &span);
		if (r)
			break;
		if (to) {
			memcpy(to, span.hva, part);
			to += part;
		} else {
			memcpy(span.hva, from, part);
			from += part;
		}
		gup_put(mem, &span);
		len -= part;
		if (len && __builtin_add_overflow(gpa.v, part, &gpa.v))
			r = -EFAULT;
	}
	memory_map_unlock(mem);
	return r;
}

int gup_read(struct memory *mem, gpa_t gpa, void *to, size_t len, unsigned int flags,
	     const struct gup_opts *opts)
{
	return gup_copy(mem, gpa, to, NULL, len, flags, opts);
}

int gup_write(struct memory *mem, gpa_t gpa, const void *from, size_t len, unsigned int flags,
	      const struct gup_opts *opts)
{
	return gup_copy(mem, gpa, NULL, from, len, flags | GUP_WRITE, opts);
}
