/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * CPUID: what the guest is told about its CPU, and whether this host can be
 * what another host's guest was told.
 */
#ifndef POSTERN_ARCH_X86_CPUID_H
#define POSTERN_ARCH_X86_CPUID_H

#include <linux/kvm.h>

#include "base/err.h"
#include "kvm/parked.h"

#define CPUID_ENTRIES_MAX 256u

/* struct kvm_cpuid2 with room; zero nent is empty. */
struct cpuid_table {
	uint32_t nent;
	uint32_t padding;
	struct kvm_cpuid_entry2 entries[CPUID_ENTRIES_MAX];
};

/* The entry, or NULL. */
struct kvm_cpuid_entry2 *cpuid_find(struct cpuid_table *table, uint32_t function, uint32_t index);

/*
 * Turns what KVM supports into what vCPU `id` of `cpus` sees: APIC id, one
 * package of `cpus` single-threaded cores, the hypervisor bit, TSC deadline
 * timer; no PMU and no invariant TSC, since the guest may move to another host.
 */
int cpuid_shape(struct cpuid_table *table, uint32_t id, uint32_t cpus, bool tsc_deadline,
		struct err *err);

/* What this host's KVM supports (arch_host_ask). */
const struct cpuid_table *cpuid_supported(const struct vm *vm);
/* What the vCPU has now. */
int cpuid_get(struct vcpu_parked *vcpu, struct cpuid_table *table, struct err *err);
/*
 * Gives the vCPU the table, unless it has it already: a vCPU that ran must not
 * be given another. 1: it got it, 0: it had it.
 */
int cpuid_set(struct vcpu_parked *vcpu, const struct cpuid_table *table, struct err *err);
/*
 * Adds the features that `vcpu` has and `host` lacks: some KVMs cannot hide
 * from a guest what the CPU has, and do not list it as supported.
 */
void cpuid_merge(struct cpuid_table *host, struct cpuid_table *vcpu);
/*
 * -ENOTSUP: the guest was promised a feature that `host` lacks; the text names
 * leaf, register and bit.
 */
int cpuid_check(const struct cpuid_table *guest, struct cpuid_table *host, struct err *err);
/* Can the guest itself be a hypervisor (VMX or SVM)? */
bool cpuid_has_nesting(struct cpuid_table *table);

#endif
