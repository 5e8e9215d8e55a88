// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * MSRs. KVM_GET_MSR_INDEX_LIST says what KVM knows; MTRRs and machine-check
 * banks are added, which it leaves out. Left out are Hyper-V's (never offered
 * to a guest), the old numbers of two paravirtual MSRs (the same registers as
 * the new numbers), and the acknowledge register of asynchronous page faults
 * (write-only).
 *
 * The wall clock is the VM's, not the vCPU's: vCPU 0 alone carries it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "arch/x86/host.h"
#include "arch/x86/msr.h"
#include "arch/x86/x86.h"

#define MTRR_DEF_TYPE 0x2ffu
#define MTRR_VARIABLE 0x200u
#define MTRR_VARIABLE_COUNT 16u
#define MCE_BANKS 0x400u
#define MCE_BANK_MSRS 4u
#define MCE_BANKS_MAX 32u

_Static_assert(offsetof(struct msr_table, entries) == offsetof(struct kvm_msrs, entries),
	       "an msr_table is a kvm_msrs");

static const uint32_t mtrr_fixed[] = {
	0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f,
};

const struct msr_area msr_areas[MSR_AREAS] = {
	{ MSR_PV_SYSTEM_TIME, 32, 1, 1 },
	{ MSR_PV_WALL_CLOCK, 12, 0, 0 },
	{ MSR_PV_STEAL_TIME, 64, 1, 0x3f },
	{ MSR_PV_ASYNC_PF, 68, 1, 0x3f },
	{ MSR_PV_EOI, 4, 1, 3 },
};

bool msr_area_at(const struct msr_area *area, uint64_t value, gpa_t *at)
{
	*at = GPA(value & ~area->flags);
	return value && (value & area->enable) == area->enable;
}

enum msr_phase msr_phase(uint32_t index)
{
	if (index == MSR_FEATURE_CONTROL)
		return MSR_PHASE_FIRST;
	return index == MSR_TSC_DEADLINE ? MSR_PHASE_TIMER : MSR_PHASE_MAIN;
}

static bool is_left_out(uint32_t index)
{
	return (index >= 0x40000000 && index <= 0x400001ff) || index == MSR_PV_WALL_CLOCK_OLD ||
	       index == MSR_PV_SYSTEM_TIME_OLD || index == MSR_PV_ASYNC_PF_ACK;
}

/* Lower goes first. */
static unsigned int rank(uint32_t index)
{
	switch (index) {
	case MSR_TSC:
		return 0;
	case MTRR_DEF_TYPE:			/* switches the others on */
		return 2;
	case MSR_PV_WALL_CLOCK:
	case MSR_PV_SYSTEM_TIME:
	case MSR_PV_STEAL_TIME:
	case MSR_PV_EOI:
	case MSR_PV_POLL_CONTROL:
	case MSR_PV_ASYNC_PF_INT:
		return 3;
	case MSR_PV_ASYNC_PF:			/* its interrupt must be known before */
		return 4;
	default:
		return 1;
	}
}

static int msr_compare(const void *a, const void *b)
{
	const struct kvm_msr_entry *x = a, *y = b;
	unsigned int rx = rank(x->index), ry = rank(y->index);

	if (rx != ry)
		return rx < ry ? -1 : 1;
	return x->index < y->index ? -1 : x->index > y->index;
}

static void msr_add(struct msr_table *table, uint32_t index)
{
	uint32_t i;

	for (i = 0; i < table->nmsrs; i++)
		if (table->entries[i].index == index)
			return;
	if (table->nmsrs < MSRS_MAX)
		table->entries[table->nmsrs++] = (struct kvm_msr_entry){ .index = index };
}

const struct msr_table *msr_list(const struct vm *vm)
{
	return &x86_asked(vm)->msrs;
}

