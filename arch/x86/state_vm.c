// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * State of the VM's own parts: both 8259s, the I/O APIC, the 8254, and the
 * paravirtual clock. To be loaded before the vCPUs' state: the clock must be
 * right when their clock MSRs are written. None of these ioctls touches guest
 * memory.
 */
#include <errno.h>
#include <string.h>

#include "arch/arch.h"
#include "arch/x86/board.h"
#include "arch/x86/state.h"
#include "arch/x86/x86.h"
#include "base/state_version.h"
#include "state.pb-c.h"

#define PITS 3u
#define CLOCK_MAX_NS (1ull << 62)

/* Field in the message, field in KVM. */
#define PIC_FIELDS(F) \
	F(last_irr, last_irr) F(irr, irr) F(imr, imr) F(isr, isr) F(priority_add, priority_add) \
	F(irq_base, irq_base) F(read_reg_select, read_reg_select) F(poll, poll) \
	F(special_mask, special_mask) F(init_state, init_state) F(auto_eoi, auto_eoi) \
	F(rotate_on_auto_eoi, rotate_on_auto_eoi) \
	F(special_fully_nested_mode, special_fully_nested_mode) F(init4, init4) F(elcr, elcr) \
	F(elcr_mask, elcr_mask)
#define PIT_FIELDS(F) \
	F(latched_count, latched_count) F(count_latched, count_latched) \
	F(status_latched, status_latched) F(status, status) F(read_state, read_state) \
	F(write_state, write_state) F(write_latch, write_latch) F(rw_mode, rw_mode) F(mode, mode) \
	F(bcd, bcd) F(gate, gate)

static int pics_get(struct vm *vm, X86__Pic *pics, struct err *err)
{
	unsigned int i;

	for (i = 0; i < 2; i++) {
		struct kvm_irqchip chip;
		int result;

		memset(&chip, 0, sizeof(chip));
		chip.chip_id = i ? KVM_IRQCHIP_PIC_SLAVE : KVM_IRQCHIP_PIC_MASTER;
		result = x86_vm_ioctl(vm, KVM_GET_IRQCHIP, &chip, "get 8259", err);
		if (result < 0)
			return result;
		x86__pic__init(&pics[i]);
#define GET(to, from) pics[i].to = chip.chip.pic.from;
		PIC_FIELDS(GET)
#undef GET
	}
	return 0;
}

static int ioapic_get(struct vm *vm, X86__Ioapic *ioapic, uint64_t *redirection, struct err *err)
{
	struct kvm_irqchip chip;
	unsigned int i;
	int result;

	memset(&chip, 0, sizeof(chip));
	chip.chip_id = KVM_IRQCHIP_IOAPIC;
	result = x86_vm_ioctl(vm, KVM_GET_IRQCHIP, &chip, "get I/O APIC", err);
	if (result < 0)
		return result;
	x86__ioapic__init(ioapic);
	ioapic->base_address = chip.chip.ioapic.base_address;
	ioapic->ioregsel = chip.chip.ioapic.ioregsel;
	ioapic->id = chip.chip.ioapic.id;
	ioapic->irr = chip.chip.ioapic.irr;
	for (i = 0; i < KVM_IOAPIC_NUM_PINS; i++)
		redirection[i] = chip.chip.ioapic.redirtbl[i].bits;
	ioapic->redirection = redirection;
	ioapic->n_redirection = KVM_IOAPIC_NUM_PINS;
	return 0;
}

static int pit_get(struct vm *vm, X86__PitChannel *channels, uint32_t *flags, struct err *err)
{
	struct kvm_pit_state2 pit;
	unsigned int i;
	int result = x86_vm_ioctl(vm, KVM_GET_PIT2, &pit, "get 8254", err);

	if (result < 0)
		return result;
	for (i = 0; i < PITS; i++) {
		x86__pit_channel__init(&channels[i]);
		channels[i].count = pit.channels[i].count;
#define GET(to, from) channels[i].to = pit.channels[i].from;
		PIT_FIELDS(GET)
#undef GET
	}
	*flags = pit.flags;
	return 0;
}

/* Fails where the guest has no clock page: nothing to notify then. */
static int notify_pause(struct vcpu_parked *vcpu, void *unused, struct err *err)
{
	(void)unused;
	(void)err;
	parked_ioctl(vcpu, KVM_KVMCLOCK_CTRL, NULL, "notify of the pause", NULL);
	return 0;
}

int arch_clock_stop(struct vm *vm, uint64_t *clock_ns, struct err *err)
{
	struct kvm_clock_data clock;
	int result;

	memset(&clock, 0, sizeof(clock));
	result = x86_vm_ioctl(vm, KVM_GET_CLOCK, &clock, "get clock", err);
	if (result < 0)
		return result;
	*clock_ns = clock.clock;
	return vm_each(vm, notify_pause, NULL, err);
}

int arch_clock_start(struct vm *vm, uint64_t clock_ns, struct err *err)
{
	struct kvm_clock_data clock;

	memset(&clock, 0, sizeof(clock));
	clock.clock = clock_ns;
	return x86_vm_ioctl(vm, KVM_SET_CLOCK, &clock, "set clock", err);
}

int arch_clock_advance(struct vm *vm, uint64_t ns, struct err *err)
{
	struct kvm_clock_data clock;
	int result;

	memset(&clock, 0, sizeof(clock));
	result = x86_vm_ioctl(vm, KVM_GET_CLOCK, &clock, "get clock", err);
	return result < 0 ? result : arch_clock_start(vm, clock.clock + ns, err);
}

