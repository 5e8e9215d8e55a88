// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Loading a guest. Three kinds of kernel:
 *
 *   bzImage		what distributions ship; goes to the address that it prefers
 *   ELF vmlinux	goes where its segments say; same entry state
 *   ELF, bare note	the bare guest: brings page tables and stacks of its own, see elf.h
 *
 * Both Linux kinds start by the 64-bit boot protocol (Linux:
 * Documentation/arch/x86/boot.rst, "64-bit Boot Protocol"): long mode, the low
 * 4 GiB mapped one to one, RSI = boot parameters. Below 1 MiB lie:
 *
 *   0x500		GDT
 *   0x7000		boot parameters
 *   0x8000		page tables, six pages
 *   0x20000		command line
 *   0x9fc00		where BIOS data would be; nothing, but guests keep off
 *   0xe0000		ACPI tables
 */
#include <asm/bootparam.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "arch/arch.h"
#include "arch/ram.h"
#include "arch/x86/acpi.h"
#include "arch/x86/board.h"
#include "arch/x86/bzimage.h"
#include "arch/x86/elf_image.h"
#include "arch/x86/ram_map.h"
#include "arch/x86/x86.h"

#define GDT_GPA 0x500ull
#define PARAMS_GPA 0x7000ull
#define TABLES_GPA 0x8000ull
#define STACK_GPA 0x1f000ull		/* grows down; the kernel sets its own at once */
#define CMDLINE_GPA 0x20000ull
#define CMDLINE_ROOM 0x10000ull
#define EBDA_GPA 0x9fc00ull
#define LEGACY_END 0x100000ull
#define INITRD_ALIGN PAGE_BYTES

#define PTE_WRITE 2ull

#define E820_TYPE_RAM 1u
#define E820_TYPE_RESERVED 2u
#define LOADER_UNDEFINED 0xffu

/* What a vmlinux, which has no header, is told by the header all the same. */
#define VMLINUX_INITRD_MAX 0x7fffffffull
#define VMLINUX_CMDLINE_MAX 2047u

_Static_assert(BZIMAGE_HEADER + BZIMAGE_HEADER_MAX <=
		       offsetof(struct boot_params, edd_mbr_sig_buffer),
	       "the set-up header has room in struct boot_params");

struct loading {
	struct memory *mem;
	const struct arch_boot_config *config;
	struct arch_boot *boot;
	struct boot_params params;
	uint64_t kernel_end;		/* RAM that the kernel needs, load address included */
	uint64_t initrd_max;
	uint64_t cmdline_max;
};

static void e820_add(struct boot_params *params, uint64_t addr, uint64_t end, uint32_t type)
{
	if (addr < end)
		params->e820_table[params->e820_entries++] = (struct boot_e820_entry){
			.addr = addr,
			.size = end - addr,
			.type = type,
		};
}

static void e820_fill(struct loading *l)
{
	uint64_t high = ram_high_bytes(l->mem), top = ram_top_bytes(l->mem);

	e820_add(&l->params, 0, EBDA_GPA, E820_TYPE_RAM);
	e820_add(&l->params, EBDA_GPA, LEGACY_END, E820_TYPE_RESERVED);
	e820_add(&l->params, LEGACY_END, ram_low_end(l->mem), E820_TYPE_RAM);
	e820_add(&l->params, BOARD_PCI_ECAM, BOARD_PCI_ECAM + BOARD_PCI_ECAM_BYTES,
		 E820_TYPE_RESERVED);
	e820_add(&l->params, BOARD_IDENTITY_MAP, BOARD_TSS + 3 * PAGE_BYTES, E820_TYPE_RESERVED);
	e820_add(&l->params, BOARD_HIGH_RAM_BASE, BOARD_HIGH_RAM_BASE + high, E820_TYPE_RAM);
	e820_add(&l->params, BOARD_TOP_RAM_BASE, BOARD_TOP_RAM_BASE + top, E820_TYPE_RAM);
}

