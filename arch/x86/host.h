/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What is remembered of the host's KVM, because asking takes long and it is
 * needed while a guest is paused: of the host, before there is a VM (a third of a
 * millisecond for the CPUID); of a VM, main thread only (as much for MSRs that
 * cannot be read).
 */
#ifndef POSTERN_ARCH_X86_HOST_H
#define POSTERN_ARCH_X86_HOST_H

#include "arch/x86/cpuid.h"
#include "arch/x86/msr.h"

/* Of this host, by arch_host_ask; VMs share it. */
struct x86_asked {
	struct cpuid_table cpuid; /* supported */
	struct msr_table msrs; /* msr_list */
};

static inline const struct x86_asked *x86_asked(const struct vm *vm)
{
	return vm_asked(vm);
}

struct x86_host {
	struct msr_table refused;	/* MSRs of msr_list that cannot be read, when refused_known */
	bool refused_known;
};

/* Of a VM after arch_vm_create. */
static inline struct x86_host *x86_host(const struct vm *vm)
{
	return vm_arch(vm);
}

#endif
