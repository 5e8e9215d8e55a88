// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Saving and loading a vCPU. The order matters:
 *
 * save: MP state first (KVM then takes in an INIT or SIPI that is pending), the
 * rest in any order.
 *
 * load: CPUID (it decides what the others accept); feature control; special
 * registers (EFER.SVME before a nested guest, APIC base before the local APIC);
 * nested guest; TSC frequency; registers; FPU; XCR0; MSRs, TSC first, the clock
 * MSRs after the VM's clock (state_vm.c); local APIC; TSC deadline, which
 * counts only in the APIC's deadline mode; debug registers; events; MP state.
 *
 * The TSC goes on where it stood, as does the paravirtual clock: time away is
 * not seen. KVM_KVMCLOCK_CTRL tells the guest's watchdogs that it stood still.
 *
 * Which of the ioctls touch guest memory, where a missing page would hold up
 * this thread (kernel sources of 5.10 to 6.18). The pages are those of early.c,
 * and come before the state is loaded:
 *
 *   KVM_SET_SREGS, KVM_SET_SREGS2	PAE paging: reads the PDPTEs at CR3, unless they are given (x86_sregs_set checks)
 *   KVM_SET_MSRS	wall clock: writes 12 bytes; system time: pins the page from Linux 6.2 on, writes at the next
 * 			KVM_RUN; steal time, asynchronous page fault: only
 * 			noted, written in KVM_RUN; PV EOI: only noted, written
 * 			when an interrupt is injected; TSC: rewrites the clock
 * 			page at the next KVM_RUN
 *   KVM_SET_NESTED_STATE	SVM with PAE paging in the nested guest: PDPTEs; MSR and I/O bitmaps at the next KVM_RUN (nested_check)
 *   KVM_SET_LAPIC, KVM_SET_VCPU_EVENTS, KVM_SET_MP_STATE, KVM_SET_XSAVE, KVM_SET_XCRS, KVM_SET_DEBUGREGS, KVM_SET_REGS,
 *   KVM_SET_CPUID2, KVM_SET_TSC_KHZ, KVM_KVMCLOCK_CTRL, KVM_SET_GUEST_DEBUG, all KVM_GET_*	none
 *   KVM_TRANSLATE	reads page tables: never used
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "arch/arch.h"
#include "arch/x86/msr.h"
#include "arch/x86/nested_pages.h"
#include "arch/x86/state.h"
#include "arch/x86/state_vcpu.h"
#include "arch/x86/x86.h"
#include "base/log.h"
#include "base/state_version.h"
#include "base/zeroed.h"

/* FXSAVE image and XSAVE header: no XSAVE area is shorter. */
#define XSAVE_MIN 576u
/*
 * A TSC within this share of the other's, in millionths, is as good as equal:
 * what NTP can correct.
 */
#define TSC_TOLERANCE_PPM 250u

/*
 * All that a message points to while it is packed: some 90 KiB, of which a load touches a fifth, so
 * it is not cleared but fresh.
 */
struct work {
	X86__VcpuState state;
	X86__Registers regs;
	struct sregs_message sregs;
	X86__DebugRegisters debug;
	uint64_t db[4];
	X86__Events events;
	X86__NestedState nested;
	X86__Xcr xcr[KVM_MAX_XCRS], *xcr_list[KVM_MAX_XCRS];
	X86__CpuidEntry cpuid[CPUID_ENTRIES_MAX], *cpuid_list[CPUID_ENTRIES_MAX];
	X86__Msr msr[MSRS_MAX], *msr_list[MSRS_MAX];
	struct cpuid_table cpuid_table;
	struct msr_table msr_table;
	struct kvm_lapic_state lapic;
	struct kvm_nested_state *nested_raw;
	uint8_t *xsave;
};

static struct work *work_new(struct vcpu_parked *vcpu, struct err *err)
{
	struct work *work = zeroed_new(sizeof(*work));

	if (work)
		work->xsave = calloc(1, xsave_bytes(parked_vm(vcpu)));
	if (!work || !work->xsave) {
		err_set(err, -ENOMEM, "no memory for vCPU state");
		zeroed_free(work, sizeof(*work));
		return NULL;
	}
	return work;
}

static void work_free(struct work *work)
{
	free(work->nested_raw);
	free(work->xsave);
	zeroed_free(work, sizeof(*work));
}

