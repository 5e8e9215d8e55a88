// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Where pages' content is thrown away. Two reasons, one mechanism:
//
//   discard     The guest does not need what they hold (its balloon). They stay
//               PRESENT, read as zeros, and the kernel brings memory for them
//               when they are touched. That is right only once nothing is
//               watched any more: while memory is late, the kernel would report
//               a touch of an emptied page as one of a page that has not come.
//               Of backed memory (backing.c) an emptied page would be the
//               image's again, so a page of zeros takes its place, at any time.
//   invalidate  What they hold is out of date and is to come anew: PRESENT ->
//               MISSING. That is right only while memory is late: once nothing
//               is watched, an emptied page reads as zeros.
//
// A huge page at a time, with its lock held, which keeps fillers away. A mark in
// the bytes keeps gup away (EJECTING, or REQUESTED) from a run of pages that
// nobody holds; the kernel drops them; the bytes say what they are now. Whoever
// came meanwhile waits, or has a ticket, and is seen to once the lock is
// released: woken, or his page is asked for. What somebody holds stays as it is.
//
// What is thrown away is of before, wherever it is: copies that wait in a staging
// area (sink.c) are forgotten first.
//
// Memory does not complete between the two: whoever makes a page REQUESTED has
// counted it as missing before, and never when that count was zero. Pages that
// turn out to be held are uncounted after the lock, since that may complete.
#include <errno.h>
#include <sys/mman.h>

#include "memory/internal.h"

/* Pages of one huge page, on their way. */
struct drop {
	struct memory *mem;
	const struct drop_ops *ops;
	unsigned int region;
	int64_t gone;			/* pages that were dropped */
	int error;			/* the worst that happened to the others, or 0 */
	uint64_t kept;			/* pages that are counted as missing and are not */
	struct wakes wake;		/* whose waiters are to be woken */
	struct wakes ask;		/* which are to be asked for */
	struct wakes forgotten;		/* of which the sink held a copy */
};

struct drop_ops {
	/* Before a lock is held; may be NULL. */
	void (*before)(struct drop *drop, uint64_t offset, uint64_t n);
	/*
	 * The kernel has dropped them, before gup is let in; may be NULL. How
	 * many of them are gone?
	 */
	uint64_t (*dropped)(struct drop *drop, uint64_t offset, uint64_t n);
	/* Keeps gup away from a page. False: it stays as it is. */
	bool (*start)(struct drop *drop, state_byte *s);
	/* The kernel has dropped the page (gone), or would not; lets gup in. */
	void (*end)(struct drop *drop, uint64_t offset, bool gone);
	/* No lock is held any more; `offset` is a page of the huge page. */
	void (*after)(struct drop *drop, uint64_t offset);
};

static void drop_note(struct wakes *wakes, uint64_t offset)
{
	wakes->page[offset % HUGE_PAGES / 64] |= UINT64_C(1) << (offset % 64);
}

/* Calls fn for each page of the set; `offset` is any page of the huge page. */
static void drop_each(struct drop *drop, const struct wakes *set, uint64_t offset,
		      void (*fn)(struct drop *drop, uint64_t offset))
{
	unsigned int word;
	uint64_t bits;

	for (word = 0; word < HUGE_PAGES / 64; word++)
		for (bits = set->page[word]; bits; bits &= bits - 1)
			fn(drop, offset - offset % HUGE_PAGES + 64 * word +
				 (unsigned int)__builtin_ctzll(bits));
}

/* ---- the mechanism ---- */

static void drop_run(struct drop *drop, uint64_t offset, uint64_t n)
{
	uint8_t *host = drop->mem->region[drop->region].host + offset * PAGE_BYTES;
	int r = madvise(host, n * PAGE_BYTES, MADV_DONTNEED) < 0 ? -EPERM : 0;
	uint64_t i, gone;

	if (r < 0 && n > 1) {
		/* Locked memory, say, perhaps of some: page by page it is known which are gone. */
		for (i = 0; i < n; i++)
			drop_run(drop, offset + i, 1);
		return;
	}
	gone = r ? 0 : drop->ops->dropped ? drop->ops->dropped(drop, offset, n) : n;
	for (i = 0; i < n; i++)
		drop->ops->end(drop, offset + i, !r);
	drop->gone += (int64_t)gone;
	drop->error = r ? r : drop->error;
}

