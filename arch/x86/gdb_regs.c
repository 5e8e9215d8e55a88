// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * gdb's view of the registers: features org.gnu.gdb.i386.core, .sse and
 * .segments, whose names and order gdb fixes, and one of our own with what a
 * kernel developer wants to see. One table drives the description, the offsets
 * and both directions; the order of its rows is that of the "g" packet.
 *
 * Selectors, control registers and EFER can be read only: to load them means
 * more than to change a number, and KVM may read page tables at it, which may
 * not have come yet.
 */
#include "arch/x86/gdb_regs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "arch/arch.h"
#include "arch/x86/msr.h"
#include "arch/x86/state.h"
#include "arch/x86/x86.h"

enum reg_type {
	RAW,		/* bytes as they are */
	SELECTOR,	/* 16 bits as 32, read only */
	TAG,		/* x87 tag word, from KVM's abridged one */
	SHORT,		/* 16 bits as 32 */
	ZERO,		/* KVM has no such thing */
	READ_ONLY,
};

struct reg {
	uint16_t bytes;		/* in the packet */
	uint16_t at;		/* in struct gdb_cpu */
	enum reg_type type;
};

#define AT(field) offsetof(struct gdb_cpu, field)
#define GPR(name) { 8, AT(regs.name), RAW }
#define SEL(name) { 4, AT(sregs.name.selector), SELECTOR }
#define ST(n) { 10, AT(fpu.fpr[n]), RAW }
#define XMM(n) { 16, AT(fpu.xmm[n]), RAW }

static const struct reg table[] = {
	GPR(rax), GPR(rbx), GPR(rcx), GPR(rdx), GPR(rsi), GPR(rdi), GPR(rbp), GPR(rsp), GPR(r8), GPR(r9),
	GPR(r10), GPR(r11), GPR(r12), GPR(r13), GPR(r14), GPR(r15), GPR(rip), { 4, AT(regs.rflags), RAW },
	SEL(cs), SEL(ss), SEL(ds), SEL(es), SEL(fs), SEL(gs),
	ST(0), ST(1), ST(2), ST(3), ST(4), ST(5), ST(6), ST(7),
	{ 4, AT(fpu.fcw), SHORT }, { 4, AT(fpu.fsw), SHORT }, { 4, AT(fpu.ftwx), TAG },
	{ 4, 0, ZERO }, { 4, AT(fpu.last_ip), RAW }, { 4, 0, ZERO }, { 4, AT(fpu.last_dp), RAW },
	{ 4, AT(fpu.last_opcode), SHORT },
	XMM(0), XMM(1), XMM(2), XMM(3), XMM(4), XMM(5), XMM(6), XMM(7), XMM(8), XMM(9), XMM(10), XMM(11),
	XMM(12), XMM(13), XMM(14), XMM(15), { 4, AT(fpu.mxcsr), RAW },
	{ 8, AT(sregs.fs.base), RAW }, { 8, AT(sregs.gs.base), RAW },
	{ 8, AT(kernel_gs_base), RAW },
	{ 8, AT(sregs.cr0), READ_ONLY }, { 8, AT(sregs.cr2), READ_ONLY }, { 8, AT(sregs.cr3), READ_ONLY },
	{ 8, AT(sregs.cr4), READ_ONLY }, { 8, AT(sregs.cr8), READ_ONLY }, { 8, AT(sregs.efer), READ_ONLY },
};
#define REGS (sizeof(table) / sizeof(table[0]))

