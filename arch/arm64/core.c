// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * A vCPU's registers as an ELF core has them in NT_PRSTATUS: Linux' struct
 * user_pt_regs of arm64.
 */
#include <elf.h>
#include <errno.h>
#include <linux/kvm.h>
#include <stddef.h>
#include <string.h>

#include "arch/arch.h"
#include "arch/message.h"
#include "state.pb-c.h"

#define CORE_ID(field)                                         \
	(KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | \
	 offsetof(struct kvm_regs, field) / sizeof(uint32_t))
#define REGS 34u /* x0 to x30, sp, pc, pstate */
#define SP 31u
#define PSTATE 33u
#define MODE_EL1H 5u /* of pstate's lowest four bits: it runs on SP_EL1 */

unsigned int arch_core_machine(void)
{
	return EM_AARCH64;
}

/* False: the state does not have it. */
static bool core_value(const Arm64__VcpuState *state, uint64_t id, uint64_t *value)
{
	size_t i;

	for (i = 0; i < state->n_registers; i++)
		if (state->registers[i]->id == id &&
		    state->registers[i]->value.len == sizeof(*value)) {
			memcpy(value, state->registers[i]->value.data, sizeof(*value));
			return true;
		}
	return false;
}

static bool core_regs(const Arm64__VcpuState *state, uint64_t regs[REGS])
{
	unsigned int i;
	bool all = true;

	for (i = 0; i < SP; i++)
		all &= core_value(state, CORE_ID(regs.regs[0]) + i * 2, &regs[i]);
	all &= core_value(state, CORE_ID(regs.pc), &regs[32]);
	all &= core_value(state, CORE_ID(regs.pstate), &regs[PSTATE]);
	return all &&
	       core_value(state,
			  (regs[PSTATE] & 15) == MODE_EL1H ? CORE_ID(sp_el1) : CORE_ID(regs.sp),
			  &regs[SP]);
}

int arch_core_regs(const uint8_t *data, size_t len, struct buf *out, struct err *err)
{
	ProtobufCMessage *message =
		arch_message_unpack(&arm64__vcpu_state__descriptor, data, len, "vCPU state", err);
	uint64_t regs[REGS] = { 0 };
	int r = 0;

	if (!message)
		return -EPROTO;
	if (!core_regs((const Arm64__VcpuState *)message, regs))
		r = err_set(err, -EPROTO, "vCPU state: not all of its registers are there");
	if (!r && buf_append(out, regs, sizeof(regs)))
		r = err_set(err, -ENOMEM, "no memory for registers");
	protobuf_c_message_free_unpacked(message, NULL);
	return r;
}
