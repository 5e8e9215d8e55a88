/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Names for the architecture's bits (Intel SDM volumes 3 and 4, AMD APM volume
 * 2), and what the files of this folder share: special registers and ioctls on
 * the VM.
 */
#ifndef POSTERN_ARCH_X86_X86_H
#define POSTERN_ARCH_X86_X86_H

#include <linux/kvm.h>

#include "base/err.h"
#include "base/types.h"
#include "kvm/parked.h"
#include "kvm/vm.h"

#define CR0_PE (1ull << 0)
#define CR0_PG (1ull << 31)
#define CR4_PSE (1ull << 4)
#define CR4_PAE (1ull << 5)
#define CR4_LA57 (1ull << 12)
#define EFER_LME (1ull << 8)
#define EFER_LMA (1ull << 10)
#define EFER_SVME (1ull << 12)

/* Page-table entries */
#define PTE_PRESENT (1ull << 0)
#define PTE_LARGE (1ull << 7)
#define PTE_ADDR 0x000ffffffffff000ull

#define MSR_TSC 0x10u
#define MSR_APIC_BASE 0x1bu
#define MSR_FEATURE_CONTROL 0x3au
#define MSR_MCG_CAP 0x179u
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_KERNEL_GS_BASE 0xc0000102u
/* Paravirtual MSRs: Documentation/virt/kvm/x86/msr.rst */
#define MSR_PV_WALL_CLOCK_OLD 0x11u
#define MSR_PV_SYSTEM_TIME_OLD 0x12u
#define MSR_PV_WALL_CLOCK 0x4b564d00u
#define MSR_PV_SYSTEM_TIME 0x4b564d01u
#define MSR_PV_ASYNC_PF 0x4b564d02u
#define MSR_PV_STEAL_TIME 0x4b564d03u
#define MSR_PV_EOI 0x4b564d04u
#define MSR_PV_POLL_CONTROL 0x4b564d05u
#define MSR_PV_ASYNC_PF_INT 0x4b564d06u
#define MSR_PV_ASYNC_PF_ACK 0x4b564d07u

/* Does this KVM have the capability? Its value, or 0. */
int x86_capability(const struct vm *vm, long capability);

/* ioctl on the VM's descriptor; its result, or a negative errno with err saying `what` failed. */
int x86_vm_ioctl(const struct vm *vm, unsigned long request, void *arg, const char *what,
		 struct err *err);

/* KVM_GET_SREGS2, or the older KVM_GET_SREGS in the same form, then without pdptrs (flags 0). */
int x86_sregs_get(struct vcpu_parked *vcpu, struct kvm_sregs2 *sregs, struct err *err);

/*
 * KVM_SET_SREGS2 or KVM_SET_SREGS. With PAE paging KVM reads the four PDPTEs
 * from guest memory by a kernel copy unless they are given: then the page of
 * CR3 must be PRESENT, else -EAGAIN.
 */
int x86_sregs_set(struct vcpu_parked *vcpu, const struct kvm_sregs2 *sregs, struct err *err);

/* Puts the vCPU to its power-on state: all that KVM lets us set, see reset.c. */
int x86_vcpu_reset(struct vcpu_parked *vcpu, struct err *err);

#endif
