// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Saving and loading the VM and its vCPUs. A vCPU's state is what
 * KVM_GET_REG_LIST lists, whatever that is on the kernel that saves. A load
 * writes only what differs: identification registers, which some kernels let
 * nobody write, and what the firmware interface offers must be the same on both
 * sides, or the load fails with the register named.
 *
 * The counter is the VM's: the same for all vCPUs, and not among a vCPU's
 * registers here.
 *
 * None of these calls touches guest memory, and KVM keeps nothing there for a
 * guest without an ITS and without steal time; so no page need come before a
 * vCPU runs elsewhere.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "arch/arch.h"
#include "arch/arm64/arm64.h"
#include "arch/arm64/gic.h"
#include "arch/message.h"
#include "base/state_version.h"
#include "state.pb-c.h"

/* Of Arm64__VmState and Arm64__VcpuState: docs/state.md. */
#define VM_STATE_VERSION 1u
#define VCPU_STATE_VERSION 1u
#define REGISTERS_MAX 2048u
#define REGISTER_BYTES_MAX 256u		/* KVM_REG_SIZE_U2048 */

/* ---- the VM ---- */

int arch_vm_save(struct vm *vm, struct buf *out, struct err *err)
{
	Arm64__VmState state = ARM64__VM_STATE__INIT;
	int r;

	state.version = VM_STATE_VERSION;
	state.n_gic = gic_shared_n();
	state.gic = calloc(state.n_gic, sizeof(*state.gic));
	if (!state.gic)
		return err_set(err, -ENOMEM, "no memory for VM state");
	r = arch_clock_stop(vm, &state.counter, err);
	if (!r)
		r = gic_shared_save(arm64_vm(vm)->gic, state.gic, err);
	if (!r)
		r = arch_message_pack(&state.base, out, err);
	free(state.gic);
	return r;
}

int arch_vm_load(struct vm *vm, const uint8_t *data, size_t len, struct err *err)
{
	ProtobufCMessage *message =
		arch_message_unpack(&arm64__vm_state__descriptor, data, len, "VM state", err);
	const Arm64__VmState *state = (const Arm64__VmState *)message;
	int r;

	if (!message)
		return -EPROTO;
	r = state_version_check("VM state", state->version, VM_STATE_VERSION, err);
	if (!r && state->n_gic != gic_shared_n())
		r = err_set(err, -EPROTO,
			    "VM state: %zu values of the interrupt controller, there must be %zu",
			    state->n_gic, gic_shared_n());
	if (!r)
		r = gic_shared_load(arm64_vm(vm)->gic, state->gic, err);
	if (!r)
		r = arch_clock_start(vm, state->counter, err);
	protobuf_c_message_free_unpacked(message, NULL);
	return r;
}

/* ---- registers ---- */

static size_t register_bytes(uint64_t id)
{
	return KVM_REG_SIZE(id);
}

/* The numbers of this vCPU's registers; to be freed. NULL: err is set. */
static struct kvm_reg_list *registers_list(struct vcpu_parked *vcpu, struct err *err)
{
	struct kvm_reg_list *list = calloc(1, sizeof(*list) + REGISTERS_MAX * sizeof(list->reg[0]));
	int r;

	if (!list) {
		err_set(err, -ENOMEM, "no memory for a list of registers");
		return NULL;
	}
	list->n = REGISTERS_MAX;
	r = parked_ioctl(vcpu, KVM_GET_REG_LIST, list, "list registers", err);
	if (r < 0) {
		free(list);
		return NULL;
	}
	return list;
}

/* The VM's, see above; and what the counter reads, which is nobody's state. */
static bool register_is_clock(uint64_t id)
{
	return id == KVM_REG_ARM_TIMER_CNT || id == KVM_REG_ARM_PTIMER_CNT;
}

/* All that a message points to while it is packed. */
struct work {
	Arm64__VcpuState state;
	Arm64__Register *reg, **reg_at;
	uint8_t *values;
	uint64_t *gic;
};