/* PML4, one PDPT, four page directories of 2 MiB pages. */
static int write_tables(struct memory *mem, struct err *err)
{
	uint64_t table[512];
	unsigned int t, i;
	int result;

	memset(table, 0, sizeof(table));
	table[0] = (TABLES_GPA + PAGE_BYTES) | PTE_PRESENT | PTE_WRITE;
	result = ram_write(mem, TABLES_GPA, table, sizeof(table), "page tables", err);
	for (i = 0; i < 4; i++)
		table[i] = (TABLES_GPA + (2 + i) * PAGE_BYTES) | PTE_PRESENT | PTE_WRITE;
	if (!result)
		result = ram_write(mem, TABLES_GPA + PAGE_BYTES, table, sizeof(table),
				   "page tables", err);
	for (t = 0; t < 4 && !result; t++) {
		for (i = 0; i < 512; i++)
			table[i] =
				(t * 512ull + i) * HUGE_BYTES | PTE_PRESENT | PTE_WRITE | PTE_LARGE;
		result = ram_write(mem, TABLES_GPA + (2 + t) * PAGE_BYTES, table, sizeof(table),
				   "page tables", err);
	}
	return result;
}

static int write_firmware(struct loading *l, struct err *err)
{
	/* Null twice, then __BOOT_CS (0x10) and __BOOT_DS (0x18), as the protocol wants them. */
	static const uint64_t gdt[] = { 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff };
	/* BIOS data area: segment of the extended area, kilobytes of base memory. */
	const uint16_t ebda = EBDA_GPA >> 4, base_kib = EBDA_GPA >> 10;
	struct buf acpi = { 0 };
	int result;

	result = acpi_build(&acpi, l->config->cpus, err);
	if (!result)
		result = ram_zero(l->mem, 0, PAGE_BYTES, "BIOS data area", err);
	if (!result)
		result = ram_zero(l->mem, EBDA_GPA, LEGACY_END - EBDA_GPA, "BIOS area", err);
	if (!result)
		result = ram_write(l->mem, ACPI_GPA, acpi.data, acpi.len, "ACPI tables", err);
	if (!result)
		result = ram_write(l->mem, GDT_GPA, gdt, sizeof(gdt), "GDT", err);
	if (!result)
		result = ram_write(l->mem, 0x40e, &ebda, sizeof(ebda), "BIOS data area", err);
	if (!result)
		result = ram_write(l->mem, 0x413, &base_kib, sizeof(base_kib), "BIOS data area",
				   err);
	buf_fini(&acpi);
	return result ? result : write_tables(l->mem, err);
}

static int write_cmdline(struct loading *l, struct err *err)
{
	const char *cmdline = l->config->cmdline ? l->config->cmdline : "";
	uint64_t room = l->cmdline_max < CMDLINE_ROOM ? l->cmdline_max : CMDLINE_ROOM - 1;
	size_t len = strlen(cmdline);

	if (len > room)
		return err_set(err, -E2BIG,
			       "kernel command line of %zu bytes: this kernel takes %llu", len,
			       (unsigned long long)room);
	l->params.hdr.cmd_line_ptr = CMDLINE_GPA;
	return ram_write(l->mem, CMDLINE_GPA, cmdline, len + 1, "command line", err);
}

/* As high as it may lie, so that it is clear of the kernel. */
static int write_initrd(struct loading *l, struct err *err)
{
	const struct ram_file *file = l->config->initrd;
	uint64_t end = ram_low_end(l->mem), at, need;
	int result;

	if (!file)
		return 0;
	if (end > l->initrd_max + 1)
		end = l->initrd_max + 1;
	need = ((l->kernel_end + INITRD_ALIGN - 1) & ~(INITRD_ALIGN - 1)) +
	       ((file->len + INITRD_ALIGN - 1) & ~(INITRD_ALIGN - 1));
	if (need > end) {
		if (need > l->initrd_max + 1)
			result = err_set(err, -ENOSPC,
					 "%llu bytes do not fit between the kernel's end at 0x%llx "
					 "and the highest address that it takes, 0x%llx",
					 (unsigned long long)file->len,
					 (unsigned long long)l->kernel_end,
					 (unsigned long long)l->initrd_max);
		else
			result = ram_too_small(ram_low_end(l->mem), need, err);
		err_prefix(err, result, "%s", file->path);
	} else {
		at = (end - file->len) & ~(INITRD_ALIGN - 1);
		l->params.hdr.ramdisk_image = (uint32_t)at;
		l->params.hdr.ramdisk_size = (uint32_t)file->len;
		result = ram_load(l->mem, at, file, 0, file->len, "initial RAM disk", err);
		if (result)
			err_prefix(err, result, "initrd %s", file->path);
	}
	return result;
}