static int save_registers(struct vcpu_parked *vcpu, struct work *work, struct err *err)
{
	struct kvm_mp_state mp;
	struct kvm_vcpu_events events;
	struct kvm_regs regs;
	struct kvm_sregs2 sregs;
	struct kvm_debugregs debug;
	int result;

	memset(&events, 0, sizeof(events));
	result = parked_ioctl(vcpu, KVM_GET_MP_STATE, &mp, "get MP state", err);
	if (result >= 0)
		result = parked_ioctl(vcpu, KVM_GET_VCPU_EVENTS, &events, "get events", err);
	if (result >= 0)
		result = parked_ioctl(vcpu, KVM_GET_REGS, &regs, "get registers", err);
	if (result >= 0)
		result = x86_sregs_get(vcpu, &sregs, err);
	if (result >= 0)
		result = parked_ioctl(vcpu, KVM_GET_DEBUGREGS, &debug, "get debug registers", err);
	if (result >= 0)
		result = parked_ioctl(vcpu, KVM_GET_LAPIC, &work->lapic, "get local APIC", err);
	if (result < 0)
		return result;
	work->state.mp_state = mp.mp_state;
	events_to_message(&work->events, &events);
	work->state.events = &work->events;
	regs_to_message(&work->regs, &regs);
	work->state.regs = &work->regs;
	sregs_to_message(&work->sregs, &sregs);
	work->state.sregs = &work->sregs.head;
	x86__debug_registers__init(&work->debug);
	memcpy(work->db, debug.db, sizeof(work->db));
	work->debug.db = work->db;
	work->debug.n_db = 4;
	work->debug.dr6 = debug.dr6;
	work->debug.dr7 = debug.dr7;
	work->state.debug = &work->debug;
	work->state.lapic.data = (uint8_t *)work->lapic.regs;
	work->state.lapic.len = sizeof(work->lapic.regs);
	return 0;
}

static int save_fpu(struct vcpu_parked *vcpu, struct work *work, struct err *err)
{
	struct vm *vm = parked_vm(vcpu);
	struct kvm_xcrs xcrs;
	uint32_t i;
	int result;

	result = xsave_get(vcpu, work->xsave, err);
	if (result)
		return result;
	work->state.xsave.data = work->xsave;
	work->state.xsave.len = xsave_bytes(vm);
	if (!x86_capability(vm, KVM_CAP_XCRS))
		return 0;
	result = parked_ioctl(vcpu, KVM_GET_XCRS, &xcrs, "get XCR0", err);
	if (result < 0)
		return result;
	for (i = 0; i < xcrs.nr_xcrs && i < KVM_MAX_XCRS; i++) {
		x86__xcr__init(&work->xcr[i]);
		work->xcr[i].index = xcrs.xcrs[i].xcr;
		work->xcr[i].value = xcrs.xcrs[i].value;
		work->xcr_list[i] = &work->xcr[i];
	}
	work->state.xcrs = work->xcr_list;
	work->state.n_xcrs = i;
	return 0;
}

static int save_tables(struct vcpu_parked *vcpu, struct work *work, struct err *err)
{
	uint32_t i;
	int result;

	result = cpuid_get(vcpu, &work->cpuid_table, err);
	if (!result)
		result = msr_read(vcpu, &work->msr_table, err);
	if (result)
		return result;
	for (i = 0; i < work->cpuid_table.nent; i++) {
		cpuid_to_message(&work->cpuid[i], &work->cpuid_table.entries[i]);
		work->cpuid_list[i] = &work->cpuid[i];
	}
	work->state.cpuid = work->cpuid_list;
	work->state.n_cpuid = i;
	for (i = 0; i < work->msr_table.nmsrs; i++) {
		x86__msr__init(&work->msr[i]);
		work->msr[i].index = work->msr_table.entries[i].index;
		work->msr[i].value = work->msr_table.entries[i].data;
		work->msr_list[i] = &work->msr[i];
	}
	work->state.msrs = work->msr_list;
	work->state.n_msrs = i;
	return 0;
}

static int save_nested(struct vcpu_parked *vcpu, struct work *work, struct err *err)
{
	X86__NestedState *message = &work->nested;
	struct kvm_nested_state *raw;
	int result = nested_get(vcpu, &work->nested_raw, err);

	raw = work->nested_raw;
	if (result || !raw)
		return result;
	x86__nested_state__init(message);
	message->flags = raw->flags;
	message->format = raw->format;
	if (raw->format == KVM_STATE_NESTED_FORMAT_VMX) {
		message->vmx_vmxon_pa = raw->hdr.vmx.vmxon_pa;
		message->vmx_vmcs12_pa = raw->hdr.vmx.vmcs12_pa;
		message->vmx_smm_flags = raw->hdr.vmx.smm.flags;
		message->vmx_flags = raw->hdr.vmx.flags;
		message->vmx_preemption_timer_deadline = raw->hdr.vmx.preemption_timer_deadline;
	} else {
		message->svm_vmcb_pa = raw->hdr.svm.vmcb_pa;
	}
	message->data.data = (uint8_t *)&raw->data;
	message->data.len = raw->size - sizeof(*raw);
	work->state.nested = message;
	return 0;
}

