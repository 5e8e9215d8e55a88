// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "common.h"

#include "arch/x86/cpuid.h"

static struct cpuid_table table;

static struct kvm_cpuid_entry2 *add(uint32_t function, uint32_t index, uint32_t flags)
{
	struct kvm_cpuid_entry2 *entry = &table.entries[table.nent++];

	*entry = (struct kvm_cpuid_entry2){ .function = function, .index = index, .flags = flags };
	return entry;
}

/* As a host with an AMD CPU would say it, with its own topology in it. */
static int fresh(void **state)
{
	struct kvm_cpuid_entry2 *entry;

	(void)state;
	memset(&table, 0, sizeof(table));
	entry = add(0, 0, 0);
	entry->eax = 0x1f;
	entry->ebx = 0x68747541;
	entry = add(1, 0, 0);
	entry->ebx = 0x01640800;
	entry->ecx = 1u << 15 | 1u << 27 | 1u << 21;
	entry->edx = 1u << 9;
	entry = add(4, 3, 1);
	entry->eax = 0xfc01c163;
	add(7, 0, 1)->ebx = 0x20;
	add(0xb, 0, 1)->edx = 0x77;
	add(0x80000001, 0, 0)->ecx = 1u << 23;
	add(0x80000007, 0, 0)->edx = 1u << 8;
	add(0x80000008, 0, 0)->ecx = 0x7001;
	add(0x8000001d, 3, 1)->eax = 0x4163;
	add(0x8000001e, 0, 0)->eax = 0x77;
	return 0;
}

static void test_shape(void **state)
{
	struct err err = { 0 };

	(void)state;
	assert_int_equal(cpuid_shape(&table, 2, 6, true, &err), 0);
	assert_int_equal(cpuid_find(&table, 1, 0)->ebx, 0x02080800);	/* APIC id 2, room for 8 ids */
	assert_int_equal(cpuid_find(&table, 1, 0)->ecx, 1u << 31 | 1u << 24 | 1u << 21);
	assert_int_equal(cpuid_find(&table, 1, 0)->edx, 1u << 28 | 1u << 9);
	assert_int_equal(cpuid_find(&table, 4, 3)->eax >> 26, 7);
	assert_int_equal(cpuid_find(&table, 4, 3)->eax >> 14 & 0xfff, 7);
	assert_int_equal(cpuid_find(&table, 0xb, 0)->edx, 2);
	assert_int_equal(cpuid_find(&table, 0xb, 1)->eax, 3);
	assert_int_equal(cpuid_find(&table, 0xb, 1)->ebx, 6);
	assert_int_equal(cpuid_find(&table, 0x1f, 1)->ecx, 0x201);
	assert_int_equal(cpuid_find(&table, 0x80000001, 0)->ecx, 2);
	assert_int_equal(cpuid_find(&table, 0x80000007, 0)->edx, 0);
	assert_int_equal(cpuid_find(&table, 0x80000008, 0)->ecx, 0x3005);
	assert_int_equal(cpuid_find(&table, 0x8000001d, 3)->eax >> 14, 7);
	assert_int_equal(cpuid_find(&table, 0x8000001e, 0)->eax, 2);
}

static void test_shape_alone(void **state)
{
	(void)state;
	assert_int_equal(cpuid_shape(&table, 0, 1, false, NULL), 0);
	assert_int_equal(cpuid_find(&table, 1, 0)->ebx, 0x00010800);
	assert_int_equal(cpuid_find(&table, 1, 0)->ecx, 1u << 31 | 1u << 21);
	assert_int_equal(cpuid_find(&table, 1, 0)->edx, 1u << 9);
	assert_int_equal(cpuid_find(&table, 0xb, 1)->eax, 0);
}

/* As many as there can be: leaf 4 has no room for their number, leaf 0xb has. */
static void test_shape_of_many(void **state)
{
	(void)state;
	assert_int_equal(cpuid_shape(&table, 127, VM_VCPUS_MAX, true, NULL), 0);
	assert_int_equal(cpuid_find(&table, 1, 0)->ebx, 0x7f800800);
	assert_int_equal(cpuid_find(&table, 4, 3)->eax >> 26, 0x3f);
	assert_int_equal(cpuid_find(&table, 4, 3)->eax >> 14 & 0xfff, 127);
	assert_int_equal(cpuid_find(&table, 0xb, 0)->edx, 127);
	assert_int_equal(cpuid_find(&table, 0xb, 1)->eax, 7);
	assert_int_equal(cpuid_find(&table, 0xb, 1)->ebx, VM_VCPUS_MAX);
	assert_int_equal(cpuid_find(&table, 0x80000008, 0)->ecx, 0x707f);
}

static void test_shape_full(void **state)
{
	struct err err = { 0 };

	(void)state;
	while (table.nent < CPUID_ENTRIES_MAX)
		add(0x90000000 + table.nent, 0, 0);
	assert_err(cpuid_shape(&table, 0, 1, false, &err), -E2BIG, err, "entries");
}

static void test_check(void **state)
{
	static struct cpuid_table host;
	struct err err = { 0 };

	(void)state;
	host = table;
	assert_int_equal(cpuid_shape(&table, 1, 4, true, NULL), 0);
	assert_int_equal(cpuid_check(&table, &host, &err), 0);
	cpuid_find(&host, 7, 0)->ebx = 0x40;
	assert_err(cpuid_check(&table, &host, &err), -ENOTSUP, err, "leaf 0x7.0 EBX bit 5");
	/* A leaf that the host does not have at all. */
	cpuid_find(&host, 7, 0)->function = 0x90000000;
	assert_err(cpuid_check(&table, &host, &err), -ENOTSUP, err, "leaf 0x7.0 EBX bit 5");
}

static void test_nesting(void **state)
{
	(void)state;
	assert_false(cpuid_has_nesting(&table));
	cpuid_find(&table, 0x80000001, 0)->ecx |= 4;
	assert_true(cpuid_has_nesting(&table));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_shape, fresh),
		cmocka_unit_test_setup(test_shape_alone, fresh),
		cmocka_unit_test_setup(test_shape_of_many, fresh),
		cmocka_unit_test_setup(test_shape_full, fresh),
		cmocka_unit_test_setup(test_check, fresh),
		cmocka_unit_test_setup(test_nesting, fresh),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
