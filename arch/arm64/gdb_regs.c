// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * gdb's view of the registers: features org.gnu.gdb.aarch64.core and .fpu,
 * whose names and order gdb fixes, and one of our own with what a kernel
 * developer wants to see. One table drives the offsets and both directions; the
 * order of its rows is that of the "g" packet. System registers can be read
 * only.
 */
#include <string.h>

#include "arch/arch.h"
#include "arch/arm64/arm64.h"

enum reg_type {
	PLAIN,
	STACK,		/* that of the exception level the vCPU is at */
	READ_ONLY,
};

struct reg {
	uint64_t id;
	uint8_t bytes;		/* in the packet */
	enum reg_type type;
};

#define FP_REG(field, size) (KVM_REG_ARM64 | (size) | KVM_REG_ARM_CORE | KVM_REG_ARM_CORE_REG(fp_regs.field))
#define X(n) { CORE_REG(regs.regs[n]), 8, PLAIN }
#define V(n) { FP_REG(vregs[n], KVM_REG_SIZE_U128), 16, PLAIN }
#define SYS(op0, op1, crn, crm, op2) { ARM64_SYS_REG(op0, op1, crn, crm, op2), 8, READ_ONLY }

static const struct reg table[] = {
	X(0), X(1), X(2), X(3), X(4), X(5), X(6), X(7), X(8), X(9), X(10), X(11), X(12), X(13), X(14), X(15), X(16),
	X(17), X(18), X(19), X(20), X(21), X(22), X(23), X(24), X(25), X(26), X(27), X(28), X(29), X(30),
	{ 0, 8, STACK }, { CORE_REG(regs.pc), 8, PLAIN }, { CORE_REG(regs.pstate), 4, PLAIN },
	V(0), V(1), V(2), V(3), V(4), V(5), V(6), V(7), V(8), V(9), V(10), V(11), V(12), V(13), V(14), V(15), V(16),
	V(17), V(18), V(19), V(20), V(21), V(22), V(23), V(24), V(25), V(26), V(27), V(28), V(29), V(30), V(31),
	{ FP_REG(fpsr, KVM_REG_SIZE_U32), 4, PLAIN }, { FP_REG(fpcr, KVM_REG_SIZE_U32), 4, PLAIN },
	{ CORE_REG(elr_el1), 8, READ_ONLY }, { CORE_REG(spsr[0]), 8, READ_ONLY },
	SYS(3, 0, 5, 2, 0),	/* ESR_EL1 */
	SYS(3, 0, 6, 0, 0),	/* FAR_EL1 */
	SYS(3, 0, 12, 0, 0),	/* VBAR_EL1 */
	{ SYS_SCTLR_EL1, 8, READ_ONLY }, { SYS_TCR_EL1, 8, READ_ONLY }, { SYS_TTBR0_EL1, 8, READ_ONLY },
	{ SYS_TTBR1_EL1, 8, READ_ONLY },
};
#define REGS (sizeof(table) / sizeof(table[0]))
#define REG_BYTES_MAX 16

const char *arch_gdb_xml(void)
{
#define R64(name) "<reg name=\"" name "\" bitsize=\"64\"/>"
#define P64(name, type) "<reg name=\"" name "\" bitsize=\"64\" type=\"" type "\"/>"
#define R32(name) "<reg name=\"" name "\" bitsize=\"32\" type=\"int\"/>"
#define V128(name) "<reg name=\"" name "\" bitsize=\"128\" type=\"aarch64v\"/>"
	return "<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n"
	       "<target version=\"1.0\">\n<architecture>aarch64</architecture>\n"
	       "<feature name=\"org.gnu.gdb.aarch64.core\">\n" R64("x0") R64("x1") R64("x2") R64("x3") R64(
		       "x4") R64("x5") R64("x6") R64("x7") R64("x8") R64("x9") R64("x10") R64("x11") R64("x12")
		       R64("x13") R64("x14") R64("x15") R64("x16") R64("x17") R64("x18") R64("x19") R64(
			       "x20") R64("x21") R64("x22") R64("x23") R64("x24") R64("x25") R64("x26") R64("x27")
			       R64("x28") R64("x29") R64("x30") P64("sp", "data_ptr") P64("pc", "code_ptr") R32(
				       "cpsr") "\n</feature>\n"
					       "<feature name=\"org.gnu.gdb.aarch64.fpu\">\n"
					       "<vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>"
					       "<vector id=\"v2u\" type=\"uint64\" count=\"2\"/>"
					       "<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/>"
					       "<vector id=\"v4u\" type=\"uint32\" count=\"4\"/>"
					       "<vector id=\"v16u\" type=\"uint8\" count=\"16\"/>"
					       "<union id=\"aarch64v\"><field name=\"d\" type=\"v2d\"/><field name=\"du\" type=\"v2u\"/>"
					       "<field name=\"f\" type=\"v4f\"/><field name=\"su\" type=\"v4u\"/><field name=\"b\" type=\"v16u\"/>"
					       "<field name=\"q\" type=\"uint128\"/></union>\n" V128("v0") V128(
						       "v1") V128("v2") V128("v3") V128("v4") V128("v5")
						       V128("v6") V128("v7") V128("v8") V128("v9") V128("v10") V128(
							       "v11") V128("v12") V128("v13") V128("v14")
							       V128("v15") V128("v16") V128("v17") V128("v18") V128(
								       "v19") V128("v20") V128("v21") V128("v22")
								       V128("v23") V128("v24") V128("v25") V128(
									       "v26") V128("v27") V128("v28")
									       V128("v29") V128("v30") V128(
										       "v31") R32("fpsr")
										       R32("fpcr") "\n</feature>\n"
												   "<feature name=\"org.postern.arm64.system\">\n" R64(
													   "elr_el1") R64("spsr_el1")
													   R64("esr_el1") R64("far_el1") R64(
														   "vbar_el1") R64("sctlr_el1")
														   R64("tcr_el1") R64(
															   "ttbr0_el1")
															   R64("ttbr1_el1") "\n</feature>\n</target>\n";
}