int msr_list_ask(int kvm_fd, struct msr_table *table, struct err *err)
{
	struct kvm_msr_list *list = malloc(sizeof(*list) + MSRS_MAX * sizeof(list->indices[0]));
	uint32_t i;

	memset(table, 0, sizeof(*table));
	if (!list)
		return err_set(err, -ENOMEM, "no memory for the list of MSRs");
	list->nmsrs = MSRS_MAX;
	if (ioctl(kvm_fd, KVM_GET_MSR_INDEX_LIST, list) < 0) {
		int code = -errno;

		free(list);
		return err_errno(err, code, "KVM: list MSRs");
	}
	for (i = 0; i < list->nmsrs; i++)
		if (!is_left_out(list->indices[i]))
			msr_add(table, list->indices[i]);
	free(list);
	for (i = 0; i < sizeof(mtrr_fixed) / sizeof(mtrr_fixed[0]); i++)
		msr_add(table, mtrr_fixed[i]);
	for (i = 0; i < MTRR_VARIABLE_COUNT; i++)
		msr_add(table, MTRR_VARIABLE + i);
	msr_add(table, MTRR_DEF_TYPE);
	for (i = 0; i < MCE_BANKS_MAX * MCE_BANK_MSRS; i++)
		msr_add(table, MCE_BANKS + i);
	qsort(table->entries, table->nmsrs, sizeof(table->entries[0]), msr_compare);
	return 0;
}

/*
 * KVM stops at the first MSR that it refuses and says how many went well. Goes
 * on behind each such; `failed` decides what one means: 0 goes on, else the
 * walk ends with it.
 */
static int msr_walk(struct vcpu_parked *vcpu, struct msr_table *table, unsigned long request,
		    int (*failed)(struct vcpu_parked *vcpu, struct kvm_msr_entry *entry,
				  struct err *err),
		    struct err *err)
{
	const char *what = request == KVM_GET_MSRS ? "get MSRs" : "set MSRs";
	struct msr_table *part = malloc(sizeof(*part));
	uint32_t done = 0;
	int result = 0;

	if (!part)
		return err_set(err, -ENOMEM, "no memory for MSRs");
	while (done < table->nmsrs) {
		part->pad = 0;
		part->nmsrs = table->nmsrs - done;
		memcpy(part->entries, &table->entries[done],
		       part->nmsrs * sizeof(part->entries[0]));
		result = parked_ioctl(vcpu, request, part, what, err);
		if (result < 0)
			break;
		memcpy(&table->entries[done], part->entries,
		       (size_t)result * sizeof(part->entries[0]));
		done += (uint32_t)result;
		result = 0;
		if (done == table->nmsrs)
			break;
		result = failed(vcpu, &table->entries[done], err);
		if (result)
			break;
		done++;
	}
	free(part);
	return result;
}

/* Marks what could not be read: no MSR has this number on the wire. */
#define ABSENT UINT32_MAX

static int read_failed(struct vcpu_parked *vcpu, struct kvm_msr_entry *entry, struct err *err)
{
	(void)vcpu;
	(void)err;
	entry->index = ABSENT;
	return 0;
}

static bool is_refused(const struct vcpu_parked *vcpu, uint32_t index)
{
	const struct x86_host *host = x86_host(parked_vm(vcpu));
	uint32_t i;

	for (i = 0; host->refused_known && i < host->refused.nmsrs; i++)
		if (host->refused.entries[i].index == index)
			return true;
	return false;
}

/* The wall clock is vCPU 0's. */
static bool is_others(const struct vcpu_parked *vcpu, uint32_t index)
{
	return index == MSR_PV_WALL_CLOCK && parked_index(vcpu) > 0;
}

static bool is_absent(const struct vcpu_parked *vcpu, uint32_t index)
{
	(void)vcpu;
	return index == ABSENT;
}

