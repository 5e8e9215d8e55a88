// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// What lies in memory before the first instruction: kernel, device tree, initial RAM disk.
#include "../common.h"

#include <libfdt.h>
#include <stdio.h>
#include <unistd.h>

#include "arch/arch.h"
#include "arch/ram.h"
#include "arch/arm64/board.h"
#include "arch/arm64/device_tree.h"

#define RAM (32ull << 20)
#define KERNEL_NEEDS 0x500000ull

static struct memory *mem;
static uint8_t *ram;
static char kernel[] = "/tmp/postern-test-XXXXXX", initrd[] = "/tmp/postern-test-XXXXXX";

static void file_make(char *name, const uint8_t *data, size_t len)
{
	int fd = mkstemp(name);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, len), len);
	close(fd);
}

static int make(void **state)
{
	const struct memory_range range = { .base = GPA(BOARD_RAM_BASE), .len_bytes = RAM };
	uint8_t image[4096];
	unsigned int n;

	(void)state;
	if (memory_new(&mem, &range, 1, NULL))
		return -1;
	ram = memory_regions(mem, &n)[0].host;
	memset(image, 0xa5, sizeof(image));
	put64(image + 8, 0);
	put64(image + 16, KERNEL_NEEDS);
	put64(image + 24, 0xa);
	memcpy(image + 56, "ARM\x64", 4);
	file_make(kernel, image, sizeof(image));
	file_make(initrd, (const uint8_t *)"the disk", 8);
	return 0;
}

static int drop(void **state)
{
	(void)state;
	unlink(kernel);
	unlink(initrd);
	memory_shut(mem);
	memory_free(mem);
	return 0;
}

static uint64_t prop64(const void *fdt, const char *path, const char *name, unsigned int index)
{
	const uint8_t *data;
	uint64_t value;
	int len;

	data = fdt_getprop(fdt, fdt_path_offset(fdt, path), name, &len);
	assert_non_null(data);
	assert_true(len >= (int)(index + 1) * 8);
	memcpy(&value, data + index * 8, sizeof(value));
	return fdt64_to_cpu(value);
}

/* What the tests give instead of files' names. */
struct given {
	const char *kernel, *initrd, *cmdline;
	unsigned int cpus;
};

static int load(struct arch_boot *boot, const struct given *given, struct memory *to,
		struct err *err)
{
	struct ram_file kernel_file, initrd_file = { .fd = -1 };
	const struct arch_boot_config config = {
		.kernel = &kernel_file, .initrd = given->initrd ? &initrd_file : NULL, .cmdline =
			given->cmdline, .cpus = given->cpus,
	};
	int r = ram_file_open(&kernel_file, given->kernel, err);

	if (!r && given->initrd)
		r = ram_file_open(&initrd_file, given->initrd, err);
	if (!r)
		r = arch_boot_load(boot, &config, to, err);
	ram_file_close(&kernel_file);
	ram_file_close(&initrd_file);
	return r;
}

static void test_layout(void **state)
{
	const struct given config = {
		.kernel = kernel, .initrd = initrd, .cmdline = "console=ttyS0 \"a b\"", .cpus = 3,
	};
	struct arch_boot boot;
	struct err err = { 0 };
	const uint8_t *fdt;
	uint64_t start;

	(void)state;
	assert_int_equal(load(&boot, &config, mem, &err), 0);
	assert_int_equal(boot.entry, BOARD_RAM_BASE);
	assert_int_equal(ram[100], 0xa5);
	assert_true(boot.params >= BOARD_RAM_BASE + KERNEL_NEEDS);
	assert_int_equal(boot.params % HUGE_BYTES, 0);
	fdt = ram + (boot.params - BOARD_RAM_BASE);
	assert_int_equal(fdt_check_full(fdt, 0x10000), 0);
	assert_string_equal(fdt_getprop(fdt, fdt_path_offset(fdt, "/chosen"), "bootargs", NULL),
			    "console=ttyS0 \"a b\"");
	start = prop64(fdt, "/chosen", "linux,initrd-start", 0);
	assert_int_equal(prop64(fdt, "/chosen", "linux,initrd-end", 0), start + 8);
	assert_memory_equal(ram + (start - BOARD_RAM_BASE), "the disk", 8);
	assert_int_equal(prop64(fdt, "/memory@40000000", "reg", 0), BOARD_RAM_BASE);
	assert_int_equal(prop64(fdt, "/memory@40000000", "reg", 1), RAM);
	assert_true(fdt_path_offset(fdt, "/cpus/cpu@2") > 0);
	assert_true(fdt_path_offset(fdt, "/cpus/cpu@3") < 0);
	assert_int_equal(prop64(fdt, "/interrupt-controller@8000000", "reg", 3),
			 3 * BOARD_GIC_REDISTRIBUTOR_BYTES);
	assert_true(fdt_path_offset(fdt, fdt_getprop(fdt, fdt_path_offset(fdt, "/chosen"),
						     "stdout-path", NULL)) > 0);
}

