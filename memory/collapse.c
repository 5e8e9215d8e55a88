// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Huge pages come back. Urgent pages come one by one, and leave their huge page in pieces; once everything is PRESENT each such
// piece is collapsed (MADV_COLLAPSE, Linux 6.1 and later; khugepaged does it some time on older ones). In the background, one at
// a time with a pause as long as it took, so that the guest has the memory map's lock half of the time at least. Huge pages that
// are mostly zero are left: they cost no memory now, and would cost 2 MiB.
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "memory/internal.h"

#define COLLAPSE_ZEROS_MAX 64

/* Newer than some C libraries: Linux' include/uapi/asm-generic/mman-common.h. */
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

static void *collapse_loop(void *arg)
{
	struct memory *mem = arg;
	int64_t start, took;
	uint64_t i, done = 0;
	unsigned int r;

	pthread_setname_np(pthread_self(), "collapse");
	for (r = 0; r < mem->regions; r++)
		for (i = 0; i < mem->region[r].pages / HUGE_PAGES; i++) {
			if (atomic_load(&mem->shut))
				return NULL;
			if (atomic_load(&mem->huge[r][i].whole) ||
			    atomic_load(&mem->huge[r][i].zeros) > COLLAPSE_ZEROS_MAX)
				continue;
			start = clock_now_ns();
			if (madvise(mem->region[r].host + i * HUGE_BYTES, HUGE_BYTES, MADV_COLLAPSE) < 0 &&
			    errno == EINVAL)
				return NULL;	/* not on this kernel */
			took = clock_now_ns() - start;
			done++;
			usleep((useconds_t)(took / NS_PER_US));
		}
	log_debug("memory: %lu huge pages collapsed", done);
	return NULL;
}

void memory_collapse_start(struct memory *mem)
{
	sigset_t all, old;

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
