// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include <errno.h>
#include <string.h>

#include "fixture.h"

struct dev {
	unsigned int reads, writes, widest;
	uint64_t last;
	uint8_t byte;
};

static void access_dev(void *arg, uint64_t offset, bool write, uint8_t *data, unsigned int size)
{
	struct dev *dev = arg;

	dev->last = offset;
	if (size > dev->widest)
		dev->widest = size;
	if (write) {
		dev->writes++;
		dev->byte = *data;
	} else {
		dev->reads++;
		memset(data, (int)(0x40 + offset), size);
	}
}

static void overlaps_are_refused_by_name(void **state)
{
	static const struct { uint64_t base, len; int result; } cases[] = {
		{ 0x100, 8, -EEXIST }, { 0xfc, 5, -EEXIST }, { 0x107, 1, -EEXIST },	{ 0x80, 0x200, -EEXIST },
		{ 0x103, 2, -EEXIST }, { 0xf8, 8, 0 },	     { 0x108, 8, 0 },		{ 0x300, 0, -EINVAL },
		{ UINT64_MAX, 2, -EINVAL }, { UINT64_MAX, 1, 0 },
	};
	struct bus bus;
	struct err err;
	struct dev dev = { 0 };
	size_t i;

	(void)state;
	bus_init(&bus, "port");
	assert_int_equal(bus_add(&bus, "first", 0x100, 8, 1, access_dev, &dev, &err), 0);
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		memset(&err, 0, sizeof(err));
		assert_int_equal(bus_add(&bus, "second", cases[i].base, cases[i].len, 1, access_dev,
					 &dev, &err),
				 cases[i].result);
		if (cases[i].result == -EEXIST) {
			assert_non_null(strstr(err.text, "first"));
			assert_non_null(strstr(err.text, "second"));
		}
	}
}

static void accesses_go_to_whom_they_belong(void **state)
{
	struct bus bus;
	struct err err;
	struct dev dev[3] = { 0 };
	uint8_t data[8];
	unsigned int i;

	(void)state;
	bus_init(&bus, "port");
	/* Added out of order. */
	for (i = 0; i < 3; i++)
		assert_int_equal(bus_add(&bus, "d", 0x100 + (i + 1) % 3 * 0x10, 8, 1, access_dev,
					 &dev[(i + 1) % 3], &err), 0);
	for (i = 0; i < 3; i++) {
		assert_true(bus_access(&bus, 0x107 + i * 0x10, false, data, 1));
		assert_int_equal(data[0], 0x47);
		assert_int_equal(dev[i].reads, 1);
		assert_int_equal(dev[i].last, 7);
	}
}

static void unclaimed_reads_as_ones(void **state)
{
	uint8_t data[4] = { 0 };
	struct bus bus;

	(void)state;
	bus_init(&bus, "port");
	assert_false(bus_access(&bus, 0x80, false, data, 4));
	assert_memory_equal(data, "\xff\xff\xff\xff", 4);
	assert_false(bus_access(&bus, 0x80, true, data, 4));
	assert_int_equal(atomic_load(&bus.unclaimed), 2);
}

static void wide_accesses_are_cut_for_narrow_devices(void **state)
{
	uint8_t data[4];
	struct bus bus;
	struct err err;
	struct dev narrow = { 0 }, wide = { 0 };

	(void)state;
	bus_init(&bus, "port");
	assert_int_equal(bus_add(&bus, "narrow", 0x10, 4, 1, access_dev, &narrow, &err), 0);
	assert_int_equal(bus_add(&bus, "wide", 0x20, 4, 4, access_dev, &wide, &err), 0);
	assert_true(bus_access(&bus, 0x10, false, data, 4));
	assert_memory_equal(data, "\x40\x41\x42\x43", 4);
	assert_int_equal(narrow.reads, 4);
	assert_true(bus_access(&bus, 0x20, false, data, 4));
	assert_int_equal(wide.reads, 1);
	assert_int_equal(wide.widest, 4);
}

/* A 4-byte write to the PCI configuration port 0xcf8 must not reset the machine through 0xcf9. */
static void accesses_across_the_edge_are_nobodys(void **state)
{
	uint8_t data[4] = { 0, 6, 0, 0x80 };
	struct bus bus;
	struct err err;
	struct dev dev = { 0 };

	(void)state;
	bus_init(&bus, "port");
	assert_int_equal(bus_add(&bus, "reset", 0xcf9, 1, 1, access_dev, &dev, &err), 0);
	assert_false(bus_access(&bus, 0xcf8, true, data, 4));
	assert_false(bus_access(&bus, 0xcf9, true, data, 2));
	assert_int_equal(dev.writes, 0);
	assert_true(bus_access(&bus, 0xcf9, true, data + 1, 1));
	assert_int_equal(dev.byte, 6);
}

static void a_full_bus_says_so(void **state)
{
	struct bus bus;
	struct err err;
	struct dev dev = { 0 };
	unsigned int i;

	(void)state;
	bus_init(&bus, "port");
	for (i = 0; i < BUS_RANGES_MAX; i++)
		assert_int_equal(bus_add(&bus, "d", i, 1, 1, access_dev, &dev, &err), 0);
	assert_int_equal(bus_add(&bus, "d", i, 1, 1, access_dev, &dev, &err), -ENOSPC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(overlaps_are_refused_by_name),
		cmocka_unit_test(accesses_go_to_whom_they_belong),
		cmocka_unit_test(unclaimed_reads_as_ones),
		cmocka_unit_test(wide_accesses_are_cut_for_narrow_devices),
		cmocka_unit_test(accesses_across_the_edge_are_nobodys),
		cmocka_unit_test(a_full_bus_says_so),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
