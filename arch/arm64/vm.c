// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * The machine's shape, its interrupt controller's life, and its clock.
 *
 * The guest's clock is the virtual counter. KVM keeps one offset from the
 * host's counter for the whole VM; to write the counter of one vCPU is to write
 * that of all.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "arch/arch.h"
#include "arch/arm64/arm64.h"
#include "arch/arm64/board.h"
#include "arch/arm64/gic.h"

#define ARCH_RAM_MIN (16ull << 20)
#define ARCH_RAM_MAX (16ull << 30)
/* The machine's addresses. 0 would mean 40, which some hosts have not. */
#define ADDRESS_BITS 36u

int arch_memory_layout(uint64_t bytes, struct memory_range *ranges, unsigned int *n,
		       struct err *err)
{
	if (bytes < ARCH_RAM_MIN || bytes > ARCH_RAM_MAX || bytes % HUGE_BYTES)
		return err_set(err, -EINVAL,
			       "guest memory of %llu bytes: must be a multiple of 2 MiB, from 16 MiB to 16 GiB",
			       (unsigned long long)bytes);
	ranges[0] = (struct memory_range){ .base = GPA(BOARD_RAM_BASE), .len_bytes = bytes };
	*n = 1;
	return 0;
}

/* KVM has routes of its own for the interrupt controller's lines; there are no others. */
unsigned int arch_irq_routes(struct kvm_irq_routing_entry *routes)
{
	(void)routes;
	return 0;
}

static void arm64_vm_free(void *data)
{
	struct arm64_vm *own = data;

	if (own->gic >= 0)
		close(own->gic);
	free(own->gic_shared);
	free(own->gic_private);
	free(own);
}

unsigned long arch_vm_type(int kvm_fd)
{
	/* Before Linux 4.20 all hosts had 40, and none could be asked for. */
	if (ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_ARM_VM_IPA_SIZE) <= 0)
		return 0;
	return KVM_VM_TYPE_ARM_IPA_SIZE(ADDRESS_BITS);
}

int arch_vm_create(struct vm *vm, struct err *err)
{
	struct arm64_vm *own;

	if (sysconf(_SC_PAGESIZE) != (long)PAGE_BYTES)
		return err_set(
			err, -ENOTSUP,
			"this host's kernel has pages of %ld bytes; postern needs one with 4 KiB",
			sysconf(_SC_PAGESIZE));
	own = calloc(1, sizeof(*own));
	if (!own)
		return err_set(err, -ENOMEM, "no memory for the VM");
	own->gic = -1;
	vm_set_arch(vm, own, arm64_vm_free);
	return gic_create(vm, &own->gic, err);
}

/* Its power-on state, to go back to at a reset: KVM has no call that resets it. */
static int gic_remember(struct arm64_vm *own, unsigned int cpus, struct err *err)
{
	unsigned int cpu;
	int r;

	own->gic_shared = calloc(gic_shared_n(), sizeof(*own->gic_shared));
	own->gic_private = calloc(cpus * gic_private_n(), sizeof(*own->gic_private));
	if (!own->gic_shared || !own->gic_private)
		return err_set(err, -ENOMEM, "no memory for the interrupt controller's state");
	r = gic_shared_save(own->gic, own->gic_shared, err);
	for (cpu = 0; cpu < cpus && !r; cpu++)
		r = gic_private_save(own->gic, cpu, own->gic_private + cpu * gic_private_n(), err);
	return r;
}

int arch_vcpu_create(struct vcpu_parked *vcpu, unsigned int cpus, struct err *err)
{
	struct arm64_vm *own = arm64_vm(parked_vm(vcpu));
	int r;

	r = arm64_vcpu_reset(vcpu, err);
	/* The controller takes no vCPU once it has been initialised. */
	if (r < 0 || parked_index(vcpu) + 1 < cpus)
		return r;
	r = gic_init(own->gic, err);
	return r < 0 ? r : gic_remember(own, cpus, err);
}

int arch_vm_reset(struct vm *vm, struct err *err)
{
	struct arm64_vm *own = arm64_vm(vm);
	unsigned int cpu;
	int r;

	r = gic_shared_load(own->gic, own->gic_shared, err);
	for (cpu = 0; cpu < vm_vcpus(vm) && !r; cpu++)
		r = gic_private_load(own->gic, cpu, own->gic_private + cpu * gic_private_n(), err);
	return r;
}

int arch_clock_stop(struct vm *vm, uint64_t *clock, struct err *err)
{
	struct vcpu_parked *vcpu = vcpu_hold(vm_vcpu(vm, 0), err);
	int r;

	if (!vcpu)
		return -EBUSY;
	r = reg_get64(vcpu, KVM_REG_ARM_TIMER_CNT, clock, err);
	vcpu_release(vcpu);
	return r;
}

int arch_clock_start(struct vm *vm, uint64_t clock, struct err *err)
{
	struct vcpu_parked *vcpu = vcpu_hold(vm_vcpu(vm, 0), err);
	int r;

	if (!vcpu)
		return -EBUSY;
	r = reg_set64(vcpu, KVM_REG_ARM_TIMER_CNT, clock, err);
	vcpu_release(vcpu);
	return r;
}
