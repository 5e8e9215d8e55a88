// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// What the VMM itself has written into guest memory, for whoever copies memory
// while the machine runs (precopy, a snapshot). KVM's dirty log has what vCPUs
// write and knows nothing of devices, which write through gup; a harvest takes
// their marks out of the pages' bytes.
//
// No write is lost, whenever a harvest comes: a page is marked when the write is
// over, that is when the writer's span is put. One that a write is under way
// into (io_uring, say) is marked after the harvest, and the next one has it.
#include <errno.h>

#include "memory/internal.h"

int64_t memory_harvest_dirty(struct memory *mem, gfn_t first, uint64_t n, uint8_t *bits)
{
	uint64_t dirty = UINT64_C(0x0101010101010101) * STATE_DIRTY, offset, i;
	unsigned int region;
	state_byte *state;
	int64_t found = 0;

	if (!memory_find(mem, first, n, &region, &offset))
		return -EFAULT;
	state = &mem->state[region][offset];
	for (i = 0; i < n; i++) {
		/* Nobody has had a page of it. */
		if (!memory_is_begun(mem, region, offset + i)) {
			i += HUGE_PAGES - (offset + i) % HUGE_PAGES - 1;
			continue;
		}
		/*
		 * Most are clean: eight at a time. What is marked meanwhile is
		 * the next harvest's.
		 */
		if ((offset + i) % 8 == 0 && n - i >= 8 &&
		    !(__atomic_load_n((uint64_t *)(void *)&state[i], __ATOMIC_RELAXED) & dirty)) {
			i += 7;
			continue;
		}
		if (!(state_load(&state[i]) & STATE_DIRTY) || !state_take_dirty(&state[i]))
			continue;
		bits[i / 8] |= (uint8_t)(1u << (i % 8));
		found++;
	}
	return found;
}
