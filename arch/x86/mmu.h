/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Page tables: paging modes and the geometry of their levels (Intel SDM volume 3, chapter 4).
 */
#ifndef POSTERN_ARCH_X86_MMU_H
#define POSTERN_ARCH_X86_MMU_H

#include "base/types.h"

/* arch_mmu.mode */
#define MMU_FLAT 0u		/* paging is off */
#define MMU_32 2u		/* two levels, 4-byte entries */
#define MMU_PAE 3u		/* three levels, the first of four entries */
#define MMU_LONG_4 4u
#define MMU_LONG_5 5u
#define MMU_LEVELS 0xfu		/* the mode without flags is the number of levels */
#define MMU_PSE 0x10u		/* MMU_32: large pages are on */

/* The mode that control registers and EFER select. */
unsigned int mmu_mode(uint64_t cr0, uint64_t cr4, uint64_t efer);

/* The table that CR3 points to. */
gpa_t mmu_root(unsigned int mode, uint64_t cr3);
/* Entries of a table at `level` (1: its entries map pages), bytes of an entry. */
unsigned int mmu_entries(unsigned int mode, unsigned int level);
unsigned int mmu_entry_bytes(unsigned int mode);
/* The lowest bit of an address that selects an entry at `level`: 1 << it is what the entry maps. */
unsigned int mmu_shift(unsigned int mode, unsigned int level);
/* Does the present entry at `level` map a page (true) or point to a table? */
bool mmu_is_leaf(unsigned int mode, unsigned int level, uint64_t entry);
/* What a present entry points to. */
gpa_t mmu_target(unsigned int mode, unsigned int level, uint64_t entry);

#endif