int arch_vcpu_save(struct vcpu_parked *vcpu, struct buf *out, struct err *err)
{
	struct work *work = work_new(vcpu, err);
	int result;

	if (!work)
		return -ENOMEM;
	x86__vcpu_state__init(&work->state);
	work->state.version = VCPU_STATE_VERSION;
	work->state.index = parked_index(vcpu);
	result = save_registers(vcpu, work, err);
	if (!result)
		result = save_fpu(vcpu, work, err);
	if (!result)
		result = save_tables(vcpu, work, err);
	if (!result)
		result = save_nested(vcpu, work, err);
	if (!result) {
		int khz = parked_ioctl(vcpu, KVM_GET_TSC_KHZ, NULL, "get TSC frequency", NULL);

		work->state.tsc_khz = khz > 0 ? (uint32_t)khz : 0;
		result = arch_message_pack(&work->state.base, out, err);
	}
	work_free(work);
	return result;
}

static int vcpu_state_check(struct vcpu_parked *vcpu, const X86__VcpuState *state, struct err *err)
{
	unsigned int index = parked_index(vcpu);
	int result = state_version_check("vCPU state", state->version, VCPU_STATE_VERSION, err);

	if (result)
		return result;
	if (state->index != index)
		return err_set(err, -EPROTO, "vCPU %u: got the state of vCPU %u", index,
			       state->index);
	if (!state->regs || !state->sregs || !state->debug || !state->events)
		return err_set(err, -EPROTO, "vCPU %u: state is incomplete", index);
	if (state->debug->n_db != 4 || state->lapic.len != KVM_APIC_REG_SIZE ||
	    state->xsave.len < XSAVE_MIN || state->n_xcrs > KVM_MAX_XCRS ||
	    state->n_msrs > MSRS_MAX)
		return err_set(err, -EPROTO, "vCPU %u: state has parts of a wrong size", index);
	return 0;
}

static int load_cpuid(struct vcpu_parked *vcpu, const X86__VcpuState *state, struct work *work,
		      struct err *err)
{
	struct cpuid_table *tables = calloc(2, sizeof(*tables)), *host = tables, *now = tables + 1;
	int result;

	if (!tables)
		return err_set(err, -ENOMEM, "no memory for CPUID");
	result = cpuid_from_message(&work->cpuid_table, state->cpuid, state->n_cpuid, err);
	if (!result)
		result = cpuid_get(vcpu, now, err);
	if (!result) {
		*host = *cpuid_supported(parked_vm(vcpu));
		cpuid_merge(host, now);
		result = cpuid_check(&work->cpuid_table, host, err);
	}
	if (!result)
		result = cpuid_set(vcpu, &work->cpuid_table, err);
	free(tables);
	if (result <= 0)
		return result;
	msr_forget(parked_vm(vcpu));
	return 0;
}

/* Fills work->msr_table; an MSR that is no vCPU state on this host is refused. */
static int load_msr_table(struct vcpu_parked *vcpu, const X86__VcpuState *state, struct work *work,
			  struct err *err)
{
	const struct msr_table *known = msr_list(parked_vm(vcpu));
	size_t i;
	uint32_t k;
	int result = 0;

	for (i = 0; !result && i < state->n_msrs; i++) {
		uint32_t index = state->msrs[i]->index;

		for (k = 0; k < known->nmsrs && known->entries[k].index != index; k++)
			;
		if (k == known->nmsrs)
			result = err_set(err, -ENOTSUP, "vCPU %u: this host's KVM has no MSR 0x%x",
					 parked_index(vcpu), index);
		work->msr_table.entries[i] = (struct kvm_msr_entry){
			.index = index,
			.data = state->msrs[i]->value,
		};
	}
	work->msr_table.nmsrs = (uint32_t)state->n_msrs;
	return result;
}