static void msr_leave_out(const struct vcpu_parked *vcpu, struct msr_table *table,
			  bool (*out)(const struct vcpu_parked *vcpu, uint32_t index))
{
	uint32_t from, to = 0;

	for (from = 0; from < table->nmsrs; from++)
		if (!out(vcpu, table->entries[from].index))
			table->entries[to++] = table->entries[from];
	table->nmsrs = to;
}

int msr_read(struct vcpu_parked *vcpu, struct msr_table *table, struct err *err)
{
	int result;

	*table = *msr_list(parked_vm(vcpu));
	msr_leave_out(vcpu, table, is_others);
	msr_leave_out(vcpu, table, is_refused);
	result = msr_walk(vcpu, table, KVM_GET_MSRS, read_failed, err);
	if (!result)
		msr_leave_out(vcpu, table, is_absent);
	return result;
}

int msr_get(struct vcpu_parked *vcpu, uint32_t index, uint64_t *value)
{
	struct {		/* a kvm_msrs of one entry */
		uint32_t nmsrs, pad;
		struct kvm_msr_entry entry;
	} one = { .nmsrs = 1, .entry.index = index };
	int result = parked_ioctl(vcpu, KVM_GET_MSRS, &one, "get MSR", NULL);

	if (result < 0)
		return result;
	*value = one.entry.data;
	return result == 1 ? 0 : -ENOENT;
}

int msr_get_areas(struct vcpu_parked *vcpu, uint64_t values[MSR_AREAS], struct err *err)
{
	struct {		/* a kvm_msrs with room for them */
		uint32_t nmsrs, pad;
		struct kvm_msr_entry entries[MSR_AREAS];
	} part;
	uint32_t done = 0, i;
	int result;

	memset(values, 0, MSR_AREAS * sizeof(*values));
	/* KVM stops at one that it refuses, and says how many went well. */
	for (; done < MSR_AREAS; done++) {
		memset(&part, 0, sizeof(part));
		part.nmsrs = MSR_AREAS - done;
		for (i = 0; i < part.nmsrs; i++)
			part.entries[i].index = msr_areas[done + i].msr;
		result = parked_ioctl(vcpu, KVM_GET_MSRS, &part, "get MSRs", err);
		if (result < 0)
			return result;
		for (i = 0; i < (uint32_t)result; i++)
			values[done++] = part.entries[i].data;
	}
	return 0;
}

/* Of a machine-check bank that the vCPU has not, by its MCG_CAP. */
static bool is_beyond_banks(uint32_t index, uint64_t mcg_cap)
{
	return index >= MCE_BANKS + (uint32_t)(mcg_cap & 0xff) * MCE_BANK_MSRS &&
	       index < MCE_BANKS + MCE_BANKS_MAX * MCE_BANK_MSRS;
}

/* Of `table` to `refused` what is beyond the banks, known without a question, and what KVM refuses. */
static int msr_ask(struct vcpu_parked *vcpu, const struct msr_table *table,
		   struct msr_table *refused, struct err *err)
{
	struct msr_table *got = calloc(1, sizeof(*got));
	uint64_t cap = 0xff;
	uint32_t i, k;
	int result;

	if (!got)
		return err_set(err, -ENOMEM, "no memory for MSRs");
	msr_get(vcpu, MSR_MCG_CAP, &cap);
	for (i = 0; i < table->nmsrs; i++)
		if (!is_beyond_banks(table->entries[i].index, cap))
			got->entries[got->nmsrs++] = table->entries[i];
	result = msr_walk(vcpu, got, KVM_GET_MSRS, read_failed, err);
	for (i = k = refused->nmsrs = 0; !result && i < table->nmsrs; i++)
		if (is_beyond_banks(table->entries[i].index, cap) ||
		    got->entries[k++].index == ABSENT)
			refused->entries[refused->nmsrs++] = table->entries[i];
	free(got);
	return result;
}

