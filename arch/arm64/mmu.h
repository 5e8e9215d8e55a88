/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Page tables: stage 1 of EL1 and EL0 (Arm ARM, chapter D8, VMSAv8-64).
 */
#ifndef POSTERN_ARCH_ARM64_MMU_H
#define POSTERN_ARCH_ARM64_MMU_H

#include "base/types.h"

/*
 * arch_mmu.mode is TCR_EL1, with this bit, which there is reserved, while the
 * MMU is on; root and other: TTBR0 and TTBR1.
 */
#define MMU_ON (1ull << 63)

/* One half of the address space. */
struct mmu_walk {
	uint64_t table;		/* the first table's address */
	unsigned int page_shift;	/* of the granule */
	unsigned int bits;	/* of an address that the tables translate */
	unsigned int level;	/* of the first table: 0 to 3 */
};

/* Where the walk for an address starts; false: no table translates it. */
bool mmu_start(struct mmu_walk *walk, uint64_t tcr, uint64_t ttbr0, uint64_t ttbr1, uint64_t gva);
/* The lowest bit of an address that selects an entry at `level`. */
unsigned int mmu_shift(const struct mmu_walk *walk, unsigned int level);

#endif
