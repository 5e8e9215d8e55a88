/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The parts of a vCPU's state that are plain registers, between KVM's
 * structures and the message. The "_from" functions check what they read:
 * -EPROTO.
 */
#ifndef POSTERN_ARCH_X86_STATE_VCPU_H
#define POSTERN_ARCH_X86_STATE_VCPU_H

#include <linux/kvm.h>

#include "arch/x86/cpuid.h"
#include "base/err.h"
#include "state.pb-c.h"

/* Room for the messages that a SpecialRegisters message points to. */
struct sregs_message {
	X86__SpecialRegisters head;
	X86__Segment segments[8];
	X86__DescriptorTable tables[2];
	uint64_t pdptrs[4];
};

void regs_to_message(X86__Registers *message, const struct kvm_regs *regs);
void regs_from_message(struct kvm_regs *regs, const X86__Registers *message);

void sregs_to_message(struct sregs_message *message, const struct kvm_sregs2 *sregs);
int sregs_from_message(struct kvm_sregs2 *sregs, const X86__SpecialRegisters *message,
		       struct err *err);

void events_to_message(X86__Events *message, const struct kvm_vcpu_events *events);
/* flags says what this host's KVM takes: KVM_VCPUEVENT_VALID_SMM, _PAYLOAD, _TRIPLE_FAULT. */
int events_from_message(struct kvm_vcpu_events *events, const X86__Events *message, uint32_t flags,
			struct err *err);

void cpuid_to_message(X86__CpuidEntry *message, const struct kvm_cpuid_entry2 *entry);
int cpuid_from_message(struct cpuid_table *table, X86__CpuidEntry *const *list, size_t n,
		       struct err *err);

#endif