int arch_vm_save(struct vm *vm, struct buf *out, struct err *err)
{
	X86__VmState state = X86__VM_STATE__INIT;
	X86__Pic pics[2], *pic_list[2] = { &pics[0], &pics[1] };
	X86__Ioapic ioapic;
	X86__PitChannel channels[PITS],
		*channel_list[PITS] = { &channels[0], &channels[1], &channels[2] };
	uint64_t redirection[KVM_IOAPIC_NUM_PINS];
	struct kvm_clock_data clock;
	int result;

	memset(&clock, 0, sizeof(clock));
	result = x86_vm_ioctl(vm, KVM_GET_CLOCK, &clock, "get clock", err);
	if (result >= 0)
		result = pics_get(vm, pics, err);
	if (result >= 0)
		result = ioapic_get(vm, &ioapic, redirection, err);
	if (result >= 0)
		result = pit_get(vm, channels, &state.pit_flags, err);
	if (result < 0)
		return result;
	state.version = VM_STATE_VERSION;
	state.pics = pic_list;
	state.n_pics = 2;
	state.ioapic = &ioapic;
	state.pit = channel_list;
	state.n_pit = PITS;
	state.clock_ns = clock.clock;
	return arch_message_pack(&state.base, out, err);
}

static int state_vm_bad(struct err *err, const char *what)
{
	return err_set(err, -EPROTO, "VM state: bad %s", what);
}

static int pics_set(struct vm *vm, const X86__VmState *state, struct err *err)
{
	unsigned int i;

	for (i = 0; i < 2; i++) {
		const X86__Pic *pic = state->pics[i];
		struct kvm_irqchip chip;
		int result;

		memset(&chip, 0, sizeof(chip));
		chip.chip_id = i ? KVM_IRQCHIP_PIC_SLAVE : KVM_IRQCHIP_PIC_MASTER;
#define SET(from, to) \
		if (pic->from > UINT8_MAX) \
			return state_vm_bad(err, "8259: " #from); \
		chip.chip.pic.to = (uint8_t)pic->from;
		PIC_FIELDS(SET)
#undef SET
		if (pic->priority_add > 7 || pic->init_state > 3)
			return state_vm_bad(err, "8259");
		result = x86_vm_ioctl(vm, KVM_SET_IRQCHIP, &chip, "set 8259", err);
		if (result < 0)
			return result;
	}
	return 0;
}

static int ioapic_set(struct vm *vm, const X86__Ioapic *ioapic, struct err *err)
{
	struct kvm_irqchip chip;
	unsigned int i;
	int result;

	memset(&chip, 0, sizeof(chip));
	chip.chip_id = KVM_IRQCHIP_IOAPIC;
	chip.chip.ioapic.base_address = ioapic->base_address;
	chip.chip.ioapic.ioregsel = ioapic->ioregsel;
	chip.chip.ioapic.id = ioapic->id;
	chip.chip.ioapic.irr = ioapic->irr;
	for (i = 0; i < KVM_IOAPIC_NUM_PINS; i++)
		chip.chip.ioapic.redirtbl[i].bits = ioapic->redirection[i];
	result = x86_vm_ioctl(vm, KVM_SET_IRQCHIP, &chip, "set I/O APIC", err);
	return result < 0 ? result : 0;
}

static int pit_set(struct vm *vm, const X86__VmState *state, struct err *err)
{
	struct kvm_pit_state2 pit;
	unsigned int i;
	int result;

	memset(&pit, 0, sizeof(pit));
	for (i = 0; i < PITS; i++) {
		const X86__PitChannel *channel = state->pit[i];
		struct kvm_pit_channel_state *to = &pit.channels[i];

		if (channel->count > 0x10000 || channel->latched_count > UINT16_MAX)
			return state_vm_bad(err, "8254: count");
		to->count = channel->count;
#define SET(from, field) \
		if (channel->from != (__typeof__(to->field))channel->from) \
			return state_vm_bad(err, "8254: " #from); \
		to->field = (__typeof__(to->field))channel->from;
		PIT_FIELDS(SET)
#undef SET
	}
	pit.flags = state->pit_flags & (KVM_PIT_FLAGS_HPET_LEGACY | KVM_PIT_FLAGS_SPEAKER_DATA_ON);
	if (pit.flags != state->pit_flags)
		return state_vm_bad(err, "8254: flags");
	result = x86_vm_ioctl(vm, KVM_SET_PIT2, &pit, "set 8254", err);
	return result < 0 ? result : 0;
}

static int vm_state_check(const X86__VmState *state, struct err *err)
{
	int result = state_version_check("VM state", state->version, VM_STATE_VERSION, err);

	if (result)
		return result;
	if (state->n_pics != 2 || state->n_pit != PITS)
		return state_vm_bad(err, "number of 8259s or of 8254 channels");
	if (!state->ioapic || state->ioapic->n_redirection != KVM_IOAPIC_NUM_PINS ||
	    state->ioapic->base_address != BOARD_IOAPIC_BASE)
		return state_vm_bad(err, "I/O APIC");
	if (state->clock_ns > CLOCK_MAX_NS)
		return state_vm_bad(err, "clock");
	return 0;
}

int arch_vm_load(struct vm *vm, const uint8_t *data, size_t len, struct err *err)
{
	ProtobufCMessage *message =
		arch_message_unpack(&x86__vm_state__descriptor, data, len, "VM state", err);
	const X86__VmState *state = (const X86__VmState *)message;
	int result;

	if (!message)
		return -EPROTO;
	result = vm_state_check(state, err);
	if (!result)
		result = pics_set(vm, state, err);
	if (!result)
		result = ioapic_set(vm, state->ioapic, err);
	if (!result)
		result = pit_set(vm, state, err);
	if (!result)
		result = arch_clock_start(vm, state->clock_ns, err);
	protobuf_c_message_free_unpacked(message, NULL);
	return result < 0 ? result : 0;
}