const char *arch_gdb_xml(void)
{
#define R64(name) "<reg name=\"" name "\" bitsize=\"64\" type=\"int64\"/>"
#define P64(name, type) "<reg name=\"" name "\" bitsize=\"64\" type=\"" type "\"/>"
#define R32(name) "<reg name=\"" name "\" bitsize=\"32\" type=\"int32\"/>"
#define F80(name) "<reg name=\"" name "\" bitsize=\"80\" type=\"i387_ext\"/>"
#define F32(name) "<reg name=\"" name "\" bitsize=\"32\" type=\"int\" group=\"float\"/>"
#define V128(name) "<reg name=\"" name "\" bitsize=\"128\" type=\"vec128\"/>"
	return "<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n"
	       "<target version=\"1.0\">\n<architecture>i386:x86-64</architecture>\n"
	       "<feature name=\"org.gnu.gdb.i386.core\">\n" R64("rax") R64("rbx") R64("rcx") R64("rdx") R64(
		       "rsi") R64("rdi") P64("rbp",
					     "data_ptr") P64("rsp",
							     "data_ptr") R64("r8") R64("r9") R64("r10") R64("r11")
		       R64("r12") R64("r13") R64("r14") R64("r15") P64("rip", "code_ptr") R32("eflags") R32(
			       "cs") R32("ss") R32("ds") R32("es") R32("fs") R32("gs") F80("st0") F80("st1")
			       F80("st2") F80("st3") F80("st4") F80("st5") F80("st6") F80("st7") F32("fctrl") F32(
				       "fstat") F32("ftag") F32("fiseg") F32("fioff") F32("foseg") F32("fooff")
				       F32("fop") "\n</feature>\n"
						  "<feature name=\"org.gnu.gdb.i386.sse\">\n"
						  "<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/>"
						  "<vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>"
						  "<vector id=\"v16i8\" type=\"int8\" count=\"16\"/>"
						  "<vector id=\"v8i16\" type=\"int16\" count=\"8\"/>"
						  "<vector id=\"v4i32\" type=\"int32\" count=\"4\"/>"
						  "<vector id=\"v2i64\" type=\"int64\" count=\"2\"/>"
						  "<union id=\"vec128\"><field name=\"v4_float\" type=\"v4f\"/><field name=\"v2_double\" type=\"v2d\"/>"
						  "<field name=\"v16_int8\" type=\"v16i8\"/><field name=\"v8_int16\" type=\"v8i16\"/>"
						  "<field name=\"v4_int32\" type=\"v4i32\"/><field name=\"v2_int64\" type=\"v2i64\"/>"
						  "<field name=\"uint128\" type=\"uint128\"/></union>\n" V128(
							  "xmm0") V128("xmm1") V128("xmm2") V128("xmm3")
							  V128("xmm4") V128("xmm5") V128("xmm6") V128("xmm7") V128(
								  "xmm8") V128("xmm9") V128("xmm10") V128("xmm11")
								  V128("xmm12") V128("xmm13") V128("xmm14") V128(
									  "xmm15") "<reg name=\"mxcsr\" bitsize=\"32\" type=\"int32\" group=\"vector\"/>"
										   "\n</feature>\n"
										   "<feature name=\"org.gnu.gdb.i386.segments\">\n" R64(
											   "fs_base")
											   R64("gs_base") "\n</feature>\n"
													  "<feature name=\"org.postern.x86.system\">\n" R64(
														  "k_gs_base") R64("cr0")
														  R64("cr2") R64("cr3") R64(
															  "cr4") R64("cr8")
															  R64("efer") "\n</feature>\n</target>\n";
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

/*
 * One bit a register (1: in use) to two bits (3: empty; 0, 1, 2: by value,
 * which gdb works out as well from 0).
 */
static uint32_t tag_word(uint8_t abridged)
{
	uint32_t tag = 0;
	unsigned int i;

	for (i = 0; i < 8; i++)
		if (!(abridged & 1u << i))
			tag |= 3u << (i * 2);
	return tag;
}

static uint8_t tag_abridged(uint32_t tag)
{
	uint8_t abridged = 0;
	unsigned int i;

	for (i = 0; i < 8; i++)
		if ((tag >> (i * 2) & 3) != 3)
			abridged |= (uint8_t)(1u << i);
	return abridged;
}

void gdb_pack(const struct gdb_cpu *cpu, uint8_t *to)
{
	const uint8_t *base = (const uint8_t *)cpu;
	unsigned int i;

	for (i = 0; i < REGS; to += table[i].bytes, i++) {
		const struct reg *reg = &table[i];
		uint32_t tag;

		memset(to, 0, reg->bytes);
		switch (reg->type) {
		case RAW:
		case READ_ONLY:
			memcpy(to, base + reg->at, reg->bytes);
			break;
		case SELECTOR:
		case SHORT:
			memcpy(to, base + reg->at, 2);
			break;
		case TAG:
			tag = tag_word(base[reg->at]);
			memcpy(to, &tag, sizeof(tag));
			break;
		case ZERO:
			break;
		}
	}
}

void gdb_unpack(struct gdb_cpu *cpu, const uint8_t *from)
{
	uint8_t *base = (uint8_t *)cpu;
	unsigned int i;

	for (i = 0; i < REGS; from += table[i].bytes, i++) {
		const struct reg *reg = &table[i];
		uint32_t tag;

		switch (reg->type) {
		case RAW:
			memcpy(base + reg->at, from, reg->bytes);
			break;
		case SHORT:
			memcpy(base + reg->at, from, 2);
			break;
		case TAG:
			memcpy(&tag, from, sizeof(tag));
			base[reg->at] = tag_abridged(tag);
			break;
		case SELECTOR:
		case ZERO:
		case READ_ONLY:
			break;
		}
	}
}

_Static_assert(offsetof(struct gdb_fpu, xmm) == 160 && sizeof(struct gdb_fpu) == 416,
	       "an FXSAVE image");

/*
 * `area` has xsave_bytes(). The FPU is read through it and not by KVM_GET_FPU,
 * which shows stale numbers for what is in its initial state.
 */
static int cpu_get(struct vcpu_parked *vcpu, struct gdb_cpu *cpu, uint8_t *area, struct err *err)
{
	int result;

	memset(cpu, 0, sizeof(*cpu));
	result = parked_ioctl(vcpu, KVM_GET_REGS, &cpu->regs, "get registers", err);
	if (result >= 0)
		result = x86_sregs_get(vcpu, &cpu->sregs, err);
	if (result >= 0)
		result = xsave_get(vcpu, area, err);
	if (result < 0)
		return result;
	memcpy(&cpu->fpu, area, sizeof(cpu->fpu));
	if (msr_get(vcpu, MSR_KERNEL_GS_BASE, &cpu->kernel_gs_base))
		cpu->kernel_gs_base = 0;
	return 0;
}

static uint8_t *xsave_area_new(struct vcpu_parked *vcpu, struct err *err)
{
	uint8_t *area = calloc(1, xsave_bytes(parked_vm(vcpu)));

	if (!area)
		err_set(err, -ENOMEM, "no memory for FPU state");
	return area;
}

int arch_gdb_read_regs(struct vcpu_parked *vcpu, uint8_t *regs, struct err *err)
{
	uint8_t *area = xsave_area_new(vcpu, err);
	struct gdb_cpu cpu;
	int result;

	if (!area)
		return -ENOMEM;
	/* Where its page has come, the end of an instruction rather than its middle. */
	parked_complete_io(vcpu, false, NULL);
	result = cpu_get(vcpu, &cpu, area, err);
	free(area);
	if (!result)
		gdb_pack(&cpu, regs);
	return result;
}

static int fpu_write(struct vcpu_parked *vcpu, const struct gdb_fpu *fpu, uint8_t *area,
		     struct err *err)
{
	uint64_t components;

	memcpy(&components, area + 512, sizeof(components));
	components |= 3;		/* XSTATE_BV: x87 and SSE are in the area */
	memcpy(area + 512, &components, sizeof(components));
	memcpy(area, fpu, sizeof(*fpu));
	return xsave_set(vcpu, area, err);
}

static int gs_base_write(struct vcpu_parked *vcpu, uint64_t value, struct err *err)
{
	struct msr_table *one = calloc(1, sizeof(*one));
	int result;

	if (!one)
		return err_set(err, -ENOMEM, "no memory for an MSR");
	one->nmsrs = 1;
	one->entries[0].index = MSR_KERNEL_GS_BASE;
	one->entries[0].data = value;
	result = msr_write(vcpu, one, MSR_PHASE_MAIN, err);
	free(one);
	return result;
}

/* Only what has changed is written: gdb writes all registers back to change one. */
int arch_gdb_write_regs(struct vcpu_parked *vcpu, const uint8_t *regs, struct err *err)
{
	uint8_t *area = xsave_area_new(vcpu, err);
	struct gdb_cpu now, cpu;
	int result;

	if (!area)
		return -ENOMEM;
	result = parked_complete_io_to_write(vcpu, err);
	if (!result)
		result = cpu_get(vcpu, &now, area, err);
	if (result)
		goto out;
	cpu = now;
	gdb_unpack(&cpu, regs);
	if (memcmp(&cpu.regs, &now.regs, sizeof(cpu.regs)))
		result = parked_ioctl(vcpu, KVM_SET_REGS, &cpu.regs, "set registers", err);
	if (result >= 0 && memcmp(&cpu.fpu, &now.fpu, sizeof(cpu.fpu)))
		result = fpu_write(vcpu, &cpu.fpu, area, err);
	if (result >= 0 && memcmp(&cpu.sregs, &now.sregs, sizeof(cpu.sregs)))
		result = x86_sregs_set(vcpu, &cpu.sregs, err);
	if (result >= 0 && cpu.kernel_gs_base != now.kernel_gs_base)
		result = gs_base_write(vcpu, cpu.kernel_gs_base, err);
out:
	free(area);
	return result < 0 ? result : 0;
}

int arch_gdb_pc(struct vcpu_parked *vcpu, uint64_t *pc, struct err *err)
{
	struct kvm_regs regs;
	int result = parked_ioctl(vcpu, KVM_GET_REGS, &regs, "get registers", err);

	if (result < 0)
		return result;
	*pc = regs.rip;
	return 0;
}
