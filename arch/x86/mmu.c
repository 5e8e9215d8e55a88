// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Our own page-table walk. KVM_TRANSLATE would read the tables by kernel
 * copies, which can neither be interrupted nor time out while a table has not
 * come; this one reads them through gup. Protection bits are not looked at: a
 * debugger may read what the guest maps.
 */
#include "arch/x86/mmu.h"

#include <errno.h>

#include "arch/arch.h"
#include "arch/x86/x86.h"

unsigned int mmu_mode(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
	if (!(cr0 & CR0_PG))
		return MMU_FLAT;
	if (efer & EFER_LMA)
		return cr4 & CR4_LA57 ? MMU_LONG_5 : MMU_LONG_4;
	if (cr4 & CR4_PAE)
		return MMU_PAE;
	return cr4 & CR4_PSE ? MMU_32 | MMU_PSE : MMU_32;
}

gpa_t mmu_root(unsigned int mode, uint64_t cr3)
{
	switch (mode & MMU_LEVELS) {
	case MMU_32:
		return GPA(cr3 & 0xfffff000);
	case MMU_PAE:
		return GPA(cr3 & 0xffffffe0);
	default:
		return GPA(cr3 & PTE_ADDR);
	}
}

unsigned int mmu_entries(unsigned int mode, unsigned int level)
{
	if ((mode & MMU_LEVELS) == MMU_32)
		return 1024;
	return (mode & MMU_LEVELS) == MMU_PAE && level == 3 ? 4 : 512;
}

unsigned int mmu_entry_bytes(unsigned int mode)
{
	return (mode & MMU_LEVELS) == MMU_32 ? 4 : 8;
}

unsigned int mmu_shift(unsigned int mode, unsigned int level)
{
	return PAGE_SHIFT + (level - 1) * ((mode & MMU_LEVELS) == MMU_32 ? 10 : 9);
}

bool mmu_is_leaf(unsigned int mode, unsigned int level, uint64_t entry)
{
	if (level == 1)
		return true;
	if (!(entry & PTE_LARGE))
		return false;
	switch (mode & MMU_LEVELS) {
	case MMU_32:
		return mode & MMU_PSE;
	case MMU_PAE:
		return level == 2;
	default:
		return level <= 3;
	}
}

gpa_t mmu_target(unsigned int mode, unsigned int level, uint64_t entry)
{
	uint64_t bytes = 1ull << mmu_shift(mode, level);

	if (!mmu_is_leaf(mode, level, entry) || level == 1)
		return GPA(entry & PTE_ADDR);
	if ((mode & MMU_LEVELS) == MMU_32)	/* PSE-36: bits 13 to 20 are address bits 32 to 39 */
		return GPA((entry & 0xffc00000) | (entry >> 13 & 0xff) << 32);
	return GPA(entry & PTE_ADDR & ~(bytes - 1));
}

int arch_mmu_get(struct vcpu_parked *vcpu, struct arch_mmu *mmu, struct err *err)
{
	struct kvm_sregs2 sregs;
	int result = x86_sregs_get(vcpu, &sregs, err);

	if (result < 0)
		return result;
	mmu->root = sregs.cr3;
	mmu->mode = mmu_mode(sregs.cr0, sregs.cr4, sregs.efer);
	mmu->other = sregs.efer;
	return 0;
}

static bool is_canonical(unsigned int levels, uint64_t gva)
{
	unsigned int unused;

	if (levels < MMU_LONG_4)
		return gva <= UINT32_MAX;
	unused = 64 - (12 + 9 * levels);
	return (uint64_t)((int64_t)(gva << unused) >> unused) == gva;
}

int arch_translate(struct memory *mem, const struct arch_mmu *mmu, gva_t gva,
		   unsigned int gup_flags, const struct gup_opts *opts, gpa_t *gpa, uint64_t *left)
{
	unsigned int mode = (unsigned int)mmu->mode, level = mode & MMU_LEVELS;
	unsigned int entry_bytes = mmu_entry_bytes(mode);
	gpa_t table = mmu_root(mode, mmu->root);

	if (level == MMU_FLAT) {
		*gpa = GPA(gva.v);
		*left = PAGE_BYTES - (gva.v & (PAGE_BYTES - 1));
		return 0;
	}
	if (level > MMU_LONG_5 || level < MMU_32 || !is_canonical(level, gva.v))
		return -EFAULT;
	for (;; level--) {
		unsigned int shift = mmu_shift(mode, level);
		uint64_t index = (gva.v >> shift) & (mmu_entries(mode, level) - 1);
		uint64_t entry = 0, inside = (1ull << shift) - 1;
		int result;

		/* Little endian: four bytes of a short entry are its low half. */
		result = gup_read(mem, GPA(table.v + index * entry_bytes), &entry, entry_bytes,
				  gup_flags & ~GUP_WRITE, opts);
		if (result)
			return result;
		if (!(entry & PTE_PRESENT))
			return -EFAULT;
		table = mmu_target(mode, level, entry);
		if (mmu_is_leaf(mode, level, entry)) {
			*gpa = GPA(table.v | (gva.v & inside));
			*left = inside + 1 - (gva.v & inside);
			return 0;
		}
	}
}
