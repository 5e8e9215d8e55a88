// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Giving memory back to the host that the guest says it does not need: the one place where a page's content is thrown away.
//
// A page stays PRESENT: it reads as zeros from now on, and the kernel brings memory for it when it is touched. That is only right once nothing is
// watched any more. While memory is late, the kernel would report a touch of the emptied page as one of a page that has not come, and
// a source that still has it might be asked; so nothing is given up then.
//
// For the moment of it the bytes carry STATE_EJECTING, which keeps gup away: who comes waits, or has a ticket, and who holds a page keeps it.
#include <errno.h>
#include <sys/mman.h>

#include "memory/internal.h"

/* [offset, offset + n) is marked: gives it up, and lets gup in again. Returns how many were given up. */
static uint64_t discard_run(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n)
{
	uint8_t *host = mem->region[region].host + offset * PAGE_BYTES;
	/* It may fail: locked memory, say. Then they keep what they hold, which is as good. */
	bool gone = !madvise(host, n * PAGE_BYTES, MADV_DONTNEED);
	uint64_t i;

	for (i = offset; i < offset + n; i++)
		if (state_end_discard(&mem->state[region][i]) & STATE_WAITED)
			memory_wake(mem, GFN(mem->region[region].first.v + i), 1, false);
	return gone ? n : 0;
}

int64_t memory_discard(struct memory *mem, gfn_t first, uint64_t n)
{
	uint64_t offset, end, start;
	unsigned int region;
	int64_t given = 0;

	if (!memory_find(mem, first, n, &region, &offset))
		return -EFAULT;
	/* Never late again once it is not: and then nothing is watched. */
	if (memory_is_late(mem))
		return 0;
	for (end = offset + n; offset < end;) {
		/* A huge page at a time, so that nobody is kept waiting for long. */
		for (start = offset; offset < end; offset++)
			if ((offset > start && offset % HUGE_PAGES == 0) || !state_start_discard(&mem->state[region][offset]))
				break;
		if (offset > start)
			given += (int64_t)discard_run(mem, region, start, offset - start);
		else
			offset++;
	}
	count_add(&mem->n_discarded, (uint64_t)given);
	return given;
}