/* [offset, offset + n) of one huge page. */
static void drop_huge(struct drop *drop, uint64_t offset, uint64_t n)
{
	state_byte *state = drop->mem->state[drop->region];
	uint64_t at = offset, start;
	pthread_mutex_t *lock;

	if (drop->ops->before)
		drop->ops->before(drop, offset, n);
	/* There is nothing to drop. */
	if (!memory_is_begun(drop->mem, drop->region, offset))
		return;
	/* Shared: what is watched stays so. */
	memory_map_lock(drop->mem);
	lock = memory_huge_lock(drop->mem, drop->region, offset);
	while (at < offset + n) {
		for (start = at; at < offset + n && drop->ops->start(drop, &state[at]); at++)
			;
		if (at > start)
			drop_run(drop, start, at - start);
		at++;
	}
	pthread_mutex_unlock(lock);
	memory_map_unlock(drop->mem);
	drop->ops->after(drop, offset);
	drop->wake = drop->ask = drop->forgotten = (struct wakes){ 0 };
}

static void drop_pages(struct drop *drop, uint64_t offset, uint64_t n)
{
	uint64_t i, part;

	for (i = 0; i < n; i += part) {
		part = HUGE_PAGES - (offset + i) % HUGE_PAGES;
		part = part < n - i ? part : n - i;
		drop_huge(drop, offset + i, part);
	}
}

/* ---- discard ---- */

/* A page of backed memory that somebody else has brought is this machine's to give up as well. */
static void discard_before(struct drop *drop, uint64_t offset, uint64_t n)
{
	memory_look(drop->mem, drop->region, offset, n);
}

/* What was dropped of backed memory would be read from the image again. */
static uint64_t discard_dropped(struct drop *drop, uint64_t offset, uint64_t n)
{
	return memory_is_backed(drop->mem) ?
		       memory_backing_zero(drop->mem, drop->region, offset, n) :
		       n;
}

/* Is it not wanted by a snapshot as it is, or has that a copy now? */
static bool drop_may(struct drop *drop, const state_byte *s)
{
	return memory_span_open(drop->mem, drop->region,
				(uint64_t)(s - drop->mem->state[drop->region]), SPANS_ROOM_USUAL);
}

static bool discard_start(struct drop *drop, state_byte *s)
{
	return drop_may(drop, s) && state_start_discard(s);
}

/* What the kernel keeps holds what it held, which is as good. */
static void discard_end(struct drop *drop, uint64_t offset, bool gone)
{
	(void)gone;
	if (state_end_discard(&drop->mem->state[drop->region][offset]) & STATE_WAITED)
		drop_note(&drop->wake, offset);
}

static void discard_wake(struct drop *drop, uint64_t offset)
{
	memory_wake(drop->mem, GFN(drop->mem->region[drop->region].first.v + offset), 1, false);
}

static void discard_after(struct drop *drop, uint64_t offset)
{
	drop_each(drop, &drop->wake, offset, discard_wake);
}

static const struct drop_ops discard_ops = {
	.before = discard_before,
	.dropped = discard_dropped,
	.start = discard_start,
	.end = discard_end,
	.after = discard_after,
};

int64_t memory_discard(struct memory *mem, gfn_t first, uint64_t n)
{
	struct drop drop = { .mem = mem, .ops = &discard_ops };
	uint64_t offset;

	if (!memory_find(mem, first, n, &drop.region, &offset))
		return -EFAULT;
	/* Never late again once it is not: and then nothing is watched. */
	if (memory_is_late(mem) && !memory_is_backed(mem))
		return 0;
	drop_pages(&drop, offset, n);
	count_add(&mem->n_discarded, (uint64_t)drop.gone);
	return drop.gone;
}

/* ---- invalidate ---- */

