// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Pages come in: UFFDIO_COPY makes them visible whole and in one step, then
// their bytes become PRESENT, then whoever waits in gup or has a ticket is
// woken (UFFDIO_COPY itself wakes those who wait inside the kernel).
//
// All that happens in a huge page happens under its lock: whole huge pages take
// the place of small ones there (stage.c).
#include <errno.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include "base/log.h"
#include "base/probe.h"
#include "memory/internal.h"

/* Newer than Debian 12's headers: Linux' include/uapi/linux/userfaultfd.h. */
#ifndef UFFDIO_MOVE
struct uffdio_move {
	__u64 dst, src, len, mode;
	__s64 move;
};
#define UFFDIO_MOVE _IOWR(UFFDIO, 0x05, struct uffdio_move)
#endif

pthread_mutex_t *memory_huge_lock(struct memory *mem, unsigned int region, uint64_t offset)
{
	uint64_t huge = (mem->region[region].first.v + offset) / HUGE_PAGES;
	pthread_mutex_t *lock = &mem->huge_lock[huge % MEMORY_HUGE_LOCKS];

	pthread_mutex_lock(lock);
	return lock;
}

uint32_t memory_huge_number(const struct memory *mem, unsigned int region, uint64_t offset)
{
	uint64_t before = 0;
	unsigned int r;

	for (r = 0; r < region; r++)
		before += mem->region[r].pages;
	return (uint32_t)((before + offset) / HUGE_PAGES);
}

void memory_huge_at(const struct memory *mem, uint32_t number, unsigned int *region,
		    uint64_t *offset)
{
	*offset = number * HUGE_PAGES;
	for (*region = 0; *offset >= mem->region[*region].pages; ++*region)
		*offset -= mem->region[*region].pages;
}

static uint64_t fill_address(const struct memory *mem, unsigned int region, uint64_t offset)
{
	return (uintptr_t)mem->region[region].host + offset * PAGE_BYTES;
}

int64_t memory_fill_move(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n,
			 uint8_t *pages)
{
	struct uffdio_move move = {
		.dst = fill_address(mem, region, offset), .src = (uintptr_t)pages, .len = n * PAGE_BYTES,
	};

	if (!ioctl(mem->uffd, UFFDIO_MOVE, &move))
		return (int64_t)n;
	return move.move > 0 ? move.move / (int64_t)PAGE_BYTES : -errno;
}

static int64_t fill_zero(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n)
{
	struct uffdio_zeropage zero = {
		.range = { .start = fill_address(mem, region, offset), .len = n * PAGE_BYTES },
	};

	if (!ioctl(mem->uffd, UFFDIO_ZEROPAGE, &zero))
		return (int64_t)n;
	return zero.zeropage > 0 ? zero.zeropage / (int64_t)PAGE_BYTES : -errno;
}

int64_t memory_fill_copy(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n,
			 const uint8_t *pages)
{
	struct uffdio_copy copy = {
		.dst = fill_address(mem, region, offset), .src = (uintptr_t)pages, .len = n * PAGE_BYTES,
	};

	if (!pages)
		return fill_zero(mem, region, offset, n);
	if (mem->backing >= 0)
		return memory_backing_copy(mem, region, offset, n, pages);
	if (!ioctl(mem->uffd, UFFDIO_COPY, &copy))
		return (int64_t)n;
	return copy.copy > 0 ? copy.copy / (int64_t)PAGE_BYTES : -errno;
}

uint64_t memory_publish(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n,
			struct wakes *wakes)
{
	uint64_t i, in, fresh = 0, requested = 0, lost = 0;
	uint8_t old;