static void work_free(struct work *work)
{
	free(work->reg);
	free(work->reg_at);
	free(work->values);
	free(work->gic);
}

static int work_init(struct work *work, size_t registers, struct err *err)
{
	*work = (struct work){
		.reg = calloc(registers, sizeof(*work->reg)),
		.reg_at = calloc(registers, sizeof(*work->reg_at)),
		.values = calloc(registers, REGISTER_BYTES_MAX),
		.gic = calloc(gic_private_n(), sizeof(*work->gic)),
	};
	arm64__vcpu_state__init(&work->state);
	if (work->reg && work->reg_at && work->values && work->gic)
		return 0;
	work_free(work);
	return err_set(err, -ENOMEM, "no memory for vCPU state");
}

static int save_registers(struct vcpu_parked *vcpu, struct work *work,
			  const struct kvm_reg_list *list, struct err *err)
{
	uint64_t i, n = 0;

	for (i = 0; i < list->n; i++) {
		Arm64__Register *reg = &work->reg[n];
		int r;

		if (register_is_clock(list->reg[i]) ||
		    register_bytes(list->reg[i]) > REGISTER_BYTES_MAX)
			continue;
		arm64__register__init(reg);
		reg->id = list->reg[i];
		reg->value.len = register_bytes(reg->id);
		reg->value.data = work->values + n * REGISTER_BYTES_MAX;
		r = reg_get(vcpu, reg->id, reg->value.data, err);
		if (r < 0)
			return r;
		work->reg_at[n++] = reg;
	}
	work->state.registers = work->reg_at;
	work->state.n_registers = n;
	return 0;
}

static int save_rest(struct vcpu_parked *vcpu, struct work *work, struct err *err)
{
	struct kvm_vcpu_events events;
	struct kvm_mp_state mp;
	int r;

	memset(&events, 0, sizeof(events));
	r = parked_ioctl(vcpu, KVM_GET_MP_STATE, &mp, "get MP state", err);
	if (r >= 0)
		r = parked_ioctl(vcpu, KVM_GET_VCPU_EVENTS, &events, "get events", err);
	if (r >= 0)
		r = gic_private_save(arm64_vm(parked_vm(vcpu))->gic, parked_index(vcpu), work->gic,
				     err);
	if (r < 0)
		return r;
	work->state.version = VCPU_STATE_VERSION;
	work->state.index = parked_index(vcpu);
	work->state.mp_state = mp.mp_state;
	work->state.serror_pending = events.exception.serror_pending;
	work->state.serror_has_syndrome = events.exception.serror_has_esr;
	work->state.serror_syndrome = events.exception.serror_esr;
	work->state.gic = work->gic;
	work->state.n_gic = gic_private_n();
	return 0;
}

int arch_vcpu_save(struct vcpu_parked *vcpu, struct buf *out, struct err *err)
{
	struct kvm_reg_list *list = registers_list(vcpu, err);
	struct work work;
	int r;

	if (!list)
		return -ENOMEM;
	r = work_init(&work, list->n, err);
	if (!r) {
		r = save_registers(vcpu, &work, list, err);
		if (!r)
			r = save_rest(vcpu, &work, err);
		if (!r)
			r = arch_message_pack(&work.state.base, out, err);
		work_free(&work);
	}
	free(list);
	return r;
}

static bool register_listed(const struct kvm_reg_list *list, uint64_t id)
{
	uint64_t i;

	for (i = 0; i < list->n; i++)
		if (list->reg[i] == id)
			return true;
	return false;
}

