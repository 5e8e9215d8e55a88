// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Loading kernels into memory, without KVM. The files are made on the spot;
// argv[1] is the bare guest.
#include "common.h"

#include <asm/bootparam.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "arch/arch.h"
#include "arch/ram.h"
#include "arch/x86/acpi.h"
#include "arch/x86/board.h"

static char dir[] = "/tmp/postern-boot-XXXXXX";
static char kernel[64], initrd[64];
static const char *bare_path;
static struct memory *mem;
static uint8_t *ram;
static struct arch_boot boot;
static void (*meanwhile)(void);	/* between the opening of the files and their loading */

static void write_file(const char *path, const void *data, size_t len)
{
	FILE *file = fopen(path, "w");

	assert_non_null(file);
	assert_int_equal(fwrite(data, 1, len, file), len);
	assert_int_equal(fclose(file), 0);
}

static void ram_drop(void)
{
	if (mem) {
		memory_shut(mem);
		memory_free(mem);
	}
	mem = NULL;
}

static void ram_new(uint64_t bytes)
{
	struct memory_range ranges[MEMORY_REGIONS_MAX];
	struct err err = { 0 };
	unsigned int n;

	ram_drop();
	assert_int_equal(arch_memory_layout(bytes, ranges, &n, &err), 0);
	assert_int_equal(memory_new(&mem, ranges, n, &err), 0);
	ram = memory_regions(mem, &n)[0].host;
}

static int load(const char *path, const char *disk, const char *cmdline, unsigned int cpus,
		struct err *err)
{
	struct ram_file kernel_file, disk_file = { .fd = -1 };
	const struct arch_boot_config config = { &kernel_file, disk ? &disk_file : NULL, cmdline,
		cpus };
	int r;

	*err = (struct err){ 0 };
	r = ram_file_open(&kernel_file, path, err);
	if (!r && disk)
		r = ram_file_open(&disk_file, disk, err);
	if (!r && meanwhile)
		meanwhile();
	if (!r)
		r = arch_boot_load(&boot, &config, mem, err);
	ram_file_close(&kernel_file);
	ram_file_close(&disk_file);
	return r;
}

static int setup(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	snprintf(kernel, sizeof(kernel), "%s/kernel", dir);
	snprintf(initrd, sizeof(initrd), "%s/initrd", dir);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	ram_drop();
	unlink(kernel);
	unlink(initrd);
	return rmdir(dir);
}

static void put_bzimage(void)
{
	static uint8_t file[TEST_BZIMAGE_BYTES];

	test_bzimage(file);
	write_file(kernel, file, sizeof(file));
}

static void put_elf(int bare)
{
	uint8_t file[TEST_ELF_BYTES];

	test_elf(file, bare);
	write_file(kernel, file, sizeof(file));
}

static void test_layout(void **state)
{
	struct memory_range ranges[MEMORY_REGIONS_MAX];
	struct err err = { 0 };
	unsigned int n;

	(void)state;
	assert_int_equal(arch_memory_layout(64 << 20, ranges, &n, &err), 0);
	assert_int_equal(n, 1);
	assert_int_equal(ranges[0].len_bytes, 64 << 20);
	assert_int_equal(arch_memory_layout(BOARD_LOW_RAM_END, ranges, &n, &err), 0);
	assert_int_equal(n, 1);
	assert_int_equal(arch_memory_layout(4ull << 30, ranges, &n, &err), 0);
	assert_int_equal(n, 2);
	assert_int_equal(ranges[1].base.v, 4ull << 30);
	assert_int_equal(ranges[0].len_bytes + ranges[1].len_bytes, 4ull << 30);
	/* PCI's window lies between the two. */
	assert_int_equal(arch_memory_layout(31ull << 30, ranges, &n, &err), 0);
	assert_int_equal(n, 2);
	assert_int_equal(ranges[1].base.v + ranges[1].len_bytes, BOARD_PCI_HIGH_BASE);
	assert_int_equal(arch_memory_layout((31ull << 30) + HUGE_BYTES, ranges, &n, &err), 0);
	assert_int_equal(n, 3);
	assert_int_equal(ranges[2].base.v, BOARD_TOP_RAM_BASE);
	assert_int_equal(ranges[2].len_bytes, HUGE_BYTES);
	assert_int_equal(arch_memory_layout(1ull << 40, ranges, &n, &err), 0);
	assert_int_equal(n, 3);
	assert_int_equal(ranges[0].len_bytes + ranges[1].len_bytes + ranges[2].len_bytes,
			 1ull << 40);
	assert_err(arch_memory_layout(1 << 20, ranges, &n, &err), -EINVAL, err, "16 MiB to 1 TiB");
	assert_err(arch_memory_layout((64 << 20) + 4096, ranges, &n, &err), -EINVAL, err,
		   "multiple of 2 MiB");
	assert_err(arch_memory_layout((1ull << 40) + HUGE_BYTES, ranges, &n, &err), -EINVAL, err,
		   "1 TiB");
}