static void test_nothing_given(void **state)
{
	const struct given config = { .kernel = kernel, .cpus = 1 };
	struct arch_boot boot;
	struct err err = { 0 };
	const uint8_t *fdt;

	(void)state;
	assert_int_equal(load(&boot, &config, mem, &err), 0);
	fdt = ram + (boot.params - BOARD_RAM_BASE);
	assert_string_equal(fdt_getprop(fdt, fdt_path_offset(fdt, "/chosen"), "bootargs", NULL),
			    "");
	assert_null(fdt_getprop(fdt, fdt_path_offset(fdt, "/chosen"), "linux,initrd-start", NULL));
}

/*
 * 16 vCPUs in a cluster, and their redistributors where there is room for all,
 * clear of RAM and of the serial port.
 */
static void test_many_cpus(void **state)
{
	const struct given config = { .kernel = kernel, .cpus = VM_VCPUS_MAX };
	uint64_t bytes = VM_VCPUS_MAX * BOARD_GIC_REDISTRIBUTOR_BYTES;
	struct arch_boot boot;
	struct err err = { 0 };
	const uint8_t *fdt;

	(void)state;
	assert_int_equal(load(&boot, &config, mem, &err), 0);
	fdt = ram + (boot.params - BOARD_RAM_BASE);
	assert_int_equal(fdt_check_full(fdt, 0x10000), 0);
	assert_true(fdt_path_offset(fdt, "/cpus/cpu@f") > 0);
	assert_true(fdt_path_offset(fdt, "/cpus/cpu@10") < 0);
	assert_true(fdt_path_offset(fdt, "/cpus/cpu@100") > 0);
	assert_true(fdt_path_offset(fdt, "/cpus/cpu@70f") > 0);
	assert_int_equal(prop64(fdt, "/interrupt-controller@8000000", "reg", 2),
			 BOARD_GIC_REDISTRIBUTORS_MANY);
	assert_int_equal(prop64(fdt, "/interrupt-controller@8000000", "reg", 3), bytes);
	assert_true(BOARD_GIC_REDISTRIBUTORS_MANY >= BOARD_SERIAL + BOARD_SERIAL_BYTES);
	assert_true(BOARD_GIC_REDISTRIBUTORS_MANY + bytes <= BOARD_RAM_BASE);
	assert_true(BOARD_GIC_REDISTRIBUTORS + 16 * BOARD_GIC_REDISTRIBUTOR_BYTES <= BOARD_SERIAL);
}

static void test_errors(void **state)
{
	struct given config = { .kernel = "/nowhere", .cpus = 1 };
	char *line = malloc(70000);
	struct arch_boot boot;
	struct err err = { 0 };

	(void)state;
	assert_err(load(&boot, &config, mem, &err), -ENOENT, err, "/nowhere");
	config.kernel = initrd;
	assert_err(load(&boot, &config, mem, &err), -EINVAL, err, "not an arm64 kernel");
	config.kernel = kernel;
	config.initrd = "/nowhere";
	assert_err(load(&boot, &config, mem, &err), -ENOENT, err, "/nowhere");
	config.initrd = NULL;
	memset(line, 'x', 69999);
	line[69999] = 0;
	config.cmdline = line;
	assert_err(load(&boot, &config, mem, &err), -ENOSPC, err, "command line");
	free(line);
}

static void test_too_little_memory(void **state)
{
	const struct memory_range range = { .base = GPA(BOARD_RAM_BASE), .len_bytes = 4 << 20 };
	const struct given config = { .kernel = kernel, .cpus = 1 };
	struct arch_boot boot;
	struct memory *small;
	struct err err = { 0 };

	(void)state;
	assert_int_equal(memory_new(&small, &range, 1, NULL), 0);
	assert_err(load(&boot, &config, small, &err), -ENOSPC, err, "at least 6 MiB");
	memory_shut(small);
	memory_free(small);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_layout),
		cmocka_unit_test(test_nothing_given),
		cmocka_unit_test(test_many_cpus),
		cmocka_unit_test(test_errors),
		cmocka_unit_test(test_too_little_memory),
	};

	return cmocka_run_group_tests(tests, make, drop);
}
