/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The contract of an architecture: every hook that the rest of postern needs.
 * No other folder has an #ifdef on the architecture. What asks about a vCPU
 * takes one that is held parked (kvm/parked.h). All on the main thread unless
 * said otherwise.
 */
#ifndef POSTERN_ARCH_ARCH_H
#define POSTERN_ARCH_ARCH_H

#include "base/buf.h"
#include "base/err.h"
#include "base/types.h"
#include "kvm/parked.h"
#include "kvm/vm.h"
#include "memory/gup.h"

/* ---- the machine's shape ---- */

/* How much RAM a machine can have, where its host can give it that. */
#define ARCH_RAM_MIN (UINT64_C(16) << 20)
#define ARCH_RAM_MAX (UINT64_C(1) << 40)

/*
 * Splits `bytes` of RAM around the holes for devices; n gets the number of
 * ranges (at most MEMORY_REGIONS_MAX). -EINVAL: not a multiple of 2 MiB from
 * ARCH_RAM_MIN to ARCH_RAM_MAX.
 */
int arch_memory_layout(uint64_t bytes, struct memory_range *ranges, unsigned int *n,
		       struct err *err);
/*
 * What a VM's making needs to know of this host's KVM and what takes long to ask;
 * NULL where there is nothing such. For arch_vm_type and, by vm_asked, for
 * vCPUs. free() ends it. Any thread.
 */
int arch_host_ask(int kvm_fd, void **asked, struct err *err);
/*
 * *type: KVM_CREATE_VM's argument for a VM whose RAM ends at ram_end. -ENOTSUP:
 * this host's guest physical addresses do not reach so far; err says how much
 * RAM they do reach. asked may be NULL: then KVM_CREATE_VM or the guest finds out.
 */
int arch_vm_type(int kvm_fd, const void *asked, gpa_t ram_end, unsigned long *type,
		 struct err *err);
/* Up to here RAM may end whatever was asked: arch_vm_type needs nothing of it. Any thread. */
gpa_t arch_plain_ram_end(void);
/*
 * Memory that is not RAM: the guest reads there what devices have written, and a
 * write is an MMIO exit. Where, and how many pages; any thread.
 */
gpa_t arch_device_pages(unsigned int *pages);
/* After KVM_CREATE_VM and all memory slots, before any vCPU: interrupt controllers, timers. */
int arch_vm_create(struct vm *vm, struct err *err);
/*
 * KVM's routes of the interrupt lines, at most ARCH_IRQ_ROUTES_MAX; returns how
 * many. Any thread.
 */
#define ARCH_IRQ_ROUTES_MAX 64
struct kvm_irq_routing_entry;
unsigned int arch_irq_routes(struct kvm_irq_routing_entry *routes);
/* After KVM_CREATE_VCPU, of each of the `cpus` vCPUs in their order: CPUID and the like. */
int arch_vcpu_create(struct vcpu_parked *vcpu, unsigned int cpus, struct err *err);

/* ---- boot ---- */

struct ram_file;

struct arch_boot_config {
	/* x86: bzImage, ELF vmlinux, or the bare guest's ELF; arm64: Image */
	const struct ram_file *kernel;
	const struct ram_file *initrd;	/* may be NULL */
	const char *cmdline;	/* may be NULL */
	unsigned int cpus;
};

/* Where a loaded guest starts; filled by arch_boot_load, plain values. */
struct arch_boot {
	bool bare;		/* the bare guest: every vCPU starts at once, in ring 3 */
	unsigned int cpus;
	uint64_t entry, stack, stack_stride, page_table, params, ram_low, ram_high, ram_top;
};

/*
 * Loads kernel, initrd, boot parameters and firmware tables into RAM (all of
 * which must be PRESENT). Errors name the file and what is wrong with it: not a
 * kernel, truncated, shortened meanwhile (RAM then holds a part of it), needs
 * more memory (how much), does not fit.
 */
int arch_boot_load(struct arch_boot *boot, const struct arch_boot_config *config,
		   struct memory *mem, struct err *err);
/*
 * Puts a vCPU, and with vCPU 0 the VM-wide state, to where the guest starts
 * (also after a reset).
 */
int arch_vcpu_boot(struct vcpu_parked *vcpu, const struct arch_boot *boot, struct err *err);
/* Puts the in-kernel interrupt controllers and timers to their power-on state. */
int arch_vm_reset(struct vm *vm, struct err *err);

/*
 * A guest for probes: one vCPU that reads one byte at `touch`, then writes a
 * byte to where no RAM is (a port, or MMIO), for ever; it needs no more of a
 * KVM than any guest does. Needs RAM from 0 on, the first 64 KiB PRESENT.
 */
int arch_probe_load(struct arch_boot *boot, struct memory *mem, gpa_t touch, struct err *err);
/*
 * A guest that starts in kernel mode; five times executes ARCH_PROBE_LOOP_INSNS
 * instructions and writes ARCH_PROBE_LOOP to the same place; then does what a
 * kernel's entry and exit code does, and writes ARCH_PROBE_OK again and again.
 */
#define ARCH_PROBE_OK 0x5a
#define ARCH_PROBE_LOOP 0x4c
#define ARCH_PROBE_LOOP_INSNS 200000
int arch_probe_load_kernel_mode(struct arch_boot *boot, struct memory *mem, struct err *err);

/* ---- time ---- */

