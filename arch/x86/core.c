// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * A vCPU's registers as an ELF core has them in NT_PRSTATUS: Linux' struct
 * user_regs_struct of x86-64.
 */
#include <elf.h>
#include <errno.h>

#include "arch/arch.h"
#include "arch/message.h"
#include "arch/x86/state.h"
#include "base/bytes.h"
#include "state.pb-c.h"

unsigned int arch_core_machine(void)
{
	return EM_X86_64;
}

static void core_regs(const X86__Registers *r, const X86__SpecialRegisters *s, uint64_t out[27])
{
	const uint64_t all[27] = {
		r->r15,
		r->r14,
		r->r13,
		r->r12,
		r->rbp,
		r->rbx,
		r->r11,
		r->r10,
		r->r9,
		r->r8,
		r->rax,
		r->rcx,
		r->rdx,
		r->rsi,
		r->rdi,
		/* no system call is under way */
		UINT64_MAX,
		r->rip,
		s->cs ? s->cs->selector : 0,
		r->rflags,
		r->rsp,
		s->ss ? s->ss->selector : 0,
		s->fs ? s->fs->address : 0,
		s->gs ? s->gs->address : 0,
		s->ds ? s->ds->selector : 0,
		s->es ? s->es->selector : 0,
		s->fs ? s->fs->selector : 0,
		s->gs ? s->gs->selector : 0,
	};
	unsigned int i;

	for (i = 0; i < 27; i++)
		out[i] = all[i];
}

int arch_core_regs(const uint8_t *data, size_t len, struct buf *out, struct err *err)
{
	ProtobufCMessage *message =
		arch_message_unpack(&x86__vcpu_state__descriptor, data, len, "vCPU state", err);
	const X86__VcpuState *state = (const X86__VcpuState *)message;
	uint64_t regs[27];
	int r = 0;

	if (!message)
		return -EPROTO;
	if (!state->regs || !state->sregs)
		r = err_set(err, -EPROTO, "vCPU state: it has no registers");
	if (!r) {
		core_regs(state->regs, state->sregs, regs);
		r = buf_append(out, regs, sizeof(regs));
		if (r)
			err_set(err, r, "no memory for registers");
	}
	protobuf_c_message_free_unpacked(message, NULL);
	return r;
}
