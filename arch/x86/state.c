// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * The two pieces of vCPU state that are images: the XSAVE area and a nested guest.
 */
#include "arch/x86/state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "arch/x86/cpuid.h"
#include "arch/x86/x86.h"

size_t xsave_bytes(const struct vm *vm)
{
	int bytes = x86_capability(vm, KVM_CAP_XSAVE2);

	return bytes > (int)sizeof(struct kvm_xsave) ? (size_t)bytes : sizeof(struct kvm_xsave);
}

int xsave_get(struct vcpu_parked *vcpu, uint8_t *area, struct err *err)
{
	bool large = xsave_bytes(parked_vm(vcpu)) > sizeof(struct kvm_xsave);
	int result = parked_ioctl(vcpu, large ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, area,
				  "get FPU state", err);

	return result < 0 ? result : 0;
}

int xsave_set(struct vcpu_parked *vcpu, const uint8_t *area, struct err *err)
{
	int result =
		parked_ioctl(vcpu, KVM_SET_XSAVE, (void *)(uintptr_t)area, "set FPU state", err);

	return result < 0 ? result : 0;
}

static bool nested_is_active(const struct kvm_nested_state *state)
{
	if (state->format == KVM_STATE_NESTED_FORMAT_VMX)
		return state->hdr.vmx.vmxon_pa != ~0ull || state->flags;
	return state->flags != KVM_STATE_NESTED_GIF_SET;
}

/* Does the vCPU have the extensions? */
static int nested_is_possible(struct vcpu_parked *vcpu, struct err *err)
{
	struct cpuid_table *table;
	int result;

	if (!x86_capability(parked_vm(vcpu), KVM_CAP_NESTED_STATE))
		return 0;
	table = malloc(sizeof(*table));
	if (!table)
		return err_set(err, -ENOMEM, "no memory for CPUID");
	result = cpuid_get(vcpu, table, err);
	if (!result)
		result = cpuid_has_nesting(table);
	free(table);
	return result;
}

int nested_get(struct vcpu_parked *vcpu, struct kvm_nested_state **state, struct err *err)
{
	size_t bytes = (size_t)x86_capability(parked_vm(vcpu), KVM_CAP_NESTED_STATE);
	struct kvm_nested_state *work;
	int result;

	*state = NULL;
	result = nested_is_possible(vcpu, err);
	if (result <= 0)
		return result;
	if (bytes < sizeof(*work))
		bytes = sizeof(*work);
	work = calloc(1, bytes);
	if (!work)
		return err_set(err, -ENOMEM, "no memory for a nested guest's state");
	work->size = (uint32_t)bytes;
	result = parked_ioctl(vcpu, KVM_GET_NESTED_STATE, work, "get nested guest's state", err);
	if (result < 0 || work->size < sizeof(*work) || work->size > bytes ||
	    !nested_is_active(work))
		free(work);
	else
		*state = work;
	return result < 0 ? result : 0;
}

int nested_set(struct vcpu_parked *vcpu, struct kvm_nested_state *state, struct err *err)
{
	struct kvm_nested_state *now = NULL;
	struct kvm_nested_state none;
	int result;

	if (!state) {
		/*
		 * Nothing to put off unless there is something; its format says
		 * how "none" looks.
		 */
		result = nested_get(vcpu, &now, err);
		if (result || !now)
			return result;
		memset(&none, 0, sizeof(none));
		none.size = sizeof(none);
		none.format = now->format;
		if (none.format == KVM_STATE_NESTED_FORMAT_VMX) {
			none.hdr.vmx.vmxon_pa = ~0ull;
			none.hdr.vmx.vmcs12_pa = ~0ull;
		} else {
			none.flags = KVM_STATE_NESTED_GIF_SET;
		}
		free(now);
		state = &none;
	} else if (!x86_capability(parked_vm(vcpu), KVM_CAP_NESTED_STATE)) {
		return err_set(err, -ENOTSUP,
			       "the guest runs a guest of its own; this host's KVM cannot do that");
	}
	result = parked_ioctl(vcpu, KVM_SET_NESTED_STATE, state, "set nested guest's state", err);
	return result < 0 ? result : 0;
}
