// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * The machine's shape: where RAM lies, and the interrupt controllers and timers
 * that KVM emulates. Interrupt lines are wired as on a PC: lines 0 to 15 reach
 * both 8259s and the I/O APIC, the timer's line 0 comes in at pin 2.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "arch/arch.h"
#include "arch/x86/board.h"
#include "arch/x86/host.h"
#include "arch/x86/x86.h"

#define IOAPIC_PINS 24u

int arch_memory_layout(uint64_t bytes, struct memory_range *ranges, unsigned int *n,
		       struct err *err)
{
	/* Where RAM may lie, and how much of it there. */
	static const struct memory_range rooms[] = {
		{ GPA(0), BOARD_LOW_RAM_END },
		{ GPA(BOARD_HIGH_RAM_BASE), BOARD_PCI_HIGH_BASE - BOARD_HIGH_RAM_BASE },
		{ GPA(BOARD_TOP_RAM_BASE), ARCH_RAM_MAX },
	};
	unsigned int i;

	if (bytes < ARCH_RAM_MIN || bytes > ARCH_RAM_MAX || bytes % HUGE_BYTES)
		return err_set(err, -EINVAL,
			       "guest memory of %llu bytes: must be a multiple of 2 MiB, from 16 MiB to 1 TiB",
			       (unsigned long long)bytes);
	for (i = 0; bytes; i++) {
		ranges[i] = rooms[i];
		if (ranges[i].len_bytes > bytes)
			ranges[i].len_bytes = bytes;
		bytes -= ranges[i].len_bytes;
	}
	*n = i;
	return 0;
}

gpa_t arch_device_pages(unsigned int *pages)
{
	*pages = BOARD_IDENTITY_BYTES / PAGE_BYTES;
	return GPA(BOARD_IDENTITY);
}

int x86_capability(const struct vm *vm, long capability)
{
	int value = ioctl(vm_fd(vm), KVM_CHECK_EXTENSION, capability);

	return value > 0 ? value : 0;
}

int x86_vm_ioctl(const struct vm *vm, unsigned long request, void *arg, const char *what,
		 struct err *err)
{
	int result = ioctl(vm_fd(vm), request, arg);

	if (result < 0)
		return err_errno(err, -errno, "KVM: %s", what);
	return result;
}

static unsigned int route(struct kvm_irq_routing_entry *entry, uint32_t gsi, uint32_t chip,
			  uint32_t pin)
{
	*entry = (struct kvm_irq_routing_entry){
		.gsi = gsi,
		.type = KVM_IRQ_ROUTING_IRQCHIP,
		.u.irqchip = { .irqchip = chip, .pin = pin },
	};
	return 1;
}

unsigned int arch_irq_routes(struct kvm_irq_routing_entry *routes)
{
	struct kvm_irq_routing_entry *next = routes;
	uint32_t gsi;

	_Static_assert(2 * IOAPIC_PINS <= ARCH_IRQ_ROUTES_MAX, "every route has room");
	for (gsi = 0; gsi < IOAPIC_PINS; gsi++) {
		if (gsi < 16)
			next += route(next, gsi,
				      gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE,
				      gsi % 8);
		/* Pin 2 is the timer's, as the override in the MADT says. */
		if (gsi != 2)
			next += route(next, gsi, KVM_IRQCHIP_IOAPIC, gsi ? gsi : 2);
	}
	return (unsigned int)(next - routes);
}

/* Makes KVM tell pending exceptions and triple faults apart in the vCPU events, where it can. */
static int events_enable(struct vm *vm, struct err *err)
{
	static const struct {
		uint32_t capability;
		const char *what;
	} caps[] = {
		{ KVM_CAP_EXCEPTION_PAYLOAD, "enable exception payloads" },
		{ KVM_CAP_X86_TRIPLE_FAULT_EVENT, "enable triple fault events" },
	};
	unsigned int i;
	int result;

	for (i = 0; i < sizeof(caps) / sizeof(caps[0]); i++) {
		struct kvm_enable_cap enable = { .cap = caps[i].capability, .args = { 1 } };

		if (!x86_capability(vm, (long)caps[i].capability))
			continue;
		result = x86_vm_ioctl(vm, KVM_ENABLE_CAP, &enable, caps[i].what, err);
		if (result < 0)
			return result;
	}
	return 0;
}

