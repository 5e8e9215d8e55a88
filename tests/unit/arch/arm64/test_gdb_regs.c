// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// The description, and the table of offsets, are two lists of the same registers.
#include "../common.h"

#include <stdio.h>

#include "arch/arch.h"

static void test_the_description_and_the_packet_agree(void **state)
{
	const char *at = arch_gdb_xml();
	size_t offset, bytes, want = 0;
	unsigned int number = 0, bits;

	(void)state;
	while ((at = strstr(at, "<reg name="))) {
		assert_int_equal(sscanf(strstr(at, "bitsize="), "bitsize=\"%u\"", &bits), 1);
		assert_true(arch_gdb_reg(number, &offset, &bytes));
		assert_int_equal(bytes * 8, bits);
		assert_int_equal(offset, want);
		want += bytes;
		number++;
		at++;
	}
	assert_false(arch_gdb_reg(number, &offset, &bytes));
	assert_int_equal(arch_gdb_regs_bytes(), want);
}

/* The numbers that gdb itself knows. */
static void test_places(void **state)
{
	size_t offset, bytes;

	(void)state;
	assert_true(arch_gdb_reg(31, &offset, &bytes));		/* sp */
	assert_int_equal(offset, 248);
	assert_true(arch_gdb_reg(32, &offset, &bytes));		/* pc */
	assert_int_equal(offset, 256);
	assert_true(arch_gdb_reg(33, &offset, &bytes));		/* cpsr */
	assert_int_equal(bytes, 4);
	assert_true(arch_gdb_reg(34, &offset, &bytes));		/* v0 */
	assert_int_equal(bytes, 16);
	assert_true(arch_gdb_reg(66, &offset, &bytes));		/* fpsr */
	assert_int_equal(bytes, 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_description_and_the_packet_agree),
		cmocka_unit_test(test_places),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
