// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "arch/arm64/arm64.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

static int reg_access(struct vcpu_parked *vcpu, unsigned long request, uint64_t id,
		      const void *value, struct err *err)
{
	struct kvm_one_reg reg = { .id = id, .addr = (uintptr_t)value };

	char what[64];
	int r;

	/* Only for an error that somebody reads: there are many registers. */
	what[0] = '\0';
	if (err)
		snprintf(what, sizeof(what), "%s register 0x%llx",
			 request == KVM_SET_ONE_REG ? "set" : "get", (unsigned long long)id);
	r = parked_ioctl(vcpu, request, &reg, what, err);
	return r < 0 ? r : 0;
}

int reg_get(struct vcpu_parked *vcpu, uint64_t id, void *value, struct err *err)
{
	return reg_access(vcpu, KVM_GET_ONE_REG, id, value, err);
}

int reg_set(struct vcpu_parked *vcpu, uint64_t id, const void *value, struct err *err)
{
	return reg_access(vcpu, KVM_SET_ONE_REG, id, value, err);
}

int reg_get64(struct vcpu_parked *vcpu, uint64_t id, uint64_t *value, struct err *err)
{
	return reg_get(vcpu, id, value, err);
}

int reg_set64(struct vcpu_parked *vcpu, uint64_t id, uint64_t value, struct err *err)
{
	return reg_set(vcpu, id, &value, err);
}

int arm64_vcpu_reset(struct vcpu_parked *vcpu, struct err *err)
{
	struct kvm_vcpu_init init;
	int r;

	memset(&init, 0, sizeof(init));
	if (ioctl(vm_fd(parked_vm(vcpu)), KVM_ARM_PREFERRED_TARGET, &init) < 0)
		return err_errno(err, -errno, "KVM: preferred kind of vCPU");
	/*
	 * No SVE, pointer authentication or performance counters: a guest finds
	 * the same CPU on every host that has no less than the base.
	 */
	init.features[0] |= 1u << KVM_ARM_VCPU_PSCI_0_2;
	if (parked_index(vcpu))
		init.features[0] |= 1u << KVM_ARM_VCPU_POWER_OFF;
	r = parked_ioctl(vcpu, KVM_ARM_VCPU_INIT, &init, "initialise", err);
	return r < 0 ? r : 0;
}