static void test_bzimage_loads(void **state)
{
	struct boot_params params;
	struct err err;
	char disk[5000];

	(void)state;
	ram_new(64 << 20);
	memset(ram, 0xee, 2 << 20);			/* left over from a guest that was reset */
	memset(disk, 0xd1, sizeof(disk));
	write_file(initrd, disk, sizeof(disk));
	put_bzimage();
	assert_int_equal(load(kernel, initrd, "console=ttyS0", 2, &err), 0);
	assert_false(boot.bare);
	assert_int_equal(boot.entry, 0x1000200);
	assert_int_equal(ram[0x1000000], 0x90);
	assert_int_equal(ram[0x1000000 + 8191], 0x90);
	assert_int_equal(ram[0x1000000 + 8192], 0);
	memcpy(&params, ram + boot.params, sizeof(params));
	assert_int_equal(params.hdr.header, 0x53726448);
	assert_int_equal(params.hdr.type_of_loader, 0xff);
	assert_int_equal(params.acpi_rsdp_addr, ACPI_GPA);
	assert_memory_equal(ram + ACPI_GPA, "RSD PTR ", 8);
	assert_string_equal((char *)ram + params.hdr.cmd_line_ptr, "console=ttyS0");
	assert_int_equal(params.hdr.ramdisk_size, sizeof(disk));
	assert_in_range(params.hdr.ramdisk_image, 0x1400000, (64 << 20) - sizeof(disk));
	assert_memory_equal(ram + params.hdr.ramdisk_image, disk, sizeof(disk));
	assert_int_equal(params.e820_entries, 5);
	assert_int_equal(params.e820_table[0].size, 0x9fc00);
	assert_int_equal(params.e820_table[1].type, 2);
	assert_int_equal(params.e820_table[2].addr, 0x100000);
	assert_int_equal(params.e820_table[2].addr + params.e820_table[2].size, 64 << 20);
	assert_int_equal(params.e820_table[3].addr, BOARD_PCI_ECAM);
	assert_int_equal(params.e820_table[3].type, 2);
}

/* The page tables that a kernel starts with map the low 4 GiB one to one. */
static void test_tables(void **state)
{
	struct arch_mmu mmu = { .mode = 4 };
	const uint64_t probe[] = { 0, 0x1000200, 0x7fffffff, 0xffffffff };
	struct err err;
	unsigned int i;

	(void)state;
	ram_new(64 << 20);
	put_bzimage();
	assert_int_equal(load(kernel, NULL, NULL, 1, &err), 0);
	mmu.root = boot.page_table;
	for (i = 0; i < 4; i++) {
		uint64_t left;
		gpa_t gpa;

		assert_int_equal(
			arch_translate(mem, &mmu, GVA(probe[i]), GUP_NOWAIT, NULL, &gpa, &left), 0);
		assert_int_equal(gpa.v, probe[i]);
	}
}

static void test_high_memory(void **state)
{
	struct boot_params params;
	struct err err;

	(void)state;
	ram_new(4ull << 30);
	put_bzimage();
	assert_int_equal(load(kernel, NULL, NULL, 1, &err), 0);
	assert_int_equal(boot.ram_low, 3ull << 30);
	assert_int_equal(boot.ram_high, 1ull << 30);
	memcpy(&params, ram + boot.params, sizeof(params));
	assert_int_equal(params.e820_entries, 6);
	assert_int_equal(params.e820_table[5].addr, 4ull << 30);
	assert_int_equal(params.e820_table[5].size, 1ull << 30);
}

