/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What the files that turn state into messages share.
 */
#ifndef POSTERN_ARCH_X86_STATE_H
#define POSTERN_ARCH_X86_STATE_H

#include "arch/message.h"
#include "base/buf.h"
#include "base/err.h"
#include "kvm/parked.h"

/* Of X86__VmState and X86__VcpuState: docs/state.md. */
#define VM_STATE_VERSION 1u
#define VCPU_STATE_VERSION 1u

/* A nested guest's state: *data is NULL while there is none; else to be freed. */
int nested_get(struct vcpu_parked *vcpu, struct kvm_nested_state **state, struct err *err);
/* state NULL: none. Sets the guest's hypervisor state back to off. */
int nested_set(struct vcpu_parked *vcpu, struct kvm_nested_state *state, struct err *err);

/* Bytes of this host's XSAVE area for the VM. */
size_t xsave_bytes(const struct vm *vm);
/* `area` has xsave_bytes(). */
int xsave_get(struct vcpu_parked *vcpu, uint8_t *area, struct err *err);
int xsave_set(struct vcpu_parked *vcpu, const uint8_t *area, struct err *err);

#endif
