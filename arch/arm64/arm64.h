/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What the files of this folder share: registers by KVM's numbers, and the state of the VM's own.
 */
#ifndef POSTERN_ARCH_ARM64_ARM64_H
#define POSTERN_ARCH_ARM64_ARM64_H

#include <linux/kvm.h>
#include <stddef.h>

#include "base/err.h"
#include "base/types.h"
#include "kvm/parked.h"
#include "kvm/vm.h"

/* KVM's number of a field of struct kvm_regs: general registers of 8 bytes. */
#define CORE_REG(field) \
	(KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | KVM_REG_ARM_CORE_REG(field))

#define SYS_SCTLR_EL1 ARM64_SYS_REG(3, 0, 1, 0, 0)
#define SYS_TTBR0_EL1 ARM64_SYS_REG(3, 0, 2, 0, 0)
#define SYS_TTBR1_EL1 ARM64_SYS_REG(3, 0, 2, 0, 1)
#define SYS_TCR_EL1 ARM64_SYS_REG(3, 0, 2, 0, 2)

/* PSTATE (Arm ARM, C5.2.19 SPSR_EL1) */
#define PSTATE_EL0T 0x0ull
#define PSTATE_EL1H 0x5ull
#define PSTATE_EL_MASK 0xcull
#define PSTATE_SP 0x1ull
#define PSTATE_DAIF 0x3c0ull

/* What a VM remembers. */
struct arm64_vm {
	int gic;		/* KVM's device */
	uint64_t *gic_shared;	/* the interrupt controller's state as it was made */
	uint64_t *gic_private;	/* for each vCPU, one after the other */
};

/* Of a VM after arch_vm_create. */
static inline struct arm64_vm *arm64_vm(const struct vm *vm)
{
	return vm_arch(vm);
}

/* One register. 0 or a negative errno with err (may be NULL) naming it. */
int reg_get(struct vcpu_parked *vcpu, uint64_t id, void *value, struct err *err);
int reg_set(struct vcpu_parked *vcpu, uint64_t id, const void *value, struct err *err);
int reg_get64(struct vcpu_parked *vcpu, uint64_t id, uint64_t *value, struct err *err);
int reg_set64(struct vcpu_parked *vcpu, uint64_t id, uint64_t value, struct err *err);

/* Power-on state: KVM_ARM_VCPU_INIT. Only vCPU 0 runs; the others wait for PSCI's CPU_ON. */
int arm64_vcpu_reset(struct vcpu_parked *vcpu, struct err *err);

#endif