/* The guest learns of the RAM on both sides of PCI's window. */
static void test_memory_behind_the_window(void **state)
{
	struct boot_params params;
	struct err err;

	(void)state;
	ram_new(64ull << 30);
	put_bzimage();
	assert_int_equal(load(kernel, NULL, NULL, 1, &err), 0);
	assert_int_equal(boot.ram_high, 28ull << 30);
	assert_int_equal(boot.ram_top, 33ull << 30);
	memcpy(&params, ram + boot.params, sizeof(params));
	assert_int_equal(params.e820_entries, 7);
	assert_int_equal(params.e820_table[5].addr, 4ull << 30);
	assert_int_equal(params.e820_table[5].size, 28ull << 30);
	assert_int_equal(params.e820_table[6].addr, 64ull << 30);
	assert_int_equal(params.e820_table[6].size, 33ull << 30);
}

static void test_small_memory(void **state)
{
	static uint8_t file[TEST_BZIMAGE_BYTES];
	struct err err;

	(void)state;
	ram_new(16 << 20);
	put_bzimage();
	assert_int_equal(load(kernel, NULL, NULL, 1, &err), 0);
	assert_int_equal(boot.entry, 0x200200);		/* moved down, since it is relocatable */
	test_bzimage(file);
	file[0x234] = 0;
	write_file(kernel, file, sizeof(file));
	assert_err(load(kernel, NULL, NULL, 1, &err), -ENOSPC, err,
		   "use --memory of at least 20 MiB");
	put32(file + 0x260, 0xf0000000);
	write_file(kernel, file, sizeof(file));
	assert_err(load(kernel, NULL, NULL, 1, &err), -ENOSPC, err, "below 3 GiB");
}

static void test_initrd_too_large(void **state)
{
	static uint8_t file[TEST_BZIMAGE_BYTES];
	struct err err;

	(void)state;
	ram_new(32 << 20);
	put_bzimage();
	write_file(initrd, "x", 1);
	assert_int_equal(truncate(initrd, 30 << 20), 0);
	assert_err(load(kernel, initrd, NULL, 1, &err), -ENOSPC, err,
		   "use --memory of at least 50 MiB");
	assert_non_null(strstr(err.text, initrd));
	test_bzimage(file);
	put32(file + 0x22c, 0x1ffffff);
	write_file(kernel, file, sizeof(file));
	assert_err(load(kernel, initrd, NULL, 1, &err), -ENOSPC, err,
		   "highest address that it takes, 0x1ffffff");
	assert_int_equal(truncate(initrd, 0), 0);
	assert_err(load(kernel, initrd, NULL, 1, &err), -EINVAL, err, "empty");
}

static void shorten_kernel(void)
{
	assert_int_equal(truncate(kernel, 5000), 0);
}

static void shorten_initrd(void)
{
	assert_int_equal(truncate(initrd, 5000), 0);
}

/* Files are others': whoever installs a kernel may cut the old one short while a reset reads it. */
static void test_files_shortened_while_they_are_read(void **state)
{
	static char disk[300000];
	struct err err;

	(void)state;
	ram_new(64 << 20);
	put_bzimage();
	meanwhile = shorten_kernel;
	err.code = load(kernel, NULL, "", 1, &err);
	meanwhile = NULL;
	assert_err(err.code, -EIO, err, "ended at byte 5000 of 9216");
	assert_non_null(strstr(err.text, kernel));
	assert_non_null(strstr(err.text, "put it back"));
	put_bzimage();
	write_file(initrd, disk, sizeof(disk));
	meanwhile = shorten_initrd;
	err.code = load(kernel, initrd, "", 1, &err);
	meanwhile = NULL;
	assert_err(err.code, -EIO, err, "ended at byte 5000 of 300000");
	assert_non_null(strstr(err.text, initrd));
	write_file(initrd, disk, sizeof(disk));
	assert_int_equal(load(kernel, initrd, "", 1, &err), 0);
}

static void test_bad_files(void **state)
{
	struct err err;
	char cmdline[4096];

	(void)state;
	ram_new(64 << 20);
	unlink(kernel);
	assert_err(load(kernel, NULL, NULL, 1, &err), -ENOENT, err, kernel);
	assert_err(load(dir, NULL, NULL, 1, &err), -EINVAL, err, "not a regular file");
	assert_int_equal(mkfifo(kernel, 0600), 0);
	assert_err(load(kernel, NULL, NULL, 1, &err), -EINVAL, err, "not a regular file");
	unlink(kernel);
	write_file(kernel, "#!/bin/sh\n", 10);
	assert_err(load(kernel, NULL, NULL, 1, &err), -EINVAL, err, "neither a bzImage nor");
	put_bzimage();
	memset(cmdline, 'a', sizeof(cmdline));
	cmdline[sizeof(cmdline) - 1] = 0;
	assert_err(load(kernel, NULL, cmdline, 1, &err), -E2BIG, err, "takes 2047");
}

