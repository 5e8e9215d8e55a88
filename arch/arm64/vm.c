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

/*
 * The machine's addresses, unless its RAM needs more. 0 would mean 40, which
 * some hosts have not.
 */
#define ADDRESS_BITS 36u
/* What hosts have that do not tell. */
#define ADDRESS_BITS_OLD 40u

int arch_memory_layout(uint64_t bytes, struct memory_range *ranges, unsigned int *n,
		       struct err *err)
{
	if (bytes < ARCH_RAM_MIN || bytes > ARCH_RAM_MAX || bytes % HUGE_BYTES)
		return err_set(err, -EINVAL,
			       "guest memory of %llu bytes: must be a multiple of 2 MiB, from 16 MiB to 1 TiB",
			       (unsigned long long)bytes);
	ranges[0] = (struct memory_range){ .base = GPA(BOARD_RAM_BASE), .len_bytes = bytes };
	*n = 1;
	return 0;
}

gpa_t arch_device_pages(unsigned int *pages)
{
	*pages = BOARD_IDENTITY_BYTES / PAGE_BYTES;
	return GPA(BOARD_IDENTITY);
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

int arch_host_ask(int kvm_fd, void **asked, struct err *err)
{
	(void)kvm_fd, (void)err;
	*asked = NULL;
	return 0;
}

gpa_t arch_plain_ram_end(void)
{
	/* Nothing is asked but what arch_vm_type asks itself. */
	return GPA(UINT64_MAX);
}

int arch_vm_type(int kvm_fd, const void *asked, gpa_t ram_end, unsigned long *type, struct err *err)
{
	/* Before Linux 4.20 all hosts had 40, and none could be asked for. */
	int told = ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_ARM_VM_IPA_SIZE);
	unsigned int have = told > 0 ? (unsigned int)told : ADDRESS_BITS_OLD, need = ADDRESS_BITS;

	(void)asked;
	while (need < 63 && ram_end.v > 1ull << need)
		need++;
	if (need > have && need > ADDRESS_BITS)
		return err_set(err, -ENOTSUP,
			       "guest RAM up to 0x%llx: this host's KVM has %u bits of guest physical addresses: "
			       "use --memory of at most %lluG", (unsigned long long)ram_end.v, have,
			       (unsigned long long)(((1ull << have) - BOARD_RAM_BASE) >> 30));
	*type = told > 0 ? KVM_VM_TYPE_ARM_IPA_SIZE(need) : 0;
	return 0;
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
	r = gic_init(own->gic, cpus, err);
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

/* Ticks of the counter a second, the guest's as this host's. */
static uint64_t counter_frequency(void)
{
	uint64_t hz;

	__asm__("mrs %0, cntfrq_el0" : "=r"(hz));
	return hz;
}

int arch_clock_advance(struct vm *vm, uint64_t ns, struct err *err)
{
	uint64_t counter;
	int r = arch_clock_stop(vm, &counter, err);

	if (r < 0)
		return r;
	counter += (uint64_t)((unsigned __int128)ns * counter_frequency() / 1000000000);
	return arch_clock_start(vm, counter, err);
}

/* There is one counter for all of them. */
int arch_vcpu_clock_advance(struct vcpu_parked *vcpu, uint64_t ns, struct err *err)
{
	(void)vcpu, (void)ns, (void)err;
	return 0;
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
