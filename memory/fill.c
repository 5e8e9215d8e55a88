// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Pages come in: UFFDIO_COPY makes them visible whole and in one step, then their bytes become PRESENT, then whoever
// waits in gup or has a ticket is woken (UFFDIO_COPY itself wakes those who wait inside the kernel).
#include <errno.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include "base/log.h"
#include "memory/internal.h"

/*
 * Copies (or zero-fills) up to n pages at offset. Returns how many pages came in (perhaps fewer than asked), or a negative
 * errno of the first page: -EEXIST the kernel has it already, -ENOENT the range is cut by an eject's mprotect.
 */
static int64_t fill_kernel(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n,
			   const uint8_t *data)
{
	uint64_t to = (uintptr_t)mem->region[region].host + offset * PAGE_BYTES;
	int64_t done;

	if (data) {
		struct uffdio_copy copy = {
			.dst = to, .src = (uintptr_t)data, .len = n * PAGE_BYTES,
		};

		if (!ioctl(mem->uffd, UFFDIO_COPY, &copy))
			return (int64_t)n;
		done = copy.copy;
	} else {
		struct uffdio_zeropage zero = {
			.range = { .start = to, .len = n * PAGE_BYTES },
		};

		if (!ioctl(mem->uffd, UFFDIO_ZEROPAGE, &zero))
			return (int64_t)n;
		done = zero.zeropage;
	}
	return done > 0 ? done / (int64_t)PAGE_BYTES : -errno;
}

/* [offset, offset + n) is in: the bytes become PRESENT and waiters are woken. Returns how many were new. */
static uint64_t fill_publish(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n)
{
	uint64_t i, fresh = 0, requested = 0, lost = 0;
	bool waited = false;
	uint8_t old;

	for (i = 0; i < n; i++) {
		old = state_set_present(&mem->state[region][offset + i]);
		fresh += state_of(old) != PAGE_PRESENT;
		requested += state_of(old) == PAGE_REQUESTED;
		lost += state_of(old) == PAGE_LOST;
		waited |= old & STATE_WAITED;
	}
	count_add(&mem->n_filled, fresh);
	count_sub(&mem->n_requested, requested);
	count_sub(&mem->n_lost, lost);
	if (waited)
		memory_wake(mem, GFN(mem->region[region].first.v + offset), n, true);
	return fresh;
}

/* The last page has come: the kernel need not watch any more. */
static void fill_complete(struct memory *mem)
{
	unsigned int i;

	pthread_rwlock_wrlock(&mem->map_lock);
	for (i = 0; i < mem->regions; i++) {
		struct uffdio_range range = {
			.start = (uintptr_t)mem->region[i].host,
			.len = mem->region[i].pages * PAGE_BYTES,
		};

		if (ioctl(mem->uffd, UFFDIO_UNREGISTER, &range) < 0)
			log_warn("UFFDIO_UNREGISTER: errno %d", errno);
	}
	pthread_rwlock_unlock(&mem->map_lock);
	/* Sequentially consistent: who sees "not late" sees all that the fills did. */
	atomic_store(&mem->late, false);
	if (mem->events.complete)
		mem->events.complete(mem->events.arg);
}

/* Fills [offset, offset + n), none of which was PRESENT a moment ago. Returns how many came in by this, or an errno. */
static int64_t fill_run(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n,
			const uint8_t *data)
{
	uint64_t i = 0, batch = n;
	int64_t got, fresh = 0;

	while (i < n) {
		if (batch > n - i)
			batch = n - i;
		got = fill_kernel(mem, region, offset + i, batch, data ? data + i * PAGE_BYTES : NULL);
		if (got > 0) {
			fresh += (int64_t)fill_publish(mem, region, offset + i, (uint64_t)got);
			i += (uint64_t)got;
			continue;
		}
		switch (got) {
		case -EAGAIN:		/* the memory map is changing: again */
			break;
		case -EEXIST:
			/*
			 * Another filler has it in the kernel and is about to publish it. Published here as well: a
			 * page that the kernel has is whole, and its waiters are not left to the other one.
			 */
			memory_wake_kernel(mem, region, offset + i);
			fresh += (int64_t)fill_publish(mem, region, offset + i, 1);
			i++;
			break;
		case -ENOENT:
			/*
			 * An eject has cut the mapping in pieces for a moment: page by page. Or all pages have come by
			 * other fillers and nothing is watched any more: then this one is PRESENT.
			 */
			if (state_of(state_load(&mem->state[region][offset + i])) == PAGE_PRESENT)
				i++;
			else if (batch == 1)
				return -EFAULT;
			batch = 1;
			break;
		default:
			return got;
		}
	}
	return fresh;
}

int64_t memory_fill(struct memory *mem, gfn_t first, uint64_t n, const void *data)
{
	const uint8_t *bytes = data;
	unsigned int region;
	uint64_t offset, i, start;
	int64_t got = 0, fresh = 0;

	if (!memory_find(mem, first, n, &region, &offset))
		return -EFAULT;
	if (mem->uffd < 0)
		return 0;
	for (i = 0; i < n && got >= 0;) {
		for (start = i; i < n; i++)
			if (state_of(state_load(&mem->state[region][offset + i])) == PAGE_PRESENT)
				break;
		if (i > start) {
			got = fill_run(mem, region, offset + start, i - start,
				       bytes ? bytes + start * PAGE_BYTES : NULL);
			fresh += got > 0 ? got : 0;
		}
		for (; got >= 0 && i < n; i++)
			if (state_of(state_load(&mem->state[region][offset + i])) != PAGE_PRESENT)
				break;
	}
	if (fresh > 0) {
		/* The one that takes the count to zero, and no other, completes. */
		if (atomic_fetch_sub(&mem->n_missing, (uint64_t)fresh) == (uint64_t)fresh)
			fill_complete(mem);
	}
	if (got >= 0)
		count_add(&mem->n_duplicates, n - (uint64_t)fresh);
	return got < 0 ? got : fresh;
}

int memory_lose(struct memory *mem, gfn_t gfn)
{
	unsigned int region;
	uint64_t offset;
	uint8_t old;

	if (!memory_find(mem, gfn, 1, &region, &offset))
		return -EFAULT;
	old = state_set_lost(&mem->state[region][offset]);
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
