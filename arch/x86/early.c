// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * The pages that must have come before a vCPU runs elsewhere: those that KVM
 * reads or writes by kernel copies. A kernel copy into a missing page can be
 * neither interrupted nor ejected, so no vCPU may meet one. Read on the source,
 * where RAM is PRESENT; a page that is missing even there is named, and what
 * lies behind it left out.
 *
 * Page tables come last and level by level, upper levels first: should the
 * bound cut the walk short, what is left out are last-level tables, which
 * hardware walks (in its second-stage faults those pages can be waited for);
 * KVM itself reads guest page tables only to emulate an instruction.
 */
#include <errno.h>
#include <stdlib.h>

#include "arch/arch.h"
#include "arch/x86/mmu.h"
#include "arch/x86/msr.h"
#include "arch/x86/nested_pages.h"
#include "arch/x86/state.h"
#include "arch/x86/x86.h"

#define TABLES_MAX 4096u
#define INSTRUCTION_BYTES 15u

struct early {
	struct memory *mem;
	struct arch_mmu mmu;
	int (*fn)(void *arg, gfn_t gfn);
	void *arg;
};

static int page(struct early *early, gpa_t gpa)
{
	if (!memory_is_ram(early->mem, gpa, 1))
		return 0;
	return early->fn(early->arg, gpa_to_gfn(gpa));
}

static int physical(struct early *early, uint64_t gpa, uint64_t len)
{
	int result = page(early, GPA(gpa));

	if (!result && (gpa ^ (gpa + len - 1)) >= PAGE_BYTES)
		result = page(early, GPA(gpa + len - 1));
	return result;
}

/* Pages of [gva, gva + len); what is not mapped is left out. */
static int virtual(struct early *early, uint64_t gva, uint64_t len)
{
	uint64_t at = gva & ~(PAGE_BYTES - 1),
		 pages = ((gva & (PAGE_BYTES - 1)) + len - 1) / PAGE_BYTES + 1;
	uint64_t left;
	gpa_t gpa;
	int result = 0;

	for (; pages && !result; pages--, at += PAGE_BYTES)
		if (!arch_translate(early->mem, &early->mmu, GVA(at), GUP_NOWAIT, NULL, &gpa,
				    &left))
			result = page(early, gpa);
	return result;
}

static int paravirtual(struct vcpu_parked *vcpu, struct early *early, struct err *err)
{
	uint64_t values[MSR_AREAS];
	unsigned int i;
	int result = msr_get_areas(vcpu, values, err);
	gpa_t at;

	for (i = 0; i < MSR_AREAS && !result; i++)
		if (msr_area_at(&msr_areas[i], values[i], &at))
			result = physical(early, at.v, msr_areas[i].len_bytes);
	return result;
}

static int nested_range(void *arg, uint64_t gpa, uint64_t len)
{
	struct early *early = arg;
	int result = 0;

	for (; len && !result; gpa += PAGE_BYTES, len -= len < PAGE_BYTES ? len : PAGE_BYTES)
		result = page(early, GPA(gpa));
	return result;
}

static int nested(struct vcpu_parked *vcpu, struct early *early, struct err *err)
{
	struct kvm_nested_state *state;
	int result = nested_get(vcpu, &state, err);

	if (result || !state)
		return result;
	result = nested_pages(state, nested_range, early);
	free(state);
	return result;
}

struct table {
	gpa_t at;
	unsigned int level;
};

/* Most tables are walked for nothing, so this is what a walk takes. */
static uint64_t table_entry(const uint8_t *raw, unsigned int i, unsigned int bytes)
{
	uint64_t entry;
	uint32_t small;

	if (bytes == sizeof(entry)) {
		__builtin_memcpy(&entry, raw + i * sizeof(entry), sizeof(entry));
		return entry;
	}
	__builtin_memcpy(&small, raw + i * sizeof(small), sizeof(small));
	return small;
}

static int table_walk(struct early *early, struct table table, struct table *queue, unsigned int *n)
{
	unsigned int mode = (unsigned int)early->mmu.mode, i,
		     count = mmu_entries(mode, table.level);
	unsigned int bytes = mmu_entry_bytes(mode);
	uint8_t raw[PAGE_BYTES];

	/* Not there: then nothing is known of what lies behind it. */
	if (gup_read(early->mem, table.at, raw, (size_t)count * bytes, GUP_NOWAIT, NULL))
		return 0;
	for (i = 0; i < count && *n < TABLES_MAX; i++) {
		uint64_t entry = table_entry(raw, i, bytes);
		gpa_t target;

		if (!(entry & PTE_PRESENT) || mmu_is_leaf(mode, table.level, entry))
			continue;
		target = mmu_target(mode, table.level, entry);
		if (memory_is_ram(early->mem, target, PAGE_BYTES))
			queue[(*n)++] = (struct table){ .at = target, .level = table.level - 1 };
	}
	return 0;
}

static int tables(struct early *early, struct err *err)
{
	unsigned int level = (unsigned int)early->mmu.mode & MMU_LEVELS, next, n = 1;
	struct table *queue;
	int result = 0;

	if (level == MMU_FLAT)
		return 0;
	queue = malloc(TABLES_MAX * sizeof(*queue));
	if (!queue)
		return err_set(err, -ENOMEM, "no memory for a list of page tables");
	queue[0] = (struct table){
		.at = mmu_root((unsigned int)early->mmu.mode, early->mmu.root),
		.level = level,
	};
	for (next = 0; next < n && !result; next++) {
		result = page(early, queue[next].at);
		if (!result && queue[next].level > 1)
			result = table_walk(early, queue[next], queue, &n);
	}
	free(queue);
	return result;
}

int arch_vcpu_early_pages(struct vcpu_parked *vcpu, int (*fn)(void *arg, gfn_t gfn), void *arg,
			  struct err *err)
{
	struct early early = { .mem = vm_memory(parked_vm(vcpu)), .fn = fn, .arg = arg };
	struct kvm_sregs2 sregs;
	struct kvm_regs regs;
	uint64_t code_base;
	int result;

	result = x86_sregs_get(vcpu, &sregs, err);
	if (result >= 0)
		result = parked_ioctl(vcpu, KVM_GET_REGS, &regs, "get registers", err);
	if (result < 0)
		return result;
	early.mmu = (struct arch_mmu){
		.root = sregs.cr3,
		.mode = mmu_mode(sregs.cr0, sregs.cr4, sregs.efer),
		.other = sregs.efer,
	};
	code_base = sregs.cs.l ? 0 : sregs.cs.base;
	result = paravirtual(vcpu, &early, err);
	if (!result)
		result = nested(vcpu, &early, err);
	if (!result)
		result = virtual(&early, code_base + regs.rip, INSTRUCTION_BYTES);
	/* What a push writes and what a pop reads. */
	if (!result)
		result = virtual(&early, (sregs.cs.l ? 0 : sregs.ss.base) + regs.rsp - 8, 16);
	if (!result)
		result = virtual(&early, sregs.gdt.base, sregs.gdt.limit + 1ull);
	if (!result)
		result = virtual(&early, sregs.idt.base, sregs.idt.limit + 1ull);
	if (!result)
		result = virtual(&early, sregs.tr.base, (sregs.tr.limit & 0xffff) + 1ull);
	return result ? result : tables(&early, err);
}