bool arch_gdb_reg(unsigned int number, size_t *offset, size_t *bytes)
{
	unsigned int i;

	if (number >= REGS)
		return false;
	*offset = 0;
	for (i = 0; i < number; i++)
		*offset += table[i].bytes;
	*bytes = table[number].bytes;
	return true;
}

size_t arch_gdb_regs_bytes(void)
{
	size_t offset, bytes;

	arch_gdb_reg(REGS - 1, &offset, &bytes);
	return offset + bytes;
}

/* KVM's sp is SP_EL0. */
static uint64_t stack_id(uint64_t pstate)
{
	bool own = (pstate & PSTATE_EL_MASK) && pstate & PSTATE_SP;

	return own ? CORE_REG(sp_el1) : CORE_REG(regs.sp);
}

/* The register's bytes as KVM has them: 16, the first reg->bytes of which are the packet's. */
static int value_get(struct vcpu_parked *vcpu, const struct reg *reg, uint64_t *id, uint8_t *value,
		     struct err *err)
{
	uint64_t pstate;
	int r;

	*id = reg->id;
	if (reg->type == STACK) {
		r = reg_get64(vcpu, CORE_REG(regs.pstate), &pstate, err);
		if (r < 0)
			return r;
		*id = stack_id(pstate);
	}
	memset(value, 0, REG_BYTES_MAX);
	return reg_get(vcpu, *id, value, err);
}

int arch_gdb_read_regs(struct vcpu_parked *vcpu, uint8_t *regs, struct err *err)
{
	uint8_t value[REG_BYTES_MAX];
	unsigned int i;
	uint64_t id;
	int r;

	/* Where its page has come, the end of an instruction rather than its middle. */
	parked_complete_io(vcpu, false, NULL);
	for (i = 0; i < REGS; regs += table[i].bytes, i++) {
		r = value_get(vcpu, &table[i], &id, value, err);
		if (r < 0)
			return r;
		memcpy(regs, value, table[i].bytes);
	}
	return 0;
}

/* Only what has changed is written: gdb writes all registers back to change one. */
int arch_gdb_write_regs(struct vcpu_parked *vcpu, const uint8_t *regs, struct err *err)
{
	uint8_t value[REG_BYTES_MAX];
	unsigned int i;
	uint64_t id;
	int r = parked_complete_io_to_write(vcpu, err);

	for (i = 0; i < REGS && !r; regs += table[i].bytes, i++) {
		if (table[i].type == READ_ONLY)
			continue;
		r = value_get(vcpu, &table[i], &id, value, err);
		if (r < 0)
			return r;
		if (!memcmp(value, regs, table[i].bytes))
			continue;
		memcpy(value, regs, table[i].bytes);
		r = reg_set(vcpu, id, value, err);
		if (r < 0)
			return r;
	}
	return r < 0 ? r : 0;
}

int arch_gdb_pc(struct vcpu_parked *vcpu, uint64_t *pc, struct err *err)
{
	return reg_get64(vcpu, CORE_REG(regs.pc), pc, err);
}
