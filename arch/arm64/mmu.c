// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Our own page-table walk, through gup: while a table has not come the walk can
 * be interrupted and ends in time. Protection bits are not looked at: a
 * debugger may read what the guest maps. Not done: 52-bit addresses.
 */
#include "arch/arm64/mmu.h"

#include <errno.h>

#include "arch/arch.h"
#include "arch/arm64/arm64.h"

#define SCTLR_M 1ull

/* TCR_EL1 */
#define TCR_T0SZ(tcr) ((unsigned int)(tcr) & 0x3f)
#define TCR_EPD0 (1ull << 7)
#define TCR_TG0(tcr) ((unsigned int)((tcr) >> 14) & 3)
#define TCR_T1SZ(tcr) ((unsigned int)((tcr) >> 16) & 0x3f)
#define TCR_EPD1 (1ull << 23)
#define TCR_TG1(tcr) ((unsigned int)((tcr) >> 30) & 3)

#define TTBR_ADDRESS 0x0000fffffffffffeull

/* Descriptors */
#define PTE_VALID 1ull
#define PTE_TABLE 2ull		/* at levels 0 to 2; at level 3: a page */
#define PTE_ADDRESS 0x0000ffffffffffffull

int arch_mmu_get(struct vcpu_parked *vcpu, struct arch_mmu *mmu, struct err *err)
{
	uint64_t sctlr;
	int r;

	r = reg_get64(vcpu, SYS_SCTLR_EL1, &sctlr, err);
	if (!r)
		r = reg_get64(vcpu, SYS_TCR_EL1, &mmu->mode, err);
	if (!r)
		r = reg_get64(vcpu, SYS_TTBR0_EL1, &mmu->root, err);
	if (!r)
		r = reg_get64(vcpu, SYS_TTBR1_EL1, &mmu->other, err);
	mmu->mode &= ~MMU_ON;
	if (!r && sctlr & SCTLR_M)
		mmu->mode |= MMU_ON;
	return r;
}

unsigned int mmu_shift(const struct mmu_walk *walk, unsigned int level)
{
	return walk->page_shift + (3 - level) * (walk->page_shift - 3);
}

bool mmu_start(struct mmu_walk *walk, uint64_t tcr, uint64_t ttbr0, uint64_t ttbr1, uint64_t gva)
{
	/* The two fields count granules differently; 0 is not one. */
	static const unsigned int tg0[] = { 12, 16, 14, 0 }, tg1[] = { 0, 14, 12, 16 };
	bool high = gva >> 55 & 1;
	unsigned int tsz = high ? TCR_T1SZ(tcr) : TCR_T0SZ(tcr);
	uint64_t above;

	walk->page_shift = high ? tg1[TCR_TG1(tcr)] : tg0[TCR_TG0(tcr)];
	walk->bits = 64 - tsz;
	if (tcr & (high ? TCR_EPD1 : TCR_EPD0) || !walk->page_shift || tsz < 16 ||
	    walk->bits <= walk->page_shift)
		return false;
	/* All bits from `bits` to 55 are alike; the byte above may be a tag. */
	above = gva << 8 >> (8 + walk->bits);
	if (above != (high ? (1ull << (56 - walk->bits)) - 1 : 0))
		return false;
	walk->level = 3 - (walk->bits - walk->page_shift - 1) / (walk->page_shift - 3);
	walk->table = (high ? ttbr1 : ttbr0) & TTBR_ADDRESS;
	return true;
}

int arch_translate(struct memory *mem, const struct arch_mmu *mmu, gva_t gva,
		   unsigned int gup_flags, const struct gup_opts *opts, gpa_t *gpa, uint64_t *left)
{
	uint64_t entry, inside, index_mask;
	struct mmu_walk walk;
	unsigned int level, shift;
	int r;

	if (!(mmu->mode & MMU_ON)) {
		*gpa = GPA(gva.v);
		*left = PAGE_BYTES - (gva.v & (PAGE_BYTES - 1));
		return 0;
	}
	if (!mmu_start(&walk, mmu->mode & ~MMU_ON, mmu->root, mmu->other, gva.v))
		return -EFAULT;
	for (level = walk.level;; level++) {
		shift = mmu_shift(&walk, level);
		index_mask = (1ull << (walk.page_shift - 3)) - 1;
		if (level == walk.level)
			index_mask = (1ull << (walk.bits - shift)) - 1;
		r = gup_read(mem, GPA(walk.table + (gva.v >> shift & index_mask) * 8), &entry,
			     sizeof(entry), gup_flags & ~GUP_WRITE, opts);
		if (r)
			return r;
		if (!(entry & PTE_VALID) || (level == 3 && !(entry & PTE_TABLE)))
			return -EFAULT;
		inside = (1ull << shift) - 1;
		if (level == 3 || !(entry & PTE_TABLE))
			break;
		walk.table = entry & PTE_ADDRESS & ~((1ull << walk.page_shift) - 1);
	}
	*gpa = GPA((entry & PTE_ADDRESS & ~inside) | (gva.v & inside));
	*left = inside + 1 - (gva.v & inside);
	return 0;
}
