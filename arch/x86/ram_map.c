// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "arch/x86/ram_map.h"

#include <errno.h>

#include "arch/x86/board.h"

#define MIB (1ull << 20)

/* Bytes of the RAM that starts at `base`. */
static uint64_t bytes_from(const struct memory *mem, uint64_t base)
{
	unsigned int i, n;
	const struct memory_region *regions = memory_regions(mem, &n);

	for (i = 0; i < n; i++)
		if (gfn_to_gpa(regions[i].first).v == base)
			return regions[i].pages * PAGE_BYTES;
	return 0;
}

uint64_t ram_low_end(const struct memory *mem)
{
	return bytes_from(mem, 0);
}

uint64_t ram_high_bytes(const struct memory *mem)
{
	return bytes_from(mem, BOARD_HIGH_RAM_BASE);
}

uint64_t ram_top_bytes(const struct memory *mem)
{
	return bytes_from(mem, BOARD_TOP_RAM_BASE);
}

int ram_too_small(uint64_t end, uint64_t need, struct err *err)
{
	uint64_t mib = (need + HUGE_BYTES - 1) / HUGE_BYTES * 2;

	if (need > BOARD_LOW_RAM_END)
		return err_set(err, -ENOSPC,
			       "needs guest memory up to 0x%llx: it must lie below 3 GiB",
			       (unsigned long long)need);
	return err_set(
		err, -ENOSPC,
		"does not fit into %llu MiB of guest memory: use --memory of at least %llu MiB",
		(unsigned long long)(end / MIB), (unsigned long long)mib);
}