int arch_host_ask(int kvm_fd, void **asked, struct err *err)
{
	struct x86_asked *new = calloc(1, sizeof(*new));
	int r = 0;

	if (!new)
		return err_set(err, -ENOMEM, "no memory for the VM");
	new->cpuid.nent = CPUID_ENTRIES_MAX;
	if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, &new->cpuid) < 0)
		r = err_errno(err, -errno, "KVM: get supported CPUID");
	if (!r)
		r = msr_list_ask(kvm_fd, &new->msrs, err);
	if (r < 0) {
		free(new);
		return r;
	}
	*asked = new;
	return 0;
}

/* Of guest physical addresses; 36 where KVM does not tell, as of old. */
static unsigned int address_bits(const struct x86_asked *asked)
{
	const struct kvm_cpuid_entry2 *leaf =
		cpuid_find((struct cpuid_table *)&asked->cpuid, 0x80000008, 0);
	unsigned int bits = leaf ? leaf->eax & 0xff : 36;

	return bits < 52 ? bits : 52;
}

gpa_t arch_plain_ram_end(void)
{
	/* Devices' windows reach so far in any case. */
	return GPA(BOARD_TOP_RAM_BASE);
}

int arch_vm_type(int kvm_fd, const void *asked, gpa_t ram_end, unsigned long *type, struct err *err)
{
	unsigned int bits;
	uint64_t most;

	(void)kvm_fd;
	*type = 0;
	if (!asked || ram_end.v <= arch_plain_ram_end().v)
		return 0;
	bits = address_bits(asked);
	if (ram_end.v <= 1ull << bits)
		return 0;
	most = BOARD_LOW_RAM_END + BOARD_PCI_HIGH_BASE - BOARD_HIGH_RAM_BASE;
	if (1ull << bits > BOARD_TOP_RAM_BASE)
		most += (1ull << bits) - BOARD_TOP_RAM_BASE;
	return err_set(err, -ENOTSUP,
		       "guest RAM up to 0x%llx: this host has %u bits of guest physical addresses: use --memory of at most %lluG",
		       (unsigned long long)ram_end.v, bits, (unsigned long long)(most >> 30));
}

int arch_vm_create(struct vm *vm, struct err *err)
{
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
	uint64_t identity_map = BOARD_IDENTITY_MAP;
	struct x86_host *host = calloc(1, sizeof(*host));
	int result;

	if (!host)
		return err_set(err, -ENOMEM, "no memory for the VM");
	vm_set_arch(vm, host, free);
	if (!x86_capability(vm, KVM_CAP_IRQCHIP) || !x86_capability(vm, KVM_CAP_PIT2) ||
	    !x86_capability(vm, KVM_CAP_IRQ_ROUTING))
		return err_set(err, -ENOTSUP,
			       "this KVM has no in-kernel interrupt controller, timer or interrupt routing");
	result = x86_vm_ioctl(vm, KVM_SET_IDENTITY_MAP_ADDR, &identity_map,
			      "set identity map address", err);
	if (result >= 0)
		result = x86_vm_ioctl(vm, KVM_SET_TSS_ADDR, (void *)(uintptr_t)BOARD_TSS,
				      "set TSS address", err);
	if (result >= 0)
		result = x86_vm_ioctl(vm, KVM_CREATE_IRQCHIP, NULL, "create interrupt controllers",
				      err);
	if (result >= 0)
		result = x86_vm_ioctl(vm, KVM_CREATE_PIT2, &pit, "create timer", err);
	if (result >= 0)
		result = vm_irq_routes_init(vm, err);
	if (result >= 0)
		result = events_enable(vm, err);
	return result < 0 ? result : 0;
}