static void test_vmlinux(void **state)
{
	uint8_t file[TEST_ELF_BYTES];
	struct boot_params params;
	struct err err;

	(void)state;
	ram_new(64 << 20);
	memset(ram + 0x100000, 0xee, 0x3000);
	put_elf(0);
	assert_int_equal(load(kernel, NULL, "quiet", 1, &err), 0);
	assert_false(boot.bare);
	assert_int_equal(boot.entry, 0x100000);
	assert_int_equal(ram[0x100000], 0xab);
	assert_int_equal(ram[0x10000f], 0xab);
	assert_int_equal(ram[0x100010], 0);
	assert_int_equal(ram[0x101fff], 0);
	assert_int_equal(ram[0x102000], 0xee);
	assert_int_equal(ram[0x200007], 0xab);
	memcpy(&params, ram + boot.params, sizeof(params));
	assert_int_equal(params.hdr.boot_flag, 0xaa55);
	assert_string_equal((char *)ram + params.hdr.cmd_line_ptr, "quiet");

	test_elf(file, 0);
	put64(file + TEST_ELF_PHDR + 24, 0x8000);
	put64(file + 24, 0x8000);
	write_file(kernel, file, sizeof(file));
	assert_err(load(kernel, NULL, NULL, 1, &err), -EINVAL, err, "above 1 MiB");
	test_elf(file, 0);
	put64(file + TEST_ELF_PHDR + 56 + 24, 0x8000000);
	write_file(kernel, file, sizeof(file));
	assert_err(load(kernel, NULL, NULL, 1, &err), -ENOSPC, err, "at least 130 MiB");
}

static void test_bare(void **state)
{
	uint8_t file[TEST_ELF_BYTES];
	struct err err;

	(void)state;
	ram_new(64 << 20);
	put_elf(1);
	assert_int_equal(load(kernel, NULL, NULL, 4, &err), 0);
	assert_true(boot.bare);
	assert_int_equal(boot.cpus, 4);
	assert_int_equal(boot.entry, 0x100000);
	assert_int_equal(boot.stack, 0x180000);
	assert_int_equal(boot.stack_stride, 0x1000);
	assert_int_equal(boot.page_table, 0x101000);
	assert_int_equal(boot.ram_low, 64 << 20);
	assert_int_equal(boot.ram_high, 0);
	assert_err(load(kernel, NULL, NULL, 5, &err), -EINVAL, err, "at most 4 CPUs");
	assert_err(load(kernel, kernel, NULL, 1, &err), -EINVAL, err, "no initial RAM disk");
	test_elf(file, 1);
	put64(file + TEST_ELF_NOTE + 20 + 24, 0x8000000);
	write_file(kernel, file, sizeof(file));
	assert_err(load(kernel, NULL, NULL, 1, &err), -ENOSPC, err, "at least 128 MiB");
}

static void test_the_bare_guest(void **state)
{
	struct err err;

	(void)state;
	if (!bare_path) {
		print_message("skipped: no bare guest was given\n");
		skip();
	}
	ram_new(64 << 20);
	assert_int_equal(load(bare_path, NULL, NULL, 2, &err), 0);
	assert_true(boot.bare);
	assert_in_range(boot.entry, 0x100000, 0x200000);
	assert_in_range(boot.stack, 0x100000, 64 << 20);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_layout),
		cmocka_unit_test(test_bzimage_loads),
		cmocka_unit_test(test_tables),
		cmocka_unit_test(test_high_memory),
		cmocka_unit_test(test_memory_behind_the_window),
		cmocka_unit_test(test_small_memory),
		cmocka_unit_test(test_initrd_too_large),
		cmocka_unit_test(test_files_shortened_while_they_are_read),
		cmocka_unit_test(test_bad_files),
		cmocka_unit_test(test_vmlinux),
		cmocka_unit_test(test_bare),
		cmocka_unit_test(test_the_bare_guest),
	};

	bare_path = argc > 1 ? argv[1] : NULL;
	return cmocka_run_group_tests(tests, setup, teardown);
}
