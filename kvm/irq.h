/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Ways between KVM and a device that need no vCPU exit: message signalled
 * interrupts by irqfd, and writes of the guest that arrive as events
 * (ioeventfd). Linux: Documentation/virt/kvm/api.rst, KVM_SET_GSI_ROUTING,
 * KVM_IRQFD, KVM_IOEVENTFD.
 *
 * Each message signalled interrupt has a number behind those of the interrupt
 * lines, an event and, once vm_msi_set has said so, a route to where the guest
 * wants it. A KVM without irqfd is sent the message itself.
 */
#ifndef POSTERN_KVM_IRQ_H
#define POSTERN_KVM_IRQ_H

#include "base/err.h"
#include "base/types.h"
#include "kvm/vm.h"

#define VM_MSI_MAX 256

/*
 * A new interrupt, without a route. -ENOSPC: VM_MSI_MAX are in use; -EMFILE and
 * the like. Main thread.
 */
int vm_msi_open(struct vm *vm, unsigned int *msi, struct err *err);
void vm_msi_close(struct vm *vm, unsigned int msi);
/*
 * Where it goes: address and data as the guest's function would write them. Any
 * thread. 0, or a negative errno when KVM does not take it (the guest's
 * nonsense): then it goes nowhere, and all others where they did.
 */
int vm_msi_set(struct vm *vm, unsigned int msi, uint64_t address, uint32_t data);
/* Any thread, never waits. */
void vm_msi_fire(struct vm *vm, unsigned int msi);

/*
 * Guest writes at gpa, of any width, count up eventfd `fd` instead of leaving
 * the guest; the same arguments take it back. Any thread, but only while no
 * vCPU waits for a page: KVM waits for every vCPU that is inside KVM_RUN's
 * kernel code, deaf to signals (synchronize_srcu). 0, or a negative errno: they
 * stay MMIO exits.
 */
int vm_ioeventfd_add(struct vm *vm, gpa_t gpa, int fd);
int vm_ioeventfd_remove(struct vm *vm, gpa_t gpa, int fd);

#endif
