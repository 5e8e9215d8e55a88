/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * gdb's registers: between KVM's structures and the bytes of a "g" packet.
 */
#ifndef POSTERN_ARCH_X86_GDB_REGS_H
#define POSTERN_ARCH_X86_GDB_REGS_H

#include <linux/kvm.h>

#include "base/types.h"

/* The FXSAVE image at the start of an XSAVE area (Intel SDM volume 1, table 10-2). */
struct gdb_fpu {
	uint16_t fcw, fsw;
	uint8_t ftwx, reserved;
	uint16_t last_opcode;
	uint64_t last_ip, last_dp;
	uint32_t mxcsr, mxcsr_mask;
	uint8_t fpr[8][16];
	uint8_t xmm[16][16];
};

/* What a "g" packet is made of. */
struct gdb_cpu {
	struct kvm_regs regs;
	struct kvm_sregs2 sregs;
	struct gdb_fpu fpu;
	uint64_t kernel_gs_base;
};

void gdb_pack(const struct gdb_cpu *cpu, uint8_t *to);
/* Overwrites what the packet has; selectors, control registers and EFER are left as they are. */
void gdb_unpack(struct gdb_cpu *cpu, const uint8_t *from);

#endif
