// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Pages whose memory on the host has failed: LOST from then on, also those that
// were PRESENT, so that nobody is let in by gup, who would get SIGBUS. They are
// not filled any more: what a source has is older than what the guest may have
// written. And what stays there instead of the page in the kernel's page table
// is better than a fresh page of zeros: it stops whoever touches it.
#include <errno.h>

#include "memory/internal.h"

bool memory_is_poisoned(struct memory *mem, gfn_t gfn)
{
	unsigned int i, n = atomic_load(&mem->poisoned);
	bool found = n > MEMORY_POISONED_MAX;

	for (i = 0; i < n && !found; i++)
		found = mem->poison[i].v == gfn.v;
	return found;
}

int memory_poison(struct memory *mem, const void *host, gfn_t *gfn)
{
	pthread_mutex_t *lock;
	unsigned int region, n;
	uint64_t offset;
	uint8_t old;

	if (!memory_find_host(mem, (uintptr_t)host, &region, &offset))
		return -EFAULT;
	*gfn = GFN(mem->region[region].first.v + offset);
	lock = memory_huge_lock(mem, region, offset);
	pthread_mutex_lock(&mem->wait_lock);
	if (state_of(state_load(&mem->state[region][offset])) == PAGE_LOST &&
	    memory_is_poisoned(mem, *gfn)) {
		pthread_mutex_unlock(&mem->wait_lock);
		pthread_mutex_unlock(lock);
		return 0;
	}
	/* The page first, then how many there are: they are read without the lock. */
	n = atomic_load(&mem->poisoned);
	if (n < MEMORY_POISONED_MAX)
		mem->poison[n] = *gfn;
	if (n <= MEMORY_POISONED_MAX)
		atomic_store(&mem->poisoned, n + 1);
	pthread_mutex_unlock(&mem->wait_lock);
	/*
	 * Counted before, so that nobody who sees the byte counts below zero;
	 * late memory stays late.
	 */
	count_add(&mem->n_lost, 1);
	atomic_fetch_add(&mem->n_missing, 1);
	memory_begin(mem, region, offset);
	old = state_poison(&mem->state[region][offset]);
	if (state_of(old) != PAGE_PRESENT)
		atomic_fetch_sub(&mem->n_missing, 1);
	if (state_of(old) == PAGE_REQUESTED)
		count_sub(&mem->n_requested, 1);
	if (state_of(old) == PAGE_LOST)
		count_sub(&mem->n_lost, 1);
	pthread_mutex_unlock(lock);
	if (old & STATE_WAITED)
		memory_wake(mem, *gfn, 1, false);
	return 1;
}