static int load_nested(struct vcpu_parked *vcpu, const X86__NestedState *message, struct err *err)
{
	struct kvm_nested_state *raw;
	int result;

	if (!message)
		return nested_set(vcpu, NULL, err);
	raw = calloc(1, sizeof(*raw) + message->data.len);
	if (!raw)
		return err_set(err, -ENOMEM, "no memory for a nested guest's state");
	if (message->flags > UINT16_MAX || message->format > UINT16_MAX ||
	    message->vmx_smm_flags > UINT16_MAX) {
		free(raw);
		return err_set(err, -EPROTO, "vCPU %u: bad state of a nested guest",
			       parked_index(vcpu));
	}
	raw->size = (uint32_t)(sizeof(*raw) + message->data.len);
	raw->flags = (uint16_t)message->flags;
	raw->format = (uint16_t)message->format;
	if (raw->format == KVM_STATE_NESTED_FORMAT_VMX) {
		raw->hdr.vmx.vmxon_pa = message->vmx_vmxon_pa;
		raw->hdr.vmx.vmcs12_pa = message->vmx_vmcs12_pa;
		raw->hdr.vmx.smm.flags = (uint16_t)message->vmx_smm_flags;
		raw->hdr.vmx.flags = message->vmx_flags;
		raw->hdr.vmx.preemption_timer_deadline = message->vmx_preemption_timer_deadline;
	} else {
		raw->hdr.svm.vmcb_pa = message->svm_vmcb_pa;
	}
	if (message->data.len)
		memcpy(&raw->data, message->data.data, message->data.len);
	result = nested_check(vm_memory(parked_vm(vcpu)), raw, err);
	if (result)
		err_prefix(err, result, "vCPU %u", parked_index(vcpu));
	else
		result = nested_set(vcpu, raw, err);
	free(raw);
	return result;
}

/* Where this host cannot scale it, the log says so, and the guest goes on. */
static void load_tsc_khz(struct vcpu_parked *vcpu, uint32_t khz)
{
	int now = parked_ioctl(vcpu, KVM_GET_TSC_KHZ, NULL, "get TSC frequency", NULL);
	uint64_t off;

	if (!khz || now <= 0)
		return;
	off = khz > (uint32_t)now ? khz - (uint32_t)now : (uint32_t)now - khz;
	if (off * 1000000 <= (uint64_t)khz * TSC_TOLERANCE_PPM)
		return;
	if (parked_ioctl(vcpu, KVM_SET_TSC_KHZ, (void *)(uintptr_t)khz, "set TSC frequency", NULL) <
	    0)
		log_warn(
			"vCPU %u: the guest's TSC runs at %u kHz, this host's at %d and cannot be scaled: "
			"guests that do not use the paravirtual clock will see time run at another pace",
			parked_index(vcpu), khz, now);
}

static int load_fpu(struct vcpu_parked *vcpu, const X86__VcpuState *state, struct work *work,
		    struct err *err)
{
	struct kvm_xcrs xcrs;
	size_t i, room = xsave_bytes(parked_vm(vcpu));
	int result;

	/* A longer area is fine as long as nothing is in what this host has no room for. */
	for (i = room; i < state->xsave.len; i++)
		if (state->xsave.data[i])
			return err_set(err, -ENOTSUP,
				       "vCPU %u: FPU state of %zu bytes, this host's KVM has %zu",
				       parked_index(vcpu), state->xsave.len, room);
	memcpy(work->xsave, state->xsave.data, room < state->xsave.len ? room : state->xsave.len);
	result = xsave_set(vcpu, work->xsave, err);
	if (result || !state->n_xcrs)
		return result;
	memset(&xcrs, 0, sizeof(xcrs));
	xcrs.nr_xcrs = (uint32_t)state->n_xcrs;
	for (i = 0; i < state->n_xcrs; i++) {
		xcrs.xcrs[i].xcr = state->xcrs[i]->index;
		xcrs.xcrs[i].value = state->xcrs[i]->value;
	}
	result = parked_ioctl(vcpu, KVM_SET_XCRS, &xcrs, "set XCR0", err);
	return result < 0 ? result : 0;
}

static int load_core(struct vcpu_parked *vcpu, const X86__VcpuState *state, struct work *work,
		     struct err *err)
{
	struct kvm_sregs2 sregs;
	struct kvm_regs regs;
	int result;

	result = load_cpuid(vcpu, state, work, err);
	if (!result)
		result = load_msr_table(vcpu, state, work, err);
	if (!result)
		result = sregs_from_message(&sregs, state->sregs, err);
	if (!result)
		result = msr_write(vcpu, &work->msr_table, MSR_PHASE_FIRST, err);
	if (!result)
		result = x86_sregs_set(vcpu, &sregs, err);
	if (result < 0)
		return result;
	result = load_nested(vcpu, state->nested, err);
	if (result)
		return result;
	load_tsc_khz(vcpu, state->tsc_khz);
	regs_from_message(&regs, state->regs);
	result = parked_ioctl(vcpu, KVM_SET_REGS, &regs, "set registers", err);
	return result < 0 ? result : load_fpu(vcpu, state, work, err);
}