	memory_begin(mem, region, offset);
	for (i = 0; i < n; i++) {
		old = state_set_present(&mem->state[region][offset + i]);
		fresh += state_of(old) != PAGE_PRESENT;
		requested += state_of(old) == PAGE_REQUESTED;
		lost += state_of(old) == PAGE_LOST;
		in = (offset + i) % HUGE_PAGES;
		if (old & STATE_WAITED)
			wakes->page[in / 64] |= UINT64_C(1) << (in % 64);
	}
	count_add(&mem->n_filled, fresh);
	count_sub(&mem->n_requested, requested);
	count_sub(&mem->n_lost, lost);
	return fresh;
}

int64_t memory_wake_published(struct memory *mem, unsigned int region, uint64_t offset,
			      const struct wakes *wakes)
{
	uint64_t first = mem->region[region].first.v + offset - offset % HUGE_PAGES, bits;
	int64_t longest = 0, ns;
	unsigned int word;

	for (word = 0; word < HUGE_PAGES / 64; word++)
		for (bits = wakes->page[word]; bits; bits &= bits - 1) {
			ns = memory_wake(mem,
					 GFN(first + 64 * word + (uint64_t)__builtin_ctzll(bits)),
					 1, true);
			longest = ns > longest ? ns : longest;
		}
	return longest;
}

static void fill_tell_complete(struct memory *mem)
{
	if (mem->events.complete)
		mem->events.complete(mem->events.arg);
}

/*
 * The last page has come: the kernel need not watch any more. It does watch
 * backed memory, so that memory_discard can put zeros there; and whoever finds
 * the last page in the memfd may be in gup, and hold map_lock.
 */
static void fill_complete(struct memory *mem)
{
	if (memory_is_backed(mem)) {
		atomic_store(&mem->late, atomic_load(&mem->n_missing) != 0);
		if (!memory_is_late(mem))
			fill_tell_complete(mem);
		return;
	}
	pthread_rwlock_wrlock(&mem->map_lock);
	/*
	 * Memory that failed just now (poison.c) is missing for good, and more
	 * may have been invalidated since.
	 */
	if (atomic_load(&mem->n_missing)) {
		pthread_rwlock_unlock(&mem->map_lock);
		return;
	}
	/* A snapshot still does, and sees to it at its end. */
	if (atomic_load(&mem->spans.phase) == SPANS_OFF)
		memory_unregister(mem);
	/* Sequentially consistent: who sees "not late" sees all that the fills did. */
	atomic_store(&mem->late, false);
	pthread_rwlock_unlock(&mem->map_lock);
	memory_collapse_start(mem);
	fill_tell_complete(mem);
}

void memory_count_fresh(struct memory *mem, uint64_t fresh)
{
	/* The one that takes the count to zero, and no other, completes. */
	if (fresh && atomic_fetch_sub(&mem->n_missing, fresh) == fresh)
		fill_complete(mem);
}

/*
 * Fills [offset, offset + n), none of which was PRESENT a moment ago. Adds to
 * *fresh what came in, also with an error.
 */
static int fill_run(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n,
		    const uint8_t *pages, int64_t *fresh, struct wakes *wakes)
{
	uint64_t i = 0, batch = n;
	int64_t got;

	while (i < n) {
		if (batch > n - i)
			batch = n - i;
		memory_spans_arrive(mem, region, offset + i, batch);
		got = memory_fill_copy(mem, region, offset + i, batch,
				       pages ? pages + i * PAGE_BYTES : NULL);
		if (got > 0) {
			*fresh += (int64_t)memory_publish(mem, region, offset + i, (uint64_t)got, wakes);
			i += (uint64_t)got;
			continue;
		}
		switch (got) {
		case -EAGAIN:		/* the memory map is changing: again */
			break;
		case -EEXIST:
			/*
			 * The kernel has it and it is not published: whole all
			 * the same, and its waiters are not left alone.
			 */
			got = pages && memory_is_backed(mem) ?
				(int64_t)memory_backing_run(mem, region, offset + i, batch) : 1;
			if (!got)
				return -EIO;	/* refused, and yet not there */
			memory_wake_kernel(mem, region, offset + i, (uint64_t)got);
			*fresh += (int64_t)memory_publish(mem, region, offset + i, (uint64_t)got, wakes);
			i += (uint64_t)got;
			break;
		case -ENOENT:
			/*
			 * An eject has cut the mapping in pieces for a moment:
			 * page by page. Or all pages have come by other fillers
			 * and nothing is watched any more: then this one is
			 * PRESENT.
			 */
			if (state_of(state_load(&mem->state[region][offset + i])) == PAGE_PRESENT)
				i++;
			else if (batch == 1)
				return -EFAULT;
			batch = 1;
			break;
		default:
			return (int)got;
		}
	}
	return 0;
}

