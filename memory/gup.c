// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// The fast path is one compare-and-swap a page, which looks and pins in
// one step; everything else happens when a page is not usable: see the order of
// checks in gup.h. Waiting, and tickets: wait.c.
#include "memory/gup.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "memory/internal.h"
#include "memory/span.h"

void memory_map_lock(struct memory *mem)
{
	pthread_rwlock_rdlock(&mem->map_lock);
}

void memory_map_unlock(struct memory *mem)
{
	pthread_rwlock_unlock(&mem->map_lock);
}

/* ---- pins ---- */

static void gup_unpin(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n,
		      bool dirty)
{
	uint64_t i;

	for (i = 0; i < n; i++)
		state_unpin(&mem->state[region][offset + i], dirty);
}

/* Pins all n pages, or none: then *bad is the first that is not usable, *byte what it was. */
static bool gup_pin(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n,
		    uint64_t *bad, uint8_t *byte)
{
	uint64_t i;

	for (i = 0; i < n; i++) {
		*byte = state_pin(&mem->state[region][offset + i]);
		if (state_usable(*byte))
			continue;
		gup_unpin(mem, region, offset, i, false);
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
		gup_unpin(mem, region, offset, span->pages, span->flags & GUP_WRITE);
	*span = (struct gup_span){ 0 };
}

/* ---- gup ---- */

static const struct gup_opts gup_no_opts;

/*
 * Its pages are here, and one cannot be copied for a snapshot before it is
 * written, for lack of room. 0: look again.
 */
static int gup_wait_room(struct memory *mem, gfn_t gfn, unsigned int flags,
			 struct memory_thread *self, const struct gup_opts *opts)
{
	if (memory_wait_is_off(mem, self))
		return -EINTR;
	if (flags & GUP_NOWAIT)
		return opts->ticket && !memory_ticket_arm_room(mem, opts->ticket, gfn) ? 0 :
											 -EAGAIN;
	if (opts->deadline_ns && clock_now_ns() >= opts->deadline_ns)
		return -ETIMEDOUT;
	memory_wait_room(mem, gfn, opts->deadline_ns, self, opts->unlocked);
	return 0;
}

/*
 * Page `bad`, whose byte was `byte`, is not usable; the others up to `end` are
 * asked for with it. 0: look again.
 */
static int gup_wait_page(struct memory *mem, unsigned int region, uint64_t bad, uint64_t end,
			 uint8_t byte, unsigned int flags, struct memory_thread *self,
			 const struct gup_opts *opts)
{
	if (memory_wait_is_off(mem, self))
		return -EINTR;
	if (state_of(byte) == PAGE_LOST)
		return -EIO;
	if (memory_look(mem, region, bad, end - bad))
		return 0;
	memory_ask(mem, region, bad, end - bad);
	if (flags & GUP_NOWAIT)
		return opts->ticket && !memory_ticket_arm(mem, opts->ticket, region, bad) ? 0 :
											    -EAGAIN;
	if (opts->deadline_ns && clock_now_ns() >= opts->deadline_ns)
		return -ETIMEDOUT;
	memory_wait_sleep(mem, region, bad, opts->deadline_ns, self, true, opts->unlocked);
	return 0;
}

/* One look at the pages, and a wait if they are not to be had. 1: they are pinned. */
static int gup_try(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n,
		   unsigned int flags, struct memory_thread *self, const struct gup_opts *opts)
{
	uint64_t bad;
	uint8_t byte;

	if (!gup_pin(mem, region, offset, n, &bad, &byte))
		return gup_wait_page(mem, region, bad, offset + n, byte, flags, self, opts);
	if (!(flags & GUP_WRITE) || memory_spans_may_write(mem, region, offset, n, &bad))
		return 1;
	gup_unpin(mem, region, offset, n, false);
	return gup_wait_room(mem, GFN(mem->region[region].first.v + bad), flags, self, opts);
}

int gup(struct memory *mem, gpa_t gpa, size_t len, unsigned int flags, const struct gup_opts *opts,
	struct gup_span *span)
{
	struct memory_thread *self;
	uint64_t offset, last, n;
	unsigned int region;
	int r;

	if (!opts)
		opts = &gup_no_opts;
	assert(!(flags & GUP_INTERRUPTIBLE) || opts->self);
	if (!len || __builtin_add_overflow(gpa.v, len - 1, &last))
		return -EFAULT;
	n = last / PAGE_BYTES - gpa.v / PAGE_BYTES + 1;
	if (n > UINT32_MAX)
		return -EFAULT;
	self = (flags & (GUP_INTERRUPTIBLE | GUP_NOWAIT)) == GUP_INTERRUPTIBLE ? opts->self : NULL;

	do {
		/* Inside the loop: a sleep has dropped the map lock. */
		if (!memory_find(mem, gpa_to_gfn(gpa), n, &region, &offset))
			return -EFAULT;
		r = gup_try(mem, region, offset, n, flags, self, opts);
	} while (!r);
	if (r < 0)
		return r;
	*span = (struct gup_span){
		.hva = mem->region[region].host + offset * PAGE_BYTES + gpa_offset(gpa),
		.len = len,
		.first = gpa_to_gfn(gpa),
		.pages = (uint32_t)n,
		.flags = flags & GUP_WRITE,
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