static int load_register(struct vcpu_parked *vcpu, const struct kvm_reg_list *list,
			 const Arm64__Register *reg, struct err *err)
{
	uint8_t now[REGISTER_BYTES_MAX];
	size_t bytes = register_bytes(reg->id);
	int r;

	if (bytes > sizeof(now) || reg->value.len != bytes || register_is_clock(reg->id))
		return err_set(err, -EPROTO, "vCPU state: %zu bytes for register 0x%" PRIx64,
			       reg->value.len, reg->id);
	if (!register_listed(list, reg->id))
		return err_set(err, -ENOTSUP,
			       "vCPU state: this host's KVM has no register 0x%" PRIx64, reg->id);
	r = reg_get(vcpu, reg->id, now, err);
	if (r < 0 || !memcmp(now, reg->value.data, bytes))
		return r;
	r = reg_set(vcpu, reg->id, reg->value.data, err);
	if (r < 0)
		err_prefix(err, r, "vCPU state, not the same on this host");
	return r;
}

static int load_registers(struct vcpu_parked *vcpu, const Arm64__VcpuState *state, struct err *err)
{
	struct kvm_reg_list *list = registers_list(vcpu, err);
	size_t i;
	int r = 0;

	if (!list)
		return -ENOMEM;
	for (i = 0; i < state->n_registers && !r; i++)
		r = load_register(vcpu, list, state->registers[i], err);
	free(list);
	return r;
}

static int load_rest(struct vcpu_parked *vcpu, const Arm64__VcpuState *state, struct err *err)
{
	struct kvm_mp_state mp = { .mp_state = state->mp_state };
	struct kvm_vcpu_events events;
	int r;

	memset(&events, 0, sizeof(events));
	events.exception.serror_pending = state->serror_pending ? 1 : 0;
	events.exception.serror_has_esr = state->serror_has_syndrome ? 1 : 0;
	events.exception.serror_esr = state->serror_syndrome;
	r = gic_private_load(arm64_vm(parked_vm(vcpu))->gic, parked_index(vcpu), state->gic, err);
	if (!r)
		r = parked_ioctl(vcpu, KVM_SET_VCPU_EVENTS, &events, "set events", err);
	if (r >= 0)
		r = parked_ioctl(vcpu, KVM_SET_MP_STATE, &mp, "set MP state", err);
	return r < 0 ? r : 0;
}

static int state_check(const struct vcpu_parked *vcpu, const Arm64__VcpuState *state,
		       struct err *err)
{
	int r = state_version_check("vCPU state", state->version, VCPU_STATE_VERSION, err);

	if (r)
		return r;
	if (state->index != parked_index(vcpu))
		return err_set(err, -EPROTO, "vCPU state: of vCPU %u", state->index);
	if (state->n_registers > REGISTERS_MAX)
		return err_set(err, -EPROTO, "vCPU state: %zu registers", state->n_registers);
	if (state->n_gic != gic_private_n())
		return err_set(
			err, -EPROTO,
			"vCPU state: %zu values of the interrupt controller, there must be %zu",
			state->n_gic, gic_private_n());
	if (state->mp_state != KVM_MP_STATE_RUNNABLE && state->mp_state != KVM_MP_STATE_STOPPED)
		return err_set(err, -EPROTO, "vCPU state: bad MP state %u", state->mp_state);
	return 0;
}

int arch_vcpu_load(struct vcpu_parked *vcpu, const uint8_t *data, size_t len, struct err *err)
{
	ProtobufCMessage *message =
		arch_message_unpack(&arm64__vcpu_state__descriptor, data, len, "vCPU state", err);
	const Arm64__VcpuState *state = (const Arm64__VcpuState *)message;
	int r;

	if (!message)
		return -EPROTO;
	r = state_check(vcpu, state, err);
	if (!r)
		r = load_registers(vcpu, state, err);
	if (!r)
		r = load_rest(vcpu, state, err);
	protobuf_c_message_free_unpacked(message, NULL);
	return r;
}

int arch_vcpu_early_pages(struct vcpu_parked *vcpu, int (*fn)(void *arg, gfn_t gfn), void *arg,
			  struct err *err)
{
	(void)vcpu, (void)fn, (void)arg, (void)err;
	return 0;
}
