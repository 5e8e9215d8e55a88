// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Huge pages come back. Urgent pages come one by one, and leave their huge page in pieces; once everything is PRESENT each such
// piece is collapsed (MADV_COLLAPSE, Linux 6.1 and later; khugepaged does it some time on older ones). In the background, one at
// a time with a pause after each, so that the guest gets at the memory map's lock. Huge pages that
// are mostly zero are left: they cost no memory now, and would cost 2 MiB.
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "memory/internal.h"

#define COLLAPSE_PAUSE_SHARE 4	/* a pause of a quarter of the time that each takes */

/* Newer than some C libraries: Linux' include/uapi/asm-generic/mman-common.h. */
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

static bool collapse_wanted(struct memory *mem, unsigned int region, uint64_t huge)
{
	struct huge_note *note = &mem->huge[region][huge];

	return !atomic_load(&note->whole) && atomic_load(&note->zeros) <= MEMORY_HUGE_ZEROS_MAX;
}

/* Collapses one, and yields. False: it could not be; when the first cannot, this kernel does not know how. */
static bool collapse_one(struct memory *mem, unsigned int region, uint64_t huge)
{
	int64_t start = clock_now_ns();
	int r = madvise(mem->region[region].host + huge * HUGE_BYTES, HUGE_BYTES, MADV_COLLAPSE);

	if (r < 0 && errno == EINVAL)
		return false;
	usleep((useconds_t)((clock_now_ns() - start) / COLLAPSE_PAUSE_SHARE / NS_PER_US));
	return true;
}

static void *collapse_loop(void *arg)
{
	struct memory *mem = arg;
	bool any = false;
	unsigned int r;
	uint64_t i;

	pthread_setname_np(pthread_self(), "collapse");
	thread_is_bulk();
	for (r = 0; r < mem->regions; r++)
		for (i = 0; i < mem->region[r].pages / HUGE_PAGES; i++) {
			if (!collapse_wanted(mem, r, i))
				continue;
			if (atomic_load(&mem->shut))
				goto out;
			any |= collapse_one(mem, r, i);
			if (!any)
				goto out;
			count_sub(&mem->n_broken_huge, 1);
		}
out:
	atomic_store(&mem->n_broken_huge, 0);
	return NULL;
}

void memory_collapse_start(struct memory *mem)
{
	sigset_t all, old;
	unsigned int r;
	uint64_t i;

	for (r = 0; r < mem->regions; r++)
		for (i = 0; i < mem->region[r].pages / HUGE_PAGES; i++)
			count_add(&mem->n_broken_huge, collapse_wanted(mem, r, i));
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	mem->collapsing = !pthread_create(&mem->collapse_thread, NULL, collapse_loop, mem);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

void memory_collapse_end(struct memory *mem)
{
	if (mem->collapsing)
		pthread_join(mem->collapse_thread, NULL);
	mem->collapsing = false;
}