/*
 * The guest's clock, stopped while no vCPU runs, so that it sees no time away:
 * *clock gets what it shows, in its own unit. The vCPUs' watchdogs are told of
 * the pause, where there is a way (Linux: Documentation/virt/kvm/api.rst,
 * KVM_KVMCLOCK_CTRL).
 */
int arch_clock_stop(struct vm *vm, uint64_t *clock, struct err *err);
/* Lets it go on from there. */
int arch_clock_start(struct vm *vm, uint64_t clock, struct err *err);
/*
 * The guest was away for so long, and its clocks are to show that: after
 * arch_vm_load, before a vCPU is loaded, which writes what follows from the
 * clock; and of each vCPU after its arch_vcpu_load.
 */
int arch_clock_advance(struct vm *vm, uint64_t ns, struct err *err);
int arch_vcpu_clock_advance(struct vcpu_parked *vcpu, uint64_t ns, struct err *err);

/*
 * ---- state: versioned protobuf messages (arch/<name>/state.proto) ----
 * The VM's is loaded before any vCPU's: the clock must be right when a vCPU's
 * clock page is set up. Early pages must have come before either.
 */

int arch_vm_save(struct vm *vm, struct buf *out, struct err *err);
int arch_vm_load(struct vm *vm, const uint8_t *data, size_t len, struct err *err);
int arch_vcpu_save(struct vcpu_parked *vcpu, struct buf *out, struct err *err);
/*
 * Hostile input: every count and size checked; an MSR this host's KVM does not
 * have is an error that names it.
 */
int arch_vcpu_load(struct vcpu_parked *vcpu, const uint8_t *data, size_t len, struct err *err);

/*
 * Calls fn for each page that must be there before the vCPU first runs on a
 * destination: those that KVM itself writes or reads by kernel copies
 * (kvmclock, steal time, async page fault, PV EOI; page-table pages of the
 * current address space, descriptor tables, the current instruction and stack),
 * since an access to a missing page by a kernel copy can be neither interrupted
 * nor ejected cleanly. Pages may repeat. Stops and returns fn's result when
 * that is not 0.
 */
int arch_vcpu_early_pages(struct vcpu_parked *vcpu, int (*fn)(void *arg, gfn_t gfn), void *arg,
			  struct err *err);

/* ---- ELF cores ---- */

/* ELF's number of this architecture: e_machine. */
unsigned int arch_core_machine(void);
/*
 * Of a vCPU's state, as arch_vcpu_save has it, the general registers as pr_reg of NT_PRSTATUS has
 * them (Linux: include/uapi/linux/elfcore.h), appended to out. Hostile input: -EPROTO. Pure.
 */
int arch_core_regs(const uint8_t *data, size_t len, struct buf *out, struct err *err);

/* ---- debugger ---- */

/* What a page-table walk starts from; plain values. */
struct arch_mmu {
	uint64_t root, mode, other;
};
int arch_mmu_get(struct vcpu_parked *vcpu, struct arch_mmu *mmu, struct err *err);
/*
 * Our own page-table walk. Any thread, takes the map lock itself. Returns 0 and
 * *gpa, and in *left the bytes to the end of the mapping's page; -EFAULT: not
 * mapped; or gup's error when a page-table page is missing.
 */
int arch_translate(struct memory *mem, const struct arch_mmu *mmu, gva_t gva,
		   unsigned int gup_flags, const struct gup_opts *opts, gpa_t *gpa, uint64_t *left);

/*
 * gdb's view: the target description, and the registers in its order ("g"
 * packet: raw bytes, little endian).
 */
const char *arch_gdb_xml(void);
size_t arch_gdb_regs_bytes(void);
int arch_gdb_read_regs(struct vcpu_parked *vcpu, uint8_t *regs, struct err *err);
int arch_gdb_write_regs(struct vcpu_parked *vcpu, const uint8_t *regs, struct err *err);
/*
 * One register of the description by its number: where it lies in the "g"
 * packet; false: no such register.
 */
bool arch_gdb_reg(unsigned int number, size_t *offset, size_t *bytes);
int arch_gdb_pc(struct vcpu_parked *vcpu, uint64_t *pc, struct err *err);

enum arch_watch_type { ARCH_WATCH_EXEC, ARCH_WATCH_WRITE, ARCH_WATCH_READ, ARCH_WATCH_ACCESS };
struct arch_watch {
	enum arch_watch_type type;
	gva_t gva;
	unsigned int len;	/* 1, 2, 4 or 8; 1 for EXEC */
};
#define ARCH_WATCH_MAX 4
struct arch_debug {
	bool step;
	bool sw_breakpoints;
	unsigned int nwatch;
	struct arch_watch watch[ARCH_WATCH_MAX];
};
/*
 * KVM_SET_GUEST_DEBUG. -EINVAL: a watchpoint that the hardware cannot do
 * (length, alignment, type).
 */
int arch_debug_set(struct vcpu_parked *vcpu, const struct arch_debug *debug, struct err *err);
/* Why a VM_EVENT_DEBUG came: true when a watchpoint of `debug` did, which one in *index. */
bool arch_debug_hit(struct vcpu_parked *vcpu, const struct arch_debug *debug, unsigned int *index);
/* The breakpoint instruction; *len its length (at most 8). */
const uint8_t *arch_breakpoint(size_t *len);

#endif
