// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Loading a guest by Linux' arm64 boot protocol
 * (Documentation/arm64/booting.rst): the MMU off, interrupts masked, x0 =
 * device tree. From the start of RAM on lie:
 *
 *   Image		at the offset that it asks for
 *   device tree	at the next 2 MiB boundary behind what the kernel needs
 *   initial RAM disk	2 MiB further
 */
#include <errno.h>
#include <stdlib.h>

#include "arch/arch.h"
#include "arch/arm64/arm64.h"
#include "arch/arm64/board.h"
#include "arch/arm64/device_tree.h"
#include "arch/arm64/image.h"
#include "arch/ram.h"

#define FDT_BYTES 0x10000u
#define MIB (1ull << 20)

static uint64_t align_up(uint64_t value, uint64_t to)
{
	return (value + to - 1) & ~(to - 1);
}

static uint64_t ram_bytes(const struct memory *mem)
{
	return memory_pages(mem) * PAGE_BYTES;
}

/* Is there RAM up to `end`? */
static int check_room(const struct memory *mem, uint64_t end, const char *what, struct err *err)
{
	uint64_t need = align_up(end - BOARD_RAM_BASE, HUGE_BYTES);

	if (need <= ram_bytes(mem))
		return 0;
	return err_set(
		err, -ENOSPC,
		"%s does not fit into %llu MiB of guest memory: use --memory of at least %llu MiB",
		what, (unsigned long long)(ram_bytes(mem) / MIB), (unsigned long long)(need / MIB));
}

/* *end: of what the kernel needs. */
static int load_kernel(struct arch_boot *boot, struct memory *mem, const struct ram_file *file,
		       uint64_t *end, struct err *err)
{
	size_t len = file->len < IMAGE_HEAD_BYTES ? (size_t)file->len : IMAGE_HEAD_BYTES;
	uint8_t head[IMAGE_HEAD_BYTES];
	struct image image;
	int r;

	*end = 0;
	r = ram_file_read(file, 0, head, len, err);
	if (!r)
		r = image_parse(&image, head, len, file->len, err);
	if (!r) {
		boot->entry = BOARD_RAM_BASE + image.offset;
		*end = boot->entry + image.bytes;
		r = check_room(mem, *end, "it", err);
	}
	if (!r)
		r = ram_load(mem, boot->entry, file, 0, file->len, "kernel", err);
	if (r < 0)
		err_prefix(err, r, "kernel %s", file->path);
	return r;
}

static int load_initrd(struct memory *mem, const struct ram_file *file, uint64_t at, uint64_t *end,
		       struct err *err)
{
	int r;

	*end = at;
	if (!file)
		return 0;
	*end = at + file->len;
	r = check_room(mem, *end, "it", err);
	if (!r)
		r = ram_load(mem, at, file, 0, file->len, "initial RAM disk", err);
	if (r < 0)
		err_prefix(err, r, "initrd %s", file->path);
	return r;
}

static int load_fdt(struct memory *mem, uint64_t at, const struct device_tree_config *config,
		    struct err *err)
{
	void *fdt = calloc(1, FDT_BYTES);
	int r;

	if (!fdt)
		return err_set(err, -ENOMEM, "no memory for the device tree");
	r = device_tree_build(fdt, FDT_BYTES, config, err);
	if (!r)
		r = ram_write(mem, at, fdt, FDT_BYTES, "device tree", err);
	free(fdt);
	return r;
}

int arch_boot_load(struct arch_boot *boot, const struct arch_boot_config *config,
		   struct memory *mem, struct err *err)
{
	struct device_tree_config fdt = {
		.cpus = config->cpus, .ram_bytes = ram_bytes(mem), .cmdline = config->cmdline,
	};
	uint64_t end;
	int r;

	*boot = (struct arch_boot){ .cpus = config->cpus, .ram_low = ram_bytes(mem) };
	r = load_kernel(boot, mem, config->kernel, &end, err);
	if (r < 0)
		return r;
	boot->params = align_up(end, HUGE_BYTES);
	r = check_room(mem, boot->params + FDT_BYTES, "the kernel with its device tree", err);
	fdt.initrd = boot->params + HUGE_BYTES;
	if (!r)
		r = load_initrd(mem, config->initrd, fdt.initrd, &fdt.initrd_end, err);
	return r < 0 ? r : load_fdt(mem, boot->params, &fdt, err);
}

int arch_vcpu_boot(struct vcpu_parked *vcpu, const struct arch_boot *boot, struct err *err)
{
	int r = 0;

	if (parked_index(vcpu) == 0)
		r = arch_vm_reset(parked_vm(vcpu), err);
	if (!r)
		r = arm64_vcpu_reset(vcpu, err);
	/* Linux starts the others itself, by PSCI. */
	if (r < 0 || parked_index(vcpu))
		return r;
	r = reg_set64(vcpu, CORE_REG(regs.pstate), PSTATE_EL1H | PSTATE_DAIF, err);
	if (!r)
		r = reg_set64(vcpu, CORE_REG(regs.pc), boot->entry, err);
	if (!r)
		r = reg_set64(vcpu, CORE_REG(regs.regs[0]), boot->params, err);
	return r;
}
