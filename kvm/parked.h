/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A vCPU that is parked and stays so: the only thing that KVM can be asked
 * about a vCPU with.
 *
 * KVM serves a vCPU's ioctls one at a time, and KVM_RUN is one of them: who
 * asks about a vCPU that runs, waits until it comes out, deaf to every signal
 * but SIGKILL. So no thread may ask but the vCPU's own, unless the vCPU is
 * parked *and* nobody can let it run meanwhile. The type says so. There is no
 * way to a vCPU's descriptor, to its kvm_run page or to a function of arch/
 * that asks about it but by a struct vcpu_parked, and only vcpu_hold gives one
 * out. While it is held, a resume is put off until vcpu_release; and
 * parked_ioctl looks once more before it asks, so that even a handle that was
 * kept for too long gets -EBUSY and not a wait.
 *
 * Threads: any; a handle is used by one thread at a time.
 */
#ifndef POSTERN_KVM_PARKED_H
#define POSTERN_KVM_PARKED_H

#include <linux/kvm.h>
#include <stdbool.h>

#include "base/err.h"
#include "kvm/vcpu.h"

struct vcpu_parked;

/*
 * Keeps a parked vCPU parked until vcpu_release, once for each call of this.
 * NULL, with err (which may be NULL) set to -EBUSY: it runs, or has been told
 * to, whether or not its thread has woken up; nothing is to be released then.
 * Never waits.
 */
struct vcpu_parked *vcpu_hold(struct vcpu *vcpu, struct err *err);
/* The last one lets it run, where it has been resumed meanwhile. */
void vcpu_release(struct vcpu_parked *parked);

unsigned int parked_index(const struct vcpu_parked *parked);
struct vm *parked_vm(const struct vcpu_parked *parked);
/* The shared kvm_run page. */
struct kvm_run *parked_run(const struct vcpu_parked *parked);

/*
 * ioctl on the vCPU's descriptor; returns its result, or a negative errno with
 * err (which may be NULL) saying `what` failed on which vCPU. -EBUSY: it is
 * not parked, KVM was not asked (see parked_complete_io).
 */
int parked_ioctl(struct vcpu_parked *parked, unsigned long request, void *arg, const char *what,
		 struct err *err);

/*
 * An emulated instruction may have parked in the middle: half of it is in KVM,
 * and the access to RAM that it waits for is ours. Whoever sets registers, or
 * takes the state, calls this first, with all vCPUs parked; afterwards KVM has
 * finished the instruction. 1: only now, so registers have changed; 0: there
 * was none. drop: nothing is written to RAM or devices, and what it reads is
 * zero, for who overwrites all of the state. Otherwise -EBUSY when the page is
 * still missing: the instruction waits on. -ETIMEDOUT: the vCPU did not come
 * back, and what is asked about it is answered with -EBUSY until it does.
 */
int parked_complete_io(struct vcpu_parked *parked, bool drop, struct err *err);
/*
 * The same for who is about to write registers that it has read: what is half
 * done would be finished on the new ones. 0: they may be written; -EAGAIN: an
 * instruction has been finished just now, so what was read is older; or
 * parked_complete_io's error.
 */
int parked_complete_io_to_write(struct vcpu_parked *parked, struct err *err);

#endif
