// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "common.h"

#include "arch/arch.h"
#include "arch/x86/gdb_regs.h"

/* Numbers and offsets that gdb fixes for amd64. */
static void test_offsets(void **state)
{
	static const struct {
		unsigned int number;
		size_t offset, bytes;
	} known[] = {
		{ 0, 0, 8 }, { 6, 48, 8 } /* rbp */, { 7, 56, 8 } /* rsp */, { 16, 128, 8 } /* rip */,
		{ 17, 136, 4 } /* eflags */, { 18, 140, 4 } /* cs */, { 24, 164, 10 } /* st0 */,
		{ 32, 244, 4 } /* fctrl */, { 40, 276, 16 } /* xmm0 */, { 56, 532, 4 } /* mxcsr */,
		{ 57, 536, 8 } /* fs_base */,
	};
	size_t offset, bytes;
	unsigned int i;

	(void)state;
	for (i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		assert_true(arch_gdb_reg(known[i].number, &offset, &bytes));
		assert_int_equal(offset, known[i].offset);
		assert_int_equal(bytes, known[i].bytes);
	}
	assert_false(arch_gdb_reg(UINT32_MAX, &offset, &bytes));
}

/*
 * The description names as many registers, of the same sizes and in the same
 * order, as the packet has.
 */
static void test_description(void **state)
{
	const char *at = arch_gdb_xml();
	size_t offset, bytes, sum = 0;
	unsigned int number = 0;

	(void)state;
	while ((at = strstr(at, "<reg name="))) {
		const char *size = strstr(at, "bitsize=\"");

		assert_true(arch_gdb_reg(number, &offset, &bytes));
		assert_int_equal(offset, sum);
		assert_int_equal(strtoul(size + 9, NULL, 10), bytes * 8);
		sum += bytes;
		number++;
		at = size;
	}
	assert_false(arch_gdb_reg(number, &offset, &bytes));
	assert_int_equal(arch_gdb_regs_bytes(), sum);
}

static void test_pack(void **state)
{
	uint8_t packet[1024], again[1024];
	struct gdb_cpu cpu = { 0 }, back = { 0 };
	unsigned int i;

	(void)state;
	assert_true(arch_gdb_regs_bytes() <= sizeof(packet));
	cpu.regs.rax = 0x1122334455667788;
	cpu.regs.rsp = 0xfeed;
	cpu.regs.rip = 0xffffffff81000000;
	cpu.regs.rflags = 0x246;
	cpu.sregs.cs.selector = 0x33;
	cpu.sregs.fs.base = 0xf5;
	cpu.sregs.cr3 = 0x1000;
	cpu.kernel_gs_base = 0x95;
	cpu.fpu.fcw = 0x37f;
	cpu.fpu.ftwx = 0x81;
	cpu.fpu.mxcsr = 0x1f80;
	for (i = 0; i < 16; i++)
		cpu.fpu.xmm[15][i] = (uint8_t)i;
	gdb_pack(&cpu, packet);
	assert_int_equal(get64(packet), cpu.regs.rax);
	assert_int_equal(get64(packet + 56), 0xfeed);
	assert_int_equal(get64(packet + 128), cpu.regs.rip);
	assert_int_equal(get32(packet + 136), 0x246);
	assert_int_equal(get32(packet + 140), 0x33);
	assert_int_equal(get32(packet + 252), 0x3ffc);	/* ftag: registers 0 and 7 in use */
	assert_int_equal(packet[276 + 15 * 16 + 5], 5);

	/* What is written back is what was read, but for what is read only. */
	gdb_unpack(&back, packet);
	assert_memory_equal(&back.regs, &cpu.regs, sizeof(cpu.regs));
	assert_memory_equal(&back.fpu, &cpu.fpu, sizeof(cpu.fpu));
	assert_int_equal(back.sregs.fs.base, 0xf5);
	assert_int_equal(back.kernel_gs_base, 0x95);
	assert_int_equal(back.sregs.cr3, 0);
	assert_int_equal(back.sregs.cs.selector, 0);
	back.sregs = cpu.sregs;
	gdb_pack(&back, again);
	assert_memory_equal(packet, again, arch_gdb_regs_bytes());
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_offsets),
		cmocka_unit_test(test_description),
		cmocka_unit_test(test_pack),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