int msr_learn(struct vcpu_parked *vcpu, struct err *err)
{
	struct x86_host *host = x86_host(parked_vm(vcpu));
	int result;

	if (host->refused_known)
		return 0;
	result = msr_ask(vcpu, msr_list(parked_vm(vcpu)), &host->refused, err);
	host->refused_known = !result;
	return result;
}

void msr_forget(const struct vm *vm)
{
	x86_host(vm)->refused_known = false;
}

static bool is_read_only(uint32_t index)
{
	/*
	 * SMI count, microcode revision, machine-check capability, P-state
	 * status: facts about a host.
	 */
	return index == 0x34 || index == 0x8b || index == MSR_MCG_CAP || index == 0x198;
}

static int write_failed(struct vcpu_parked *vcpu, struct kvm_msr_entry *entry, struct err *err)
{
	uint64_t now;

	if (is_read_only(entry->index) ||
	    (!msr_get(vcpu, entry->index, &now) && now == entry->data))
		return 0;
	return err_set(err, -EINVAL, "vCPU %u: this host's KVM refuses MSR 0x%x the value 0x%llx",
		       parked_index(vcpu), entry->index, (unsigned long long)entry->data);
}

/*
 * KVM touches these areas by kernel copies, here or in KVM_RUN: a missing page
 * would hold the thread up for good. They are to come before the state
 * (early.c); a source that did not send them is refused.
 */
static int check_area(struct vcpu_parked *vcpu, const struct kvm_msr_entry *entry, struct err *err)
{
	const struct memory *mem = vm_memory(parked_vm(vcpu));
	const struct msr_area *area;
	unsigned int k;
	gpa_t at, end;

	for (area = msr_areas; area < msr_areas + MSR_AREAS; area++) {
		if (area->msr != entry->index || !msr_area_at(area, entry->data, &at))
			continue;
		/* Shorter than a page: its two ends. */
		for (k = 0; k < 2; k++) {
			end = GPA(at.v + k * (area->len_bytes - 1));
			if (memory_is_ram(mem, end, 1) &&
			    memory_page_state(mem, gpa_to_gfn(end)) != PAGE_PRESENT)
				return err_set(
					err, -EBADMSG,
					"vCPU %u: MSR 0x%x names page 0x%llx, which has not come",
					parked_index(vcpu), entry->index,
					(unsigned long long)(end.v & ~(PAGE_BYTES - 1)));
		}
	}
	return 0;
}

int msr_write(struct vcpu_parked *vcpu, const struct msr_table *table, enum msr_phase phase,
	      struct err *err)
{
	struct msr_table *part = calloc(1, sizeof(*part));
	uint32_t i;
	int result = 0;

	if (!part)
		return err_set(err, -ENOMEM, "no memory for MSRs");
	for (i = 0; i < table->nmsrs && !result; i++) {
		if (msr_phase(table->entries[i].index) != phase)
			continue;
		part->entries[part->nmsrs++] = table->entries[i];
		result = check_area(vcpu, &table->entries[i], err);
	}
	if (result) {
		free(part);
		return result;
	}
	qsort(part->entries, part->nmsrs, sizeof(part->entries[0]), msr_compare);
	result = msr_walk(vcpu, part, KVM_SET_MSRS, write_failed, err);
	free(part);
	return result;
}

int msr_set(struct vcpu_parked *vcpu, uint32_t index, uint64_t value, struct err *err)
{
	struct msr_table *one = calloc(1, sizeof(*one));
	int result;

	if (!one)
		return err_set(err, -ENOMEM, "no memory for an MSR");
	one->nmsrs = 1;
	one->entries[0].index = index;
	one->entries[0].data = value;
	result = msr_write(vcpu, one, msr_phase(index), err);
	free(one);
	return result;
}

/*
 * Intel SDM volume 3, table 10-1; the paravirtual ones are off, so that KVM
 * stops writing into their pages. MTRRs are as firmware leaves them: on, all
 * memory write-back.
 */
