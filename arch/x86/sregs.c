// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Special registers, in the newer form that carries the PDPTEs, on kernels with
 * and without it (Linux 5.14). The older form has a bitmap of one injected
 * interrupt instead; the vCPU events say the same.
 */
#include <errno.h>
#include <string.h>

#include "arch/x86/x86.h"

int x86_sregs_get(struct vcpu_parked *vcpu, struct kvm_sregs2 *sregs, struct err *err)
{
	struct kvm_sregs old;
	int result;

	memset(sregs, 0, sizeof(*sregs));
	if (x86_capability(parked_vm(vcpu), KVM_CAP_SREGS2))
		return parked_ioctl(vcpu, KVM_GET_SREGS2, sregs, "get special registers", err);
	result = parked_ioctl(vcpu, KVM_GET_SREGS, &old, "get special registers", err);
	if (result < 0)
		return result;
	/* Both begin alike, up to and with apic_base. */
	memcpy(sregs, &old, offsetof(struct kvm_sregs, interrupt_bitmap));
	return 0;
}

static bool is_pae(const struct kvm_sregs2 *sregs)
{
	return (sregs->cr0 & CR0_PG) && (sregs->cr4 & CR4_PAE) && !(sregs->efer & EFER_LMA);
}

static bool is_present(struct vcpu_parked *vcpu, gpa_t gpa)
{
	const struct memory *mem = vm_memory(parked_vm(vcpu));

	return !memory_is_ram(mem, gpa, 1) ||
	       memory_page_state(mem, gpa_to_gfn(gpa)) == PAGE_PRESENT;
}

int x86_sregs_set(struct vcpu_parked *vcpu, const struct kvm_sregs2 *sregs, struct err *err)
{
	bool new_form = x86_capability(parked_vm(vcpu), KVM_CAP_SREGS2) != 0;
	struct kvm_sregs2 copy = *sregs;
	struct kvm_sregs old;

	if (is_pae(sregs) && !(new_form && (sregs->flags & KVM_SREGS2_FLAGS_PDPTRS_VALID)) &&
	    !is_present(vcpu, GPA(sregs->cr3 & ~31ull)))
		return err_set(err, -EAGAIN, "vCPU %u: page-table page 0x%llx has not come yet",
			       parked_index(vcpu), (unsigned long long)sregs->cr3);
	if (new_form)
		return parked_ioctl(vcpu, KVM_SET_SREGS2, &copy, "set special registers", err);
	memset(&old, 0, sizeof(old));
	memcpy(&old, sregs, offsetof(struct kvm_sregs, interrupt_bitmap));
	return parked_ioctl(vcpu, KVM_SET_SREGS, &old, "set special registers", err);
}
