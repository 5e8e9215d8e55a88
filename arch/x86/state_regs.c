// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Registers between KVM's structures and the message: pure functions.
 */
#include <errno.h>
#include <string.h>

#include "arch/x86/state_vcpu.h"

#define REGS(F) \
	F(rax) F(rbx) F(rcx) F(rdx) F(rsi) F(rdi) F(rsp) F(rbp) F(r8) F(r9) F(r10) F(r11) F(r12) F(r13) F(r14) \
	F(r15) F(rip) F(rflags)

void regs_to_message(X86__Registers *message, const struct kvm_regs *regs)
{
	x86__registers__init(message);
#define GET(reg) message->reg = regs->reg;
	REGS(GET)
#undef GET
}

void regs_from_message(struct kvm_regs *regs, const X86__Registers *message)
{
	memset(regs, 0, sizeof(*regs));
#define SET(reg) regs->reg = message->reg;
	REGS(SET)
#undef SET
}

static void segment_to(X86__Segment *message, const struct kvm_segment *seg)
{
	x86__segment__init(message);
	message->address = seg->base;
	message->limit = seg->limit;
	message->selector = seg->selector;
	message->rights = (seg->type & 0xfu) | (seg->s & 1u) << 4 | (seg->dpl & 3u) << 5 |
			  (seg->present & 1u) << 7 | (seg->avl & 1u) << 12 | (seg->l & 1u) << 13 |
			  (seg->db & 1u) << 14 | (seg->g & 1u) << 15 | (seg->unusable & 1u) << 16;
}

static int segment_from(struct kvm_segment *seg, const X86__Segment *message, const char *name,
			struct err *err)
{
	uint32_t rights;

	if (!message)
		return err_set(err, -EPROTO, "vCPU state: no segment %s", name);
	rights = message->rights;
	if (message->selector > UINT16_MAX || (rights & ~0x1f0ffu))
		return err_set(err, -EPROTO, "vCPU state: bad segment %s", name);
	*seg = (struct kvm_segment){
		.base = message->address,
		.limit = message->limit,
		.selector = (uint16_t)message->selector,
		.type = rights & 0xf,
		.s = rights >> 4 & 1,
		.dpl = rights >> 5 & 3,
		.present = rights >> 7 & 1,
		.avl = rights >> 12 & 1,
		.l = rights >> 13 & 1,
		.db = rights >> 14 & 1,
		.g = rights >> 15 & 1,
		.unusable = rights >> 16 & 1,
	};
	return 0;
}

static int table_from(struct kvm_dtable *table, const X86__DescriptorTable *message,
		      struct err *err)
{
	if (!message || message->limit > UINT16_MAX)
		return err_set(err, -EPROTO, "vCPU state: bad descriptor table");
	*table = (struct kvm_dtable){ .base = message->address, .limit = (uint16_t)message->limit };
	return 0;
}

#define SEGMENTS(F) F(cs) F(ds) F(es) F(fs) F(gs) F(ss) F(tr) F(ldt)
#define CONTROLS(F) F(cr0) F(cr2) F(cr3) F(cr4) F(cr8) F(efer) F(apic_base)

void sregs_to_message(struct sregs_message *message, const struct kvm_sregs2 *sregs)
{
	X86__Segment *segment = message->segments;

	x86__special_registers__init(&message->head);
#define GET(name) \
	segment_to(segment, &sregs->name); \
	message->head.name = segment++;
	SEGMENTS(GET)
#undef GET
#define GET(name) message->head.name = sregs->name;
	CONTROLS(GET)
#undef GET
	x86__descriptor_table__init(&message->tables[0]);
	message->tables[0].address = sregs->gdt.base;
	message->tables[0].limit = sregs->gdt.limit;
	message->head.gdt = &message->tables[0];
	x86__descriptor_table__init(&message->tables[1]);
	message->tables[1].address = sregs->idt.base;
	message->tables[1].limit = sregs->idt.limit;
	message->head.idt = &message->tables[1];
	if (sregs->flags & KVM_SREGS2_FLAGS_PDPTRS_VALID) {
		unsigned int i;

		for (i = 0; i < 4; i++)
			message->pdptrs[i] = sregs->pdptrs[i];
		message->head.pdptrs = message->pdptrs;
		message->head.n_pdptrs = 4;
	}
}

int sregs_from_message(struct kvm_sregs2 *sregs, const X86__SpecialRegisters *message,
		       struct err *err)
{
	int result = 0;

