// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Power-on state of a vCPU (Intel SDM volume 3, table 10-1) and of the
 * interrupt controllers and timers. KVM has no ioctl that resets; everything is
 * set to its value. The TSC and the paravirtual clock go on: guests take them
 * as they find them.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "arch/arch.h"
#include "arch/x86/board.h"
#include "arch/x86/msr.h"
#include "arch/x86/state.h"
#include "arch/x86/x86.h"

#define APIC_BASE_BSP (1u << 8)
#define APIC_BASE_ENABLE (1u << 11)

#define IOAPIC_MASKED (1u << 16)

static struct kvm_segment reset_segment(uint8_t type, uint64_t base, uint16_t selector)
{
	return (struct kvm_segment){
		.base = base,
		.limit = 0xffff,
		.selector = selector,
		.type = type,
		.present = 1,
		.s = type == 3 || type == 0xb,
	};
}

static int sregs_reset(struct vcpu_parked *vcpu, struct err *err)
{
	struct kvm_sregs2 s;
	int result;

	memset(&s, 0, sizeof(s));
	s.cs = reset_segment(0xb, 0xffff0000, 0xf000);
	s.ds = s.es = s.fs = s.gs = s.ss = reset_segment(3, 0, 0);
	s.ldt = reset_segment(2, 0, 0);
	s.tr = reset_segment(0xb, 0, 0);
	s.tr.s = 0;
	s.gdt.limit = s.idt.limit = 0xffff;
	s.cr0 = 0x60000010;
	s.apic_base =
		BOARD_LAPIC_BASE | APIC_BASE_ENABLE | (parked_index(vcpu) ? 0 : APIC_BASE_BSP);
	result = x86_sregs_set(vcpu, &s, err);
	return result < 0 ? result : 0;
}

static void lapic_set(struct kvm_lapic_state *lapic, unsigned int offset, uint32_t value)
{
	memcpy(&lapic->regs[offset], &value, sizeof(value));
}

static int lapic_reset(struct vcpu_parked *vcpu, struct err *err)
{
	static const uint16_t lvt[] = { 0x2f0, 0x320, 0x330, 0x340, 0x350, 0x360, 0x370 };
	struct kvm_lapic_state now, lapic;
	unsigned int i;
	int result;

	result = parked_ioctl(vcpu, KVM_GET_LAPIC, &now, "get local APIC", err);
	if (result < 0)
		return result;
	memset(&lapic, 0, sizeof(lapic));
	lapic_set(&lapic, 0x20, parked_index(vcpu) << 24);
	memcpy(&lapic.regs[0x30], &now.regs[0x30], 4);		/* version */
	lapic_set(&lapic, 0xe0, 0xffffffff);			/* DFR */
	lapic_set(&lapic, 0xf0, 0xff);				/* spurious vector, disabled */
	for (i = 0; i < sizeof(lvt) / sizeof(lvt[0]); i++)
		lapic_set(&lapic, lvt[i], 1u << 16);		/* masked */
	/* Virtual wire: as firmware leaves it, the 8259s reach the first CPU through LINT0. */
	if (parked_index(vcpu) == 0)
		lapic_set(&lapic, 0x350, 0x700);
	result = parked_ioctl(vcpu, KVM_SET_LAPIC, &lapic, "set local APIC", err);
	return result < 0 ? result : 0;
}

static int fpu_reset(struct vcpu_parked *vcpu, struct err *err)
{
	struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs = { { .xcr = 0, .value = 1 } } };
	uint8_t *area = calloc(1, xsave_bytes(parked_vm(vcpu)));
	uint64_t components = 3;	/* XSTATE_BV: x87 and SSE, below; all others in their initial state */
	uint16_t fcw = 0x37f;
	uint32_t mxcsr = 0x1f80;
	int result;

	if (!area)
		return err_set(err, -ENOMEM, "no memory for FPU state");
	memcpy(area, &fcw, sizeof(fcw));
	memcpy(area + 24, &mxcsr, sizeof(mxcsr));
	memcpy(area + 512, &components, sizeof(components));
	result = xsave_set(vcpu, area, err);
	free(area);
	if (!result && x86_capability(parked_vm(vcpu), KVM_CAP_XCRS))
		result = parked_ioctl(vcpu, KVM_SET_XCRS, &xcrs, "set XCR0", err);
	return result < 0 ? result : 0;
}