static const struct kvm_msr_entry reset_values[] = {
	{ .index = MSR_PV_SYSTEM_TIME }, { .index = MSR_PV_WALL_CLOCK }, { .index = MSR_PV_ASYNC_PF },
	{ .index = MSR_PV_ASYNC_PF_INT }, { .index = MSR_PV_STEAL_TIME }, { .index = MSR_PV_EOI },
	{ .index = MSR_PV_POLL_CONTROL, .data = 1 },
	{ .index = MSR_TSC_DEADLINE }, { .index = 0x3b /* TSC adjust */ },
	{ .index = MSR_FEATURE_CONTROL },
	{ .index = 0x48 /* speculation control */ }, { .index = 0xe1 /* umwait control */ },
	{ .index = 0x122 /* TSX control */ }, { .index = 0x140 /* misc feature enables */ },
	{ .index = 0x174 /* SYSENTER CS */ }, { .index = 0x175 }, { .index = 0x176 },
	{ .index = 0x17a /* machine-check status */ },
	{ .index = 0x1c4 /* XFD */ }, { .index = 0x1c5 }, { .index = 0x1d9 /* debug control */ },
	{ .index = 0x277 /* PAT */, .data = 0x0007040600070406ull },
	{ .index = 0x6a0 /* CET */ }, { .index = 0x6a2 }, { .index = 0x6a4 }, { .index = 0x6a5 },
	{ .index = 0x6a6 }, { .index = 0x6a7 }, { .index = 0x6a8 },
	{ .index = 0xd90 /* MPX */ }, { .index = 0xda0 /* XSS */ },
	{ .index = 0xc0000081 /* STAR */ }, { .index = 0xc0000082 }, { .index = 0xc0000083 },
	{ .index = 0xc0000084 }, { .index = MSR_KERNEL_GS_BASE }, { .index = 0xc0000103 /* TSC_AUX */ },
	{ .index = 0xc0000104 /* TSC ratio */, .data = 1ull << 32 },
	{ .index = 0xc0010117 /* VM_HSAVE_PA */ }, { .index = 0xc001011f /* virtual spec ctrl */ },
	{ .index = MTRR_DEF_TYPE, .data = 1u << 11 | 6 },
};

static bool reset_value(uint32_t index, uint64_t *value)
{
	unsigned int i;

	for (i = 0; i < sizeof(reset_values) / sizeof(reset_values[0]); i++) {
		if (reset_values[i].index == index) {
			*value = reset_values[i].data;
			return true;
		}
	}
	*value = 0;
	if ((index >= MTRR_VARIABLE && index < MTRR_VARIABLE + MTRR_VARIABLE_COUNT) ||
	    (index >= 0x250 && index <= 0x26f))
		return true;
	if (index >= MCE_BANKS && index < MCE_BANKS + MCE_BANKS_MAX * MCE_BANK_MSRS) {
		*value = index % MCE_BANK_MSRS ? 0 : ~0ull;	/* control, or status, address, misc */
		return true;
	}
	return false;
}

int msr_reset(struct vcpu_parked *vcpu, struct err *err)
{
	struct msr_table *table = malloc(sizeof(*table));
	uint32_t from, to = 0;
	int result;

	if (!table)
		return err_set(err, -ENOMEM, "no memory for MSRs");
	result = msr_read(vcpu, table, err);
	for (from = 0; !result && from < table->nmsrs; from++) {
		struct kvm_msr_entry entry = table->entries[from];
		uint64_t value;

		if (!reset_value(entry.index, &value) || value == entry.data)
			continue;
		entry.data = value;
		table->entries[to++] = entry;
	}
	table->nmsrs = to;
	if (!result)
		result = msr_write(vcpu, table, MSR_PHASE_FIRST, err);
	if (!result)
		result = msr_write(vcpu, table, MSR_PHASE_MAIN, err);
	if (!result)
		result = msr_write(vcpu, table, MSR_PHASE_TIMER, err);
	free(table);
	return result;
}
