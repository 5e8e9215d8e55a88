// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "arch/arm64/arm64.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

static int reg_access(struct vcpu *vcpu, unsigned long request, uint64_t id, const void *value, struct err *err)
{
	struct kvm_one_reg reg = { .id = id, .addr = (uintptr_t)value };

	if (ioctl(vcpu_fd(vcpu), request, &reg) >= 0)
		return 0;
	return err_errno(err, -errno, "vCPU %u: %s register 0x%llx", vcpu_index(vcpu),
			 request == KVM_SET_ONE_REG ? "set" : "get", (unsigned long long)id);
}

int reg_get(struct vcpu *vcpu, uint64_t id, void *value, struct err *err)
{
	return reg_access(vcpu, KVM_GET_ONE_REG, id, value, err);
}

int reg_set(struct vcpu *vcpu, uint64_t id, const void *value, struct err *err)
{
	return reg_access(vcpu, KVM_SET_ONE_REG, id, value, err);
}

int reg_get64(struct vcpu *vcpu, uint64_t id, uint64_t *value, struct err *err)
{
	return reg_get(vcpu, id, value, err);
}

int reg_set64(struct vcpu *vcpu, uint64_t id, uint64_t value, struct err *err)
{
	return reg_set(vcpu, id, &value, err);
}

int arm64_vcpu_reset(struct vcpu *vcpu, struct err *err)
{
	struct kvm_vcpu_init init;
	int r;

	memset(&init, 0, sizeof(init));
	if (ioctl(vm_fd(vcpu_vm(vcpu)), KVM_ARM_PREFERRED_TARGET, &init) < 0)
		return err_errno(err, -errno, "KVM: preferred kind of vCPU");
	/*
	 * No SVE, pointer authentication or performance counters: a guest finds the same CPU on every host that has no less
	 * than the base.
	 */
	init.features[0] |= 1u << KVM_ARM_VCPU_PSCI_0_2;
	if (vcpu_index(vcpu))
		init.features[0] |= 1u << KVM_ARM_VCPU_POWER_OFF;
	r = vcpu_ioctl(vcpu, KVM_ARM_VCPU_INIT, &init, "initialise", err);
	return r < 0 ? r : 0;
}
