/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A vCPU and its thread.
 *
 *   PARKED --resume--> RUNNING --asked to pause--> PARKED --end--> ENDED
 *
 * The thread enters KVM_RUN, handles the exit, and parks at the top of its loop when it was asked to. Before it
 * parks it completes an instruction whose I/O is pending (KVM_RUN with immediate_exit), so that a parked vCPU's
 * state is whole but for an access to RAM whose page is missing (vcpu_settle). While it is parked any one thread may use its file descriptor.
 */
#ifndef POSTERN_KVM_VCPU_H
#define POSTERN_KVM_VCPU_H

#include <linux/kvm.h>
#include <sys/types.h>

#include "base/err.h"
#include "kvm/vm.h"

unsigned int vcpu_index(const struct vcpu *vcpu);
int vcpu_fd(const struct vcpu *vcpu);
struct vm *vcpu_vm(const struct vcpu *vcpu);
/* The shared kvm_run page; stable only while the vCPU is parked. */
struct kvm_run *vcpu_run(const struct vcpu *vcpu);
/* Thread id of its thread, for query-cpus-fast and tests. */
pid_t vcpu_tid(const struct vcpu *vcpu);
bool vcpu_is_parked(const struct vcpu *vcpu);

/* Lets this one run; the others stay as they are (a debugger's step). */
void vcpu_resume(struct vcpu *vcpu);

/*
 * An emulated instruction may have parked in the middle: half of it is in KVM, and the access to RAM that it waits for is ours. Whoever sets
 * registers, or takes the state, calls this first, with all vCPUs parked; afterwards KVM has finished the instruction. 1: only now, so
 * registers have changed; 0: there was none. drop: nothing is written to RAM or devices, and what it reads is zero, for who overwrites all
 * of the state. Otherwise -EBUSY when the page is still missing: the instruction waits on.
 */
int vcpu_settle(struct vcpu *vcpu, bool drop, struct err *err);
/*
 * The same for who is about to write registers that it has read: what is half done would be finished on the new ones. 0: they may be
 * written; -EAGAIN: an instruction has been finished just now, so what was read is older; or vcpu_settle's error.
 */
int vcpu_settle_to_write(struct vcpu *vcpu, struct err *err);

/* ioctl on the vCPU's descriptor; returns its result, or a negative errno with err saying `what` failed on which vCPU. */
int vcpu_ioctl(struct vcpu *vcpu, unsigned long request, void *arg, const char *what,
	       struct err *err);

/* Counters since creation. */
struct vcpu_stats {
	uint64_t exits;
	uint64_t interrupted;	/* KVM_RUN returned -EINTR */
	uint64_t ejected;	/* KVM_RUN returned -EFAULT because of an eject */
};
void vcpu_stats(const struct vcpu *vcpu, struct vcpu_stats *stats);

#endif