static int events_reset(struct vcpu_parked *vcpu, struct err *err)
{
	struct kvm_vcpu_events events;
	struct vm *vm = parked_vm(vcpu);
	int result;

	memset(&events, 0, sizeof(events));
	events.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR |
		       KVM_VCPUEVENT_VALID_SHADOW;
	if (x86_capability(vm, KVM_CAP_X86_SMM))
		events.flags |= KVM_VCPUEVENT_VALID_SMM;
	if (x86_capability(vm, KVM_CAP_X86_TRIPLE_FAULT_EVENT))
		events.flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
	result = parked_ioctl(vcpu, KVM_SET_VCPU_EVENTS, &events, "set events", err);
	return result < 0 ? result : 0;
}

int x86_vcpu_reset(struct vcpu_parked *vcpu, struct err *err)
{
	struct kvm_mp_state mp = {
		.mp_state = parked_index(vcpu) ? KVM_MP_STATE_UNINITIALIZED : KVM_MP_STATE_RUNNABLE,
	};
	struct kvm_debugregs debug = { .dr6 = 0xffff0ff0, .dr7 = 0x400 };
	struct kvm_regs regs = { .rip = 0xfff0, .rflags = 2 };
	int result;

	result = nested_set(vcpu, NULL, err);
	if (!result)
		result = msr_reset(vcpu, err);
	if (!result)
		result = sregs_reset(vcpu, err);
	if (!result)
		result = lapic_reset(vcpu, err);
	if (!result)
		result = parked_ioctl(vcpu, KVM_SET_REGS, &regs, "set registers", err);
	if (result >= 0)
		result = fpu_reset(vcpu, err);
	if (result >= 0)
		result = parked_ioctl(vcpu, KVM_SET_DEBUGREGS, &debug, "set debug registers", err);
	if (result >= 0)
		result = events_reset(vcpu, err);
	if (result >= 0)
		result = parked_ioctl(vcpu, KVM_SET_MP_STATE, &mp, "set MP state", err);
	return result < 0 ? result : 0;
}

static int chip_set(struct vm *vm, struct kvm_irqchip *chip, const char *what, struct err *err)
{
	int result = x86_vm_ioctl(vm, KVM_SET_IRQCHIP, chip, what, err);

	return result < 0 ? result : 0;
}

int arch_vm_reset(struct vm *vm, struct err *err)
{
	static const uint8_t elcr_mask[] = { 0xf8, 0xde };	/* lines that may be level-triggered */
	struct kvm_irqchip chip;
	struct kvm_pit_state2 pit;
	unsigned int i;
	int result;

	for (i = 0; i < 2; i++) {
		memset(&chip, 0, sizeof(chip));
		chip.chip_id = i ? KVM_IRQCHIP_PIC_SLAVE : KVM_IRQCHIP_PIC_MASTER;
		chip.chip.pic.elcr_mask = elcr_mask[i];
		result = chip_set(vm, &chip, "reset 8259", err);
		if (result)
			return result;
	}
	memset(&chip, 0, sizeof(chip));
	chip.chip_id = KVM_IRQCHIP_IOAPIC;
	chip.chip.ioapic.base_address = BOARD_IOAPIC_BASE;
	for (i = 0; i < KVM_IOAPIC_NUM_PINS; i++)
		chip.chip.ioapic.redirtbl[i].bits = IOAPIC_MASKED;
	result = chip_set(vm, &chip, "reset I/O APIC", err);
	if (result)
		return result;
	memset(&pit, 0, sizeof(pit));
	for (i = 0; i < 3; i++) {
		pit.channels[i].mode = 0xff;
		pit.channels[i].gate = i != 2;
	}
	result = x86_vm_ioctl(vm, KVM_SET_PIT2, &pit, "reset 8254", err);
	return result < 0 ? result : 0;
}