bool memory_fill_is_over(struct memory *mem, unsigned int region, uint64_t offset)
{
	enum page_state state = state_of(state_load(&mem->state[region][offset]));

	return state == PAGE_PRESENT ||
	       (state == PAGE_LOST &&
		memory_is_poisoned(mem, GFN(mem->region[region].first.v + offset)));
}

int memory_fill_huge(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n,
		     const uint8_t *pages, int64_t *fresh)
{
	pthread_mutex_t *lock = memory_huge_lock(mem, region, offset);
	struct wakes wakes = { 0 };
	int64_t before = *fresh, waited;
	uint64_t i = 0, start;
	int r = 0;

	while (i < n && !r) {
		for (start = i; i < n; i++)
			if (memory_fill_is_over(mem, region, offset + i))
				break;
		if (i > start)
			r = fill_run(mem, region, offset + start, i - start,
				     pages ? pages + start * PAGE_BYTES : NULL, fresh, &wakes);
		else
			i++;
	}
	pthread_mutex_unlock(lock);
	waited = memory_wake_published(mem, region, offset, &wakes);
	if (*fresh > before)
		PROBE_FILL(mem->region[region].first.v + offset, (uint64_t)(*fresh - before), waited);
	return r;
}

int64_t memory_fill(struct memory *mem, gfn_t first, uint64_t n, const void *data)
{
	const uint8_t *pages = data;
	uint64_t offset, i, part;
	unsigned int region;
	int64_t fresh = 0;
	int r = 0;

	if (!memory_find(mem, first, n, &region, &offset))
		return -EFAULT;
	if (mem->uffd < 0)
		return 0;
	for (i = 0; i < n && !r; i += part) {
		part = HUGE_PAGES - (offset + i) % HUGE_PAGES;
		part = part < n - i ? part : n - i;
		r = memory_fill_huge(mem, region, offset + i, part,
				     pages ? pages + i * PAGE_BYTES : NULL, &fresh);
	}
	memory_count_fresh(mem, (uint64_t)fresh);
	if (r < 0)
		return r;
	count_add(&mem->n_duplicates, n - (uint64_t)fresh);
	return fresh;
}

int memory_lose(struct memory *mem, gfn_t gfn)
{
	pthread_mutex_t *lock;
	unsigned int region;
	uint64_t offset;
	uint8_t old;

	if (!memory_find(mem, gfn, 1, &region, &offset))
		return -EFAULT;
	/*
	 * A copy that has come and waits for the rest of its huge page is as
	 * good as one that is PRESENT.
	 */
	if (memory_rooms_place(mem, gfn))
		return 0;
	lock = memory_huge_lock(mem, region, offset);
	memory_begin(mem, region, offset);
	old = state_set_lost(&mem->state[region][offset]);
	pthread_mutex_unlock(lock);
	if (state_of(old) == PAGE_PRESENT || state_of(old) == PAGE_LOST)
		return 0;
	if (state_of(old) == PAGE_REQUESTED)
		count_sub(&mem->n_requested, 1);
	count_add(&mem->n_lost, 1);
	if (old & STATE_WAITED)
		memory_wake(mem, gfn, 1, false);
	if (mem->events.lost)
		mem->events.lost(mem->events.arg, gfn);
	return 0;
}