	memset(sregs, 0, sizeof(*sregs));
#define SET(name) \
	if (!result) \
		result = segment_from(&sregs->name, message->name, #name, err);
	SEGMENTS(SET)
#undef SET
#define SET(name) sregs->name = message->name;
	CONTROLS(SET)
#undef SET
	if (!result)
		result = table_from(&sregs->gdt, message->gdt, err);
	if (!result)
		result = table_from(&sregs->idt, message->idt, err);
	if (!result && message->n_pdptrs != 0 && message->n_pdptrs != 4)
		result = err_set(err, -EPROTO, "vCPU state: %zu PDPTEs", message->n_pdptrs);
	if (!result && message->n_pdptrs == 4) {
		memcpy(sregs->pdptrs, message->pdptrs, sizeof(sregs->pdptrs));
		sregs->flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
	}
	return result;
}

void events_to_message(X86__Events *message, const struct kvm_vcpu_events *events)
{
	x86__events__init(message);
	message->exception_injected = events->exception.injected;
	message->exception_nr = events->exception.nr;
	message->exception_has_error_code = events->exception.has_error_code;
	message->exception_error_code = events->exception.error_code;
	if (events->flags & KVM_VCPUEVENT_VALID_PAYLOAD) {
		message->exception_pending = events->exception.pending;
		message->exception_has_payload = events->exception_has_payload;
		message->exception_payload = events->exception_payload;
	}
	message->interrupt_injected = events->interrupt.injected;
	message->interrupt_nr = events->interrupt.nr;
	message->interrupt_soft = events->interrupt.soft;
	message->interrupt_shadow = events->interrupt.shadow;
	message->nmi_injected = events->nmi.injected;
	message->nmi_pending = events->nmi.pending;
	message->nmi_masked = events->nmi.masked;
	message->sipi_vector = events->sipi_vector;
	if (events->flags & KVM_VCPUEVENT_VALID_SMM) {
		message->smm = events->smi.smm;
		message->smi_pending = events->smi.pending;
		message->smm_inside_nmi = events->smi.smm_inside_nmi;
		message->latched_init = events->smi.latched_init;
	}
	if (events->flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT)
		message->triple_fault_pending = events->triple_fault.pending;
}

static int events_extra(struct kvm_vcpu_events *events, const X86__Events *message, uint32_t flags,
			struct err *err)
{
	bool payload = message->exception_pending || message->exception_has_payload;
	bool smm = message->smm || message->smi_pending || message->smm_inside_nmi;

	if (payload && !(flags & KVM_VCPUEVENT_VALID_PAYLOAD))
		return err_set(
			err, -ENOTSUP,
			"the guest has an exception pending; this host's KVM cannot take it");
	if (smm && !(flags & KVM_VCPUEVENT_VALID_SMM))
		return err_set(err, -ENOTSUP,
			       "the guest is in system management mode; this host's KVM has none");
	if (message->triple_fault_pending && !(flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT))
		return err_set(
			err, -ENOTSUP,
			"the guest has a triple fault pending; this host's KVM cannot take it");
	events->flags |= flags;
	events->exception.pending = message->exception_pending != 0;
	events->exception_has_payload = message->exception_has_payload != 0;
	events->exception_payload = message->exception_payload;
	events->smi.smm = message->smm != 0;
	events->smi.pending = message->smi_pending != 0;
	events->smi.smm_inside_nmi = message->smm_inside_nmi != 0;
	events->smi.latched_init = message->latched_init != 0;
	events->triple_fault.pending = message->triple_fault_pending != 0;
	return 0;
}

int events_from_message(struct kvm_vcpu_events *events, const X86__Events *message, uint32_t flags,
			struct err *err)
{
	memset(events, 0, sizeof(*events));
	if (message->exception_nr > 31 || message->interrupt_nr > UINT8_MAX ||
	    message->interrupt_shadow > UINT8_MAX || message->nmi_pending > UINT8_MAX)
		return err_set(err, -EPROTO, "vCPU state: bad pending event");
	events->flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR |
			KVM_VCPUEVENT_VALID_SHADOW;
	events->exception.injected = message->exception_injected != 0;
	events->exception.nr = (uint8_t)message->exception_nr;
	events->exception.has_error_code = message->exception_has_error_code != 0;
	events->exception.error_code = message->exception_error_code;
	events->interrupt.injected = message->interrupt_injected != 0;
	events->interrupt.nr = (uint8_t)message->interrupt_nr;
	events->interrupt.soft = message->interrupt_soft != 0;
	events->interrupt.shadow = (uint8_t)message->interrupt_shadow;
	events->nmi.injected = message->nmi_injected != 0;
	events->nmi.pending = (uint8_t)message->nmi_pending;
	events->nmi.masked = message->nmi_masked != 0;
	events->sipi_vector = message->sipi_vector;
	return events_extra(events, message, flags, err);
}

void cpuid_to_message(X86__CpuidEntry *message, const struct kvm_cpuid_entry2 *entry)
{
	x86__cpuid_entry__init(message);
	message->function = entry->function;
	message->index = entry->index;
	message->index_matters = entry->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
	message->eax = entry->eax;
	message->ebx = entry->ebx;
	message->ecx = entry->ecx;
	message->edx = entry->edx;
}

int cpuid_from_message(struct cpuid_table *table, X86__CpuidEntry *const *list, size_t n,
		       struct err *err)
{
	size_t i;

	memset(table, 0, sizeof(*table));
	if (!n || n > CPUID_ENTRIES_MAX)
		return err_set(err, -EPROTO, "vCPU state: %zu CPUID entries", n);
	for (i = 0; i < n; i++)
		table->entries[i] = (struct kvm_cpuid_entry2){
			.function = list[i]->function,
			.index = list[i]->index,
			.flags = list[i]->index_matters ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
			.eax = list[i]->eax,
			.ebx = list[i]->ebx,
			.ecx = list[i]->ecx,
			.edx = list[i]->edx,
		};
	table->nent = (uint32_t)n;
	return 0;
}
