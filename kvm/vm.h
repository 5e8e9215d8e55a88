/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A KVM virtual machine: its file descriptors, memory slots and vCPUs. What a
 * machine is made of beyond that (interrupt controllers, CPUID, boot state) is
 * arch/'s; what sits on its buses is device/'s.
 *
 * Threads: created, paused, resumed and freed by the main thread; exits are
 * delivered on vCPU threads.
 */
#ifndef POSTERN_KVM_VM_H
#define POSTERN_KVM_VM_H

#include "base/err.h"
#include "kvm/host.h"
#include "memory/memory.h"

#define VM_VCPUS_MAX 128

/* Some of a VM's vCPUs, by their index. */
struct vcpu_set {
	uint64_t word[VM_VCPUS_MAX / 64];
};

static inline void vcpu_set_add(struct vcpu_set *set, unsigned int index)
{
	set->word[index / 64] |= UINT64_C(1) << (index % 64);
}

static inline bool vcpu_set_has(const struct vcpu_set *set, unsigned int index)
{
	return set->word[index / 64] >> (index % 64) & 1;
}

struct vm;
struct vcpu;
struct vcpu_parked;

enum vm_event_type {
	VM_EVENT_RESET,		/* the guest asked for a reset, or triple-faulted */
	VM_EVENT_SHUTDOWN,	/* the guest asked to be powered off */
	VM_EVENT_CRASH,		/* the guest reported a panic */
	VM_EVENT_DEBUG,		/* breakpoint, watchpoint or single step: arch_debug_hit has the rest */
	VM_EVENT_POISONED,	/* the guest touched a page whose memory on the host has failed: `gfn`; it is LOST now (memory_poison) */
	VM_EVENT_ERROR,		/* KVM cannot go on: `text` says why */
};

struct vm_event {
	enum vm_event_type type;
	gfn_t gfn;
	char text[160];
};

/* Exits, on the vCPU's thread. None may wait; guest memory only by gup with GUP_NOWAIT. */
struct vm_exit_ops {
	/* data: `size` (1, 2 or 4) bytes, little endian; to be filled when !write. */
	void (*pio)(void *arg, uint16_t port, bool write, void *data, unsigned int size);
	/* data: `len` (1 to 8) bytes. */
	void (*mmio)(void *arg, gpa_t gpa, bool write, void *data, unsigned int len);
	/* The vCPU parks after this returns, until it is resumed. */
	void (*event)(void *arg, struct vcpu *vcpu, const struct vm_event *event);
};

/*
 * Creates the VM on a host that outlives it (NULL: it opens one of its own), a
 * memory slot for each region of `mem`, and `cpus` vCPUs (1 to VM_VCPUS_MAX),
 * each with a parked thread. arch_vm_create and arch_vcpu_create are called in
 * between. ops and mem outlive the VM.
 * Errors with advice: -ENOENT / -EACCES no usable /dev/kvm, -EINVAL, -ENOTSUP a
 * capability is missing, or this host's KVM has no room for so many vCPUs or so
 * much RAM.
 */
int vm_new(struct vm **out, struct vm_host *host, struct memory *mem, unsigned int cpus,
	   const struct vm_exit_ops *ops, void *arg, struct err *err);
/*
 * Ends the vCPU threads (each leaves whatever it waits for) and joins them; the
 * file descriptors stay open. -ETIMEDOUT: a vCPU did not come out within 5 s (a
 * forced way out that this kernel lacks); then nothing may be freed and only
 * the end of the process, which every wait obeys, is left.
 */
int vm_end_vcpus(struct vm *vm);
/* After vm_end_vcpus and memory_shut, in this order: see memory.h. Closes the file descriptors. */
void vm_free(struct vm *vm);

/* What the architecture remembers of this VM; vm_free calls free(data). Set by arch_vm_create. */
void vm_set_arch(struct vm *vm, void *data, void (*free)(void *data));
void *vm_arch(const struct vm *vm);

int vm_fd(const struct vm *vm);
int vm_kvm_fd(const struct vm *vm);
/* What the architecture has asked this host's KVM (arch_host_ask). */
const void *vm_asked(const struct vm *vm);
struct memory *vm_memory(const struct vm *vm);
unsigned int vm_vcpus(const struct vm *vm);
struct vcpu *vm_vcpu(const struct vm *vm, unsigned int index);

/*
 * Brings every vCPU out of the guest, or out of its wait for a page, and parks
 * it. When it returns 0 no vCPU runs, pending I/O instructions are completed,
 * and vCPU state may be read and written (kvm/parked.h). Typically some 100 us;
 * waits at most timeout_ms (the loop's "nothing hangs": a bound, not a wait for
 * a page), kicking again each millisecond; -ETIMEDOUT names the vCPU and what
 * it does: it parks as soon as it comes out.
 */
int vm_pause(struct vm *vm, int timeout_ms, struct err *err);
/*
 * Calls fn with each vCPU, held parked, in their order; stops at a result that
 * is not 0, and returns it. -EBUSY: one runs.
 */
int vm_each(struct vm *vm, int (*fn)(struct vcpu_parked *parked, void *arg, struct err *err),
	    void *arg, struct err *err);
/* arch_vcpu_boot of each. */
struct arch_boot;
int vm_boot(struct vm *vm, const struct arch_boot *boot, struct err *err);
/* parked_complete_io of each; 0 or its error. */
int vm_complete_io(struct vm *vm, bool drop, struct err *err);
/* Lets all vCPUs run. */
void vm_resume(struct vm *vm);
/* Asks every vCPU to park without waiting for it. Any thread, vCPU threads too. */
void vm_ask_pause(struct vm *vm);

/*
 * The pages at arch_device_pages, at a page's boundary, zero at first: what is
 * written here the guest reads there. It does not write there (a write is an
 * MMIO exit; on a KVM without read-only memory it does write). As long as the VM.
 */
void *vm_device_pages(const struct vm *vm);

/*
 * KVM's interrupt routes: those of the architecture (arch_irq_routes) and no
 * other yet. For arch_vm_create.
 */
int vm_irq_routes_init(struct vm *vm, struct err *err);
/*
 * Sets an interrupt line of the in-kernel interrupt controllers. Any thread. 0
 * or a negative errno.
 */
int vm_irq_line(struct vm *vm, unsigned int gsi, bool level);

#endif