static int write_params(struct loading *l, struct err *err)
{
	int result;

	l->params.hdr.type_of_loader = LOADER_UNDEFINED;
	l->params.acpi_rsdp_addr = ACPI_GPA;
	e820_fill(l);
	result = write_cmdline(l, err);
	if (!result)
		result = write_initrd(l, err);
	if (!result)
		result = write_firmware(l, err);
	if (!result)
		result = ram_write(l->mem, PARAMS_GPA, &l->params, sizeof(l->params),
				   "boot parameters", err);
	l->boot->params = PARAMS_GPA;
	l->boot->page_table = TABLES_GPA;
	l->boot->stack = STACK_GPA;
	return result;
}

static int load_bzimage(struct loading *l, const struct ram_file *file, const uint8_t *head,
			size_t head_len, struct err *err)
{
	struct bzimage image;
	uint64_t load, need;
	int result = bzimage_parse(&image, head, head_len, file->len, err);

	if (result)
		return result;
	if (bzimage_place(&image, ram_low_end(l->mem), &load, &need))
		return ram_too_small(ram_low_end(l->mem), need, err);
	memcpy((uint8_t *)&l->params + BZIMAGE_HEADER, head + BZIMAGE_HEADER, image.header_bytes);
	l->params.hdr.code32_start = (uint32_t)load;
	l->params.hdr.ramdisk_image = 0;
	l->params.hdr.ramdisk_size = 0;
	l->params.hdr.setup_data = 0;
	l->kernel_end = need;
	l->initrd_max = image.initrd_max;
	l->cmdline_max = image.cmdline_max;
	l->boot->entry = load + BZIMAGE_ENTRY_64;
	return ram_load(l->mem, load, file, image.payload, image.payload_bytes, "kernel", err);
}

static int load_segments(struct loading *l, const struct elf *elf, const struct ram_file *file,
			 struct err *err)
{
	unsigned int i;
	int result = 0;

	if (elf_end(elf) > ram_low_end(l->mem))
		return ram_too_small(ram_low_end(l->mem), elf_end(elf), err);
	for (i = 0; i < elf->segments && !result; i++) {
		const struct elf_segment *seg = &elf->segment[i];

		result = ram_load(l->mem, seg->gpa, file, seg->offset, seg->file_bytes, "segment",
				  err);
		if (!result)
			result = ram_zero(l->mem, seg->gpa + seg->file_bytes,
					  seg->mem_bytes - seg->file_bytes, "segment", err);
	}
	l->kernel_end = elf_end(elf);
	return result;
}

static int load_vmlinux(struct loading *l, const struct elf *elf, const struct ram_file *file,
			struct err *err)
{
	if (elf->segment[0].gpa < LEGACY_END)
		return err_set(err, -EINVAL, "a segment at 0x%llx: a kernel must lie above 1 MiB",
			       (unsigned long long)elf->segment[0].gpa);
	l->params.hdr.boot_flag = 0xaa55;
	l->params.hdr.header = 0x53726448;
	l->params.hdr.version = 0x20c;
	l->params.hdr.loadflags = LOADED_HIGH;
	l->params.hdr.kernel_alignment = 0x1000000;
	l->params.hdr.initrd_addr_max = VMLINUX_INITRD_MAX;
	l->params.hdr.cmdline_size = VMLINUX_CMDLINE_MAX;
	l->initrd_max = VMLINUX_INITRD_MAX;
	l->cmdline_max = VMLINUX_CMDLINE_MAX;
	l->boot->entry = elf->entry;
	return load_segments(l, elf, file, err);
}

static int load_bare(struct loading *l, const struct elf *elf, const struct ram_file *file,
		     struct err *err)
{
	const struct elf_bare *note = &elf->note;
	struct arch_boot *boot = l->boot;

	if (l->config->cpus > note->max_cpus)
		return err_set(err, -EINVAL, "this bare guest runs on at most %u CPUs, not %u",
			       note->max_cpus, l->config->cpus);
	if (note->stack_top > ram_low_end(l->mem) || note->config >= ram_low_end(l->mem) ||
	    note->stats >= ram_low_end(l->mem))
		return ram_too_small(ram_low_end(l->mem), note->stack_top, err);
	if (l->config->initrd)
		return err_set(err, -EINVAL, "a bare guest takes no initial RAM disk");
	boot->bare = true;
	boot->entry = note->entry;
	boot->stack = note->stack_top;
	boot->stack_stride = note->stack_stride;
	boot->page_table = note->cr3;
	return load_segments(l, elf, file, err);
}

static int load_elf(struct loading *l, const struct ram_file *file, struct err *err)
{
	struct elf elf;
	int result = elf_parse(&elf, file, err);

	if (result)
		return result;
	return elf.bare ? load_bare(l, &elf, file, err) : load_vmlinux(l, &elf, file, err);
}

