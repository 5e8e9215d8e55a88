/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Model-specific registers: which there are, reading and writing them, their power-on values.
 */
#ifndef POSTERN_ARCH_X86_MSR_H
#define POSTERN_ARCH_X86_MSR_H

#include <linux/kvm.h>

#include "base/err.h"
#include "kvm/parked.h"

#define MSRS_MAX 1024u

/* struct kvm_msrs with room. */
struct msr_table {
	uint32_t nmsrs;
	uint32_t pad;
	struct kvm_msr_entry entries[MSRS_MAX];
};

/* When an MSR is written while a state is loaded. */
enum msr_phase {
	MSR_PHASE_FIRST,	/* before the special registers: feature control */
	MSR_PHASE_MAIN,		/* TSC first, the paravirtual ones last */
	MSR_PHASE_TIMER,	/* after the local APIC: TSC deadline */
};
enum msr_phase msr_phase(uint32_t index);

/*
 * An MSR that names an area of guest memory which KVM itself reads or writes:
 * Documentation/virt/kvm/x86/msr.rst. The lowest bits of its value are flags,
 * one of which may have to be set.
 */
struct msr_area {
	uint32_t msr, len_bytes;
	uint64_t enable, flags;
};
#define MSR_AREAS 5u
extern const struct msr_area msr_areas[MSR_AREAS];
/* Where the area lies; false: this value names none. */
bool msr_area_at(const struct msr_area *area, uint64_t value, gpa_t *at);

/*
 * The MSRs that are a vCPU's state and that this KVM knows, in the order in
 * which they are to be written. msr_list: as arch_host_ask has asked for it.
 */
int msr_list_ask(int kvm_fd, struct msr_table *table, struct err *err);
const struct msr_table *msr_list(const struct vm *vm);

/*
 * Reads those of the list that can be read (MTRRs and machine-check banks may
 * be absent) into the table.
 */
int msr_read(struct vcpu_parked *vcpu, struct msr_table *table, struct err *err);

/*
 * Learns which of the list this KVM does not let be read, so that a later
 * msr_read need not find out: each costs as much as all that can be read
 * together. msr_forget: a vCPU got another CPUID, it may be different now.
 */
int msr_learn(struct vcpu_parked *vcpu, struct err *err);
void msr_forget(const struct vm *vm);

/* The values of msr_areas' MSRs, all at once; 0 for one that cannot be read. */
int msr_get_areas(struct vcpu_parked *vcpu, uint64_t values[MSR_AREAS], struct err *err);

/* One MSR; -ENOENT: it cannot be read. */
int msr_get(struct vcpu_parked *vcpu, uint32_t index, uint64_t *value);
/* As msr_write of that one alone. */
int msr_set(struct vcpu_parked *vcpu, uint32_t index, uint64_t value, struct err *err);

/*
 * Writes the entries of `phase`, in order. An MSR that refuses its value is
 * skipped when it has that value already or is known to be read-only; else
 * -EINVAL, the text names it. Writing the paravirtual ones may touch their
 * guest pages: see early.c.
 */
int msr_write(struct vcpu_parked *vcpu, const struct msr_table *table, enum msr_phase phase,
	      struct err *err);

/* Power-on values, of all that a guest may have changed; the TSC goes on. */
int msr_reset(struct vcpu_parked *vcpu, struct err *err);

#endif
