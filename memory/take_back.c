// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// What has come is MISSING again, as if it had never come: for a destination whose first source
// gave up, or turned out to be somebody else, before anything used what it had sent.
//
// A huge page at a time, with its lock held. Its PRESENT pages become REQUESTED, which keeps
// gup away; then the kernel drops them (while the range is watched, a touch of a dropped page
// is a fault that waits); then their bytes are MISSING. Who came meanwhile waits as for any
// missing page.
#include <errno.h>
#include <sys/mman.h>

#include "memory/internal.h"

/* [offset, offset + n) is REQUESTED, and in the kernel still. */
static int drop_run(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n, struct wakes *wakes)
{
	uint8_t *host = mem->region[region].host + offset * PAGE_BYTES;
	uint64_t i;
	int r = madvise(host, n * PAGE_BYTES, MADV_DONTNEED) < 0 ? -errno : 0;

	if (r < 0) {
		/*
		 * Locked memory, say. It may have failed half-way: what is gone is zeros, of a
		 * guest that never runs.
		 */
		for (i = offset; i < offset + n; i++)
			memory_fill_copy(mem, region, i, 1, NULL);
		memory_publish(mem, region, offset, n, wakes);
		atomic_fetch_sub(&mem->n_missing, n);
	}
	for (i = offset; i < offset + n && !r; i++)
		if (state_unask(&mem->state[region][i]))
			count_sub(&mem->n_requested, 1);
	count_sub(&mem->n_filled, n);
	return r;
}

/*
 * Pages from *at on, as long as they can be taken; *at gets where that ended. Returns how many
 * were.
 */
static uint64_t freeze_run(struct memory *mem, unsigned int region, uint64_t *at, uint64_t end)
{
	uint64_t n = 0;

	for (; *at < end && state_of(state_load(&mem->state[region][*at])) == PAGE_PRESENT; ++*at, n++) {
		/* Counted before, so that nobody who sees the byte counts below zero. */
		count_add(&mem->n_requested, 1);
		atomic_fetch_add(&mem->n_missing, 1);
		if (state_freeze(&mem->state[region][*at]))
			continue;
		count_sub(&mem->n_requested, 1);
		atomic_fetch_sub(&mem->n_missing, 1);
		break;
	}
	return n;
}

static int take_back_huge(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n)
{
	pthread_mutex_t *lock = memory_huge_lock(mem, region, offset);
	struct wakes wakes = { 0 };
	uint64_t at = offset, run;
	int r = 0;

	while (at < offset + n && !r) {
		if (state_of(state_load(&mem->state[region][at])) != PAGE_PRESENT) {
			at++;
			continue;
		}
		run = freeze_run(mem, region, &at, offset + n);
		r = run ? drop_run(mem, region, at - run, run, &wakes) : -EBUSY;
	}
	pthread_mutex_unlock(lock);
	memory_wake_published(mem, region, offset, &wakes);
	return r;
}

int memory_take_back(struct memory *mem)
{
	unsigned int region;
	uint64_t at, n;
	int r = 0;

	if (mem->uffd < 0)
		return -EINVAL;
	memory_rooms_flush(mem);
	if (!memory_is_late(mem))
		return -EINVAL;
	for (region = 0; region < mem->regions && !r; region++)
		for (at = 0; at < mem->region[region].pages && !r; at += n) {
			n = mem->region[region].pages - at;
			n = n < HUGE_PAGES ? n : HUGE_PAGES;
			r = take_back_huge(mem, region, at, n);
		}
	return r;
}