int arch_boot_load(struct arch_boot *boot, const struct arch_boot_config *config,
		   struct memory *mem, struct err *err)
{
	struct loading l = { .mem = mem, .config = config, .boot = boot };
	const struct ram_file *file = config->kernel;
	size_t len = file->len < BZIMAGE_HEAD_MAX ? (size_t)file->len : BZIMAGE_HEAD_MAX;
	uint8_t head[BZIMAGE_HEAD_MAX];
	int result;

	*boot = (struct arch_boot){
		.cpus = config->cpus,
		.ram_low = ram_low_end(mem),
		.ram_high = ram_high_bytes(mem),
		.ram_top = ram_top_bytes(mem),
	};
	result = ram_file_read(file, 0, head, len, err);
	if (result)
		return err_prefix(err, result, "kernel %s", file->path);
	if (bzimage_is(head, len))
		result = load_bzimage(&l, file, head, len, err);
	else if (elf_is(head, len))
		result = load_elf(&l, file, err);
	else
		result = err_set(err, -EINVAL, "neither a bzImage nor a 64-bit ELF file");
	if (result)
		return err_prefix(err, result, "kernel %s", file->path);
	return boot->bare ? 0 : write_params(&l, err);
}

static struct kvm_segment boot_segment(uint16_t selector, bool code, uint8_t dpl)
{
	return (struct kvm_segment){
		.limit = 0xffffffff,
		.selector = selector,
		.type = code ? 0xb : 0x3,
		.present = 1,
		.dpl = dpl,
		.db = !code,
		.s = 1,
		.l = code,
		.g = 1,
	};
}

static int boot_start(struct vcpu_parked *vcpu, const struct arch_boot *boot, struct err *err)
{
	uint64_t i = parked_index(vcpu);
	struct kvm_regs regs = { .rip = boot->entry, .rflags = 2, .rsp = boot->stack };
	struct kvm_sregs2 sregs;
	int result = x86_sregs_get(vcpu, &sregs, err);

	if (result < 0)
		return result;
	sregs.flags = 0;
	sregs.cr0 = 0x80050033;			/* PG, AM, WP, NE, ET, MP, PE */
	sregs.cr3 = boot->page_table;
	sregs.efer = EFER_LME | EFER_LMA;
	if (boot->bare) {
		sregs.cr4 = CR4_PAE | 0x600;	/* OSFXSR, OSXMMEXCPT */
		sregs.cs = boot_segment(0x33, true, 3);
		sregs.ds = boot_segment(0x2b, false, 3);
		sregs.gdt.limit = 0;
		sregs.idt.limit = 0;
		regs.rflags = 0x3002;		/* IOPL 3 */
		regs.rsp -= i * boot->stack_stride;
		regs.rdi = i;
		regs.rsi = boot->cpus;
		regs.rdx = boot->ram_low;
		regs.rcx = boot->ram_high;
		regs.r9 = boot->ram_top;
	} else {
		sregs.cr4 = CR4_PAE;
		sregs.cs = boot_segment(0x10, true, 0);
		sregs.ds = boot_segment(0x18, false, 0);
		sregs.gdt.base = GDT_GPA;
		sregs.gdt.limit = 4 * 8 - 1;
		sregs.idt.limit = 0;
		regs.rsi = boot->params;
	}
	sregs.es = sregs.fs = sregs.gs = sregs.ss = sregs.ds;
	result = x86_sregs_set(vcpu, &sregs, err);
	if (result >= 0)
		result = parked_ioctl(vcpu, KVM_SET_REGS, &regs, "set registers", err);
	return result < 0 ? result : 0;
}

int arch_vcpu_boot(struct vcpu_parked *vcpu, const struct arch_boot *boot, struct err *err)
{
	struct kvm_mp_state runnable = { .mp_state = KVM_MP_STATE_RUNNABLE };
	int result = 0;

	if (parked_index(vcpu) == 0)
		result = arch_vm_reset(parked_vm(vcpu), err);
	if (!result)
		result = x86_vcpu_reset(vcpu, err);
	/* Linux starts the others itself, by INIT and SIPI. */
	if (result || (parked_index(vcpu) && !boot->bare))
		return result;
	result = boot_start(vcpu, boot, err);
	if (!result && boot->bare)
		result = parked_ioctl(vcpu, KVM_SET_MP_STATE, &runnable, "set MP state", err);
	return result < 0 ? result : 0;
}
