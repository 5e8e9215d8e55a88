/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What vm.c and vcpu.c share.
 */
#ifndef POSTERN_KVM_INTERNAL_H
#define POSTERN_KVM_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "kvm/irq.h"
#include "kvm/parked.h"
#include "kvm/vcpu.h"
#include "memory/gup.h"
#include "memory/eject.h"

/* What vcpu_hold gives out: see parked.h. */
struct vcpu_parked {
	struct vcpu *vcpu;
};

/* A vCPU's thread inside KVM_RUN: see poison.c. Its own, and its signal handler's. */
struct poison {
	struct kvm_run *run;
	volatile bool inside;
	void *volatile address;		/* of a page whose memory on the host has failed, and which the guest touched */
};

struct vcpu {
	struct vm *vm;
	struct vcpu_parked held;
	unsigned int index;
	int fd;
	struct kvm_run *run;
	size_t run_bytes;
	struct memory_thread *waits;
	pthread_t thread;
	bool started;			/* its thread may be sent signals; guarded by vm->lock */
	pthread_cond_t resumed;		/* it may run, or is to end */
	_Atomic pid_t tid;
	_Atomic bool want_pause;	/* written under vm->lock; read by the thread at each turn without it */
	_Atomic bool want_end;		/* likewise */
	/* Guarded by vm->lock. */
	bool parked;			/* set by its thread, cleared by who lets it run, before the thread wakes */
	unsigned int holds;		/* of parked.h; while there are any, it stays parked */
	/* Only its own thread's, or of who has it parked. */
	bool ram_pending;		/* run->mmio is an access to RAM that waits for its page */
	bool io_pending;		/* KVM wants to be entered again to finish an instruction */
	bool dropping;			/* ... and what that asks for comes to nothing */
	struct poison poison;
	_Atomic uint64_t exits, interrupted, ejected;
};

/* A message signalled interrupt: see irq.h. */
struct vm_msi {
	bool open, irqfd;	/* set while nobody fires it */
	bool routed;		/* this and the rest: guarded by msi_lock */
	int fd;
	uint64_t address;
	uint32_t data;
};

struct vm {
	struct vm_host *host;
	struct vm_host *own_host; /* it, when nobody has given one; else NULL */
	int fd;
	struct memory *mem;
	const struct vm_exit_ops *ops;
	void *arg;
	void *arch;
	void (*arch_free)(void *arch);
	struct vcpu vcpu[VM_VCPUS_MAX];
	unsigned int vcpus;
	void *device_pages;		/* vm_device_pages */
	size_t device_pages_bytes;
	pthread_mutex_t lock;		/* guards parked of each vCPU, and changes of want_* */
	pthread_cond_t parked;		/* a vCPU has parked; CLOCK_MONOTONIC */
	struct vm_msi msi[VM_MSI_MAX];
	pthread_mutex_t msi_lock;	/* guards msi, and the order of changes of KVM's routes */
};

/* vcpu_resume, with vm->lock held. */
void vcpu_let_run(struct vcpu *vcpu);
/* Wakes a parked vCPU's thread, whoever holds it; vm->lock held. */
void vcpu_unpark(struct vcpu *vcpu);
/* Does an access to RAM that run->mmio asks for; 0 or gup's error. */
int vcpu_ram(struct vcpu *vcpu, unsigned int flags, const struct gup_opts *opts);
/*
 * Takes SIGBUS for the process, unless it has: what it did before it still does
 * for all but vCPUs. Main thread.
 */
int poison_listen(struct err *err);
/* On the vCPU's thread, first of all. */
void poison_bind(struct poison *poison, struct kvm_run *run);
/* Around KVM_RUN. poison_leave: the address of a poisoned page that the guest touched, or NULL. */
void poison_enter(struct poison *poison);
void *poison_leave(struct poison *poison);
int vcpu_init(struct vcpu *vcpu, struct vm *vm, unsigned int index, struct err *err);
/* Starts the thread, parked. */
int vcpu_start(struct vcpu *vcpu, struct err *err);
/* One attempt to bring the vCPU out of wherever it is; repeated by who waits for it to park. */
void vcpu_kick(struct vcpu *vcpu);
void vcpu_fini(struct vcpu *vcpu);

#endif
