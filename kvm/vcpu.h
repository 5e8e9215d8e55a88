/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A vCPU and its thread.
 *
 *   PARKED --resume--> RUNNING --asked to pause--> PARKED --end--> ENDED
 *
 * The thread enters KVM_RUN, handles the exit, and parks at the top of its loop
 * when it was asked to. Before it parks it completes an instruction whose I/O
 * is pending (KVM_RUN with immediate_exit), so that a parked vCPU's state is
 * whole but for an access to RAM whose page is missing (parked_complete_io).
 *
 * The thread says when it has parked; that it no longer is, says whoever
 * resumes it, before the thread has woken up. Only who has it held, parked, can
 * ask KVM anything about it: parked.h.
 */
#ifndef POSTERN_KVM_VCPU_H
#define POSTERN_KVM_VCPU_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"
#include "kvm/vm.h"

unsigned int vcpu_index(const struct vcpu *vcpu);
struct vm *vcpu_vm(const struct vcpu *vcpu);
/* Thread id of its thread, for query-cpus-fast and tests. */
pid_t vcpu_tid(const struct vcpu *vcpu);
/*
 * It is parked, and has not been told to run. For people, and for the thread
 * that alone resumes; who wants to do something with it calls vcpu_hold.
 */
bool vcpu_is_parked(const struct vcpu *vcpu);

/*
 * Lets this one run; the others stay as they are (a debugger's step). From here
 * on it is not parked, unless somebody holds it: then from vcpu_release on.
 */
void vcpu_resume(struct vcpu *vcpu);

/* Counters since creation. */
struct vcpu_stats {
	uint64_t exits;
	uint64_t interrupted;	/* KVM_RUN returned -EINTR */
	uint64_t ejected;	/* KVM_RUN returned -EFAULT because of an eject */
};
void vcpu_stats(const struct vcpu *vcpu, struct vcpu_stats *stats);

#endif