/* One page more is missing; never when none was: then memory is complete, or about to be. */
static bool missing_add(struct memory *mem)
{
	uint64_t missing = atomic_load(&mem->n_missing);

	while (missing && !atomic_compare_exchange_weak(&mem->n_missing, &missing, missing + 1))
		;
	return missing;
}

/* A copy that waits in the sink is of before, too: it is not to come back as the truth. */
static void invalidate_before(struct drop *drop, uint64_t offset, uint64_t n)
{
	uint64_t first = drop->mem->region[drop->region].first.v + offset;

	if (memory_is_begun(drop->mem, drop->region, offset))
		memory_rooms_forget(drop->mem, GFN(first), n, &drop->forgotten);
}

static bool invalidate_start(struct drop *drop, state_byte *s)
{
	struct memory *mem = drop->mem;

	if (state_of(state_load(s)) != PAGE_PRESENT)
		return false;
	if (!memory_is_late(mem) || !missing_add(mem)) {
		drop->error = -EINVAL;
		return false;
	}
	/* Counted before, so that nobody who sees the byte counts below zero. */
	count_add(&mem->n_requested, 1);
	if (drop_may(drop, s) && state_freeze(s))
		return true;
	count_sub(&mem->n_requested, 1);
	drop->kept++;
	drop->error = drop->error ? drop->error : -EBUSY;
	return false;
}

static void invalidate_end(struct drop *drop, uint64_t offset, bool gone)
{
	struct memory *mem = drop->mem;
	uint8_t old;

	if (gone) {
		old = state_drop(&mem->state[drop->region][offset]);
		if (state_of(old) == PAGE_REQUESTED)
			count_sub(&mem->n_requested, 1);
		if (old & STATE_WAITED)
			drop_note(&drop->ask, offset);
	} else {
		memory_publish(mem, drop->region, offset, 1, &drop->wake);
		drop->kept++;
	}
	/* As if it had not come; or it was published, and counted, a second time. */
	count_sub(&mem->n_filled, 1);
}

/* Its answer has come, and is forgotten: it was asked of nobody. */
static void invalidate_unask(struct drop *drop, uint64_t offset)
{
	state_byte *s = &drop->mem->state[drop->region][offset];

	if (state_unask(s))
		count_sub(&drop->mem->n_requested, 1);
	if (state_load(s) & STATE_WAITED)
		drop_note(&drop->ask, offset);
}

static void invalidate_ask(struct drop *drop, uint64_t offset)
{
	memory_ask(drop->mem, drop->region, offset, 1);
}

static void invalidate_after(struct drop *drop, uint64_t offset)
{
	memory_wake_published(drop->mem, drop->region, offset, &drop->wake);
	drop_each(drop, &drop->forgotten, offset, invalidate_unask);
	drop_each(drop, &drop->ask, offset, invalidate_ask);
	memory_count_fresh(drop->mem, drop->kept);
	drop->kept = 0;
}

static const struct drop_ops invalidate_ops = {
	.before = invalidate_before,
	.start = invalidate_start,
	.end = invalidate_end,
	.after = invalidate_after,
};

static int64_t invalidate(struct memory *mem, gfn_t first, uint64_t n)
{
	struct drop drop = { .mem = mem, .ops = &invalidate_ops };
	uint64_t offset;

	if (!memory_find(mem, first, n, &drop.region, &offset))
		return -EFAULT;
	if (mem->uffd < 0 || !memory_is_late(mem))
		return -EINVAL;
	drop_pages(&drop, offset, n);
	return drop.error ? drop.error : drop.gone;
}

int64_t memory_invalidate(struct memory *mem, gfn_t first, uint64_t n)
{
	unsigned int region;
	uint64_t offset;

	/* What the memfd holds cannot be taken away from the others, nor another copy put there. */
	if (memory_is_backed(mem) && memory_find(mem, first, n, &region, &offset))
		return -EINVAL;
	return invalidate(mem, first, n);
}

int memory_take_back(struct memory *mem)
{
	unsigned int i;
	int64_t r = 0;

	for (i = 0; i < mem->regions && r >= 0; i++)
		r = invalidate(mem, mem->region[i].first, mem->region[i].pages);
	return r < 0 ? (int)r : 0;
}