static int load_events(struct vcpu_parked *vcpu, const X86__VcpuState *state, struct err *err)
{
	struct kvm_mp_state mp = { .mp_state = state->mp_state };
	struct kvm_vcpu_events events;
	struct vm *vm = parked_vm(vcpu);
	uint32_t flags = 0;
	int result;

	if (x86_capability(vm, KVM_CAP_X86_SMM))
		flags |= KVM_VCPUEVENT_VALID_SMM;
	if (x86_capability(vm, KVM_CAP_EXCEPTION_PAYLOAD))
		flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
	if (x86_capability(vm, KVM_CAP_X86_TRIPLE_FAULT_EVENT))
		flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
	result = events_from_message(&events, state->events, flags, err);
	if (!result)
		result = parked_ioctl(vcpu, KVM_SET_VCPU_EVENTS, &events, "set events", err);
	if (result >= 0)
		result = parked_ioctl(vcpu, KVM_SET_MP_STATE, &mp, "set MP state", err);
	return result < 0 ? result : 0;
}

static int load_state(struct vcpu_parked *vcpu, const X86__VcpuState *state, struct work *work,
		      struct err *err)
{
	struct kvm_debugregs debug;
	int result;

	result = vcpu_state_check(vcpu, state, err);
	if (!result)
		result = load_core(vcpu, state, work, err);
	if (!result)
		result = msr_write(vcpu, &work->msr_table, MSR_PHASE_MAIN, err);
	if (result)
		return result;
	memcpy(work->lapic.regs, state->lapic.data, sizeof(work->lapic.regs));
	result = parked_ioctl(vcpu, KVM_SET_LAPIC, &work->lapic, "set local APIC", err);
	if (result >= 0)
		result = msr_write(vcpu, &work->msr_table, MSR_PHASE_TIMER, err);
	if (result < 0)
		return result;
	memset(&debug, 0, sizeof(debug));
	memcpy(debug.db, state->debug->db, sizeof(debug.db));
	debug.dr6 = state->debug->dr6;
	debug.dr7 = state->debug->dr7;
	result = parked_ioctl(vcpu, KVM_SET_DEBUGREGS, &debug, "set debug registers", err);
	return result < 0 ? result : load_events(vcpu, state, err);
}

/*
 * For guests whose clock is the TSC, and for timers: one that has run out
 * meanwhile is to fire now, so the deadline is written again. KVM takes TSCs
 * that are written within a second of each other for one that all vCPUs have.
 */
int arch_vcpu_clock_advance(struct vcpu_parked *vcpu, uint64_t ns, struct err *err)
{
	int khz = parked_ioctl(vcpu, KVM_GET_TSC_KHZ, NULL, "get TSC frequency", err), result;
	uint64_t tsc, deadline;

	if (khz < 0)
		return khz;
	result = msr_get(vcpu, MSR_TSC, &tsc);
	if (result < 0)
		return err_errno(err, result, "get TSC");
	tsc += (uint64_t)((unsigned __int128)ns * (unsigned int)khz / 1000000);
	result = msr_set(vcpu, MSR_TSC, tsc, err);
	if (result || msr_get(vcpu, MSR_TSC_DEADLINE, &deadline) || !deadline)
		return result;
	return msr_set(vcpu, MSR_TSC_DEADLINE, deadline, err);
}

int arch_vcpu_load(struct vcpu_parked *vcpu, const uint8_t *data, size_t len, struct err *err)
{
	ProtobufCMessage *message;
	struct work *work;
	int result;

	message = arch_message_unpack(&x86__vcpu_state__descriptor, data, len, "vCPU state", err);
	if (!message)
		return -EPROTO;
	work = work_new(vcpu, err);
	if (!work) {
		protobuf_c_message_free_unpacked(message, NULL);
		return -ENOMEM;
	}
	result = load_state(vcpu, (const X86__VcpuState *)message, work, err);
	/* Takes effect at the next KVM_RUN; fails without a clock page: nothing to tell then. */
	if (!result)
		parked_ioctl(vcpu, KVM_KVMCLOCK_CTRL, NULL, "tell of the pause", NULL);
	work_free(work);
	protobuf_c_message_free_unpacked(message, NULL);
	return result;
}
