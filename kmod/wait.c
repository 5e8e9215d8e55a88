// SPDX-License-Identifier: GPL-2.0-only
// Copyright The postern authors
/*
 * A probe on handle_userfault(), in which a thread that touches a missing page
 * sleeps. For a thread that KVM has sent to look for a guest's page, or that is
 * KVM's in an access of its own (steal.c), and that may sleep here, it does one
 * of two things:
 *
 *  - no signal is pending: it adds FAULT_FLAG_INTERRUPTIBLE to the fault's
 *    flags, so that the thread sleeps interruptibly. That is what later kernels
 *    do for FOLL_INTERRUPTIBLE, and all do for accesses. When a signal wakes
 *    it, get_user_pages, or the kernel's page fault handler, looks at fatal
 *    signals only and tries again, which comes here again, and now
 *  - a signal is pending: this one call is made to a function that returns
 *    VM_FAULT_SIGBUS, an answer of handle_userfault()'s own that leaves the
 *    memory map's lock held, as every error does. get_user_pages, or get_user,
 *    gives KVM -EFAULT, and fault.c makes a retry of it.
 *
 * Between the two nothing is lost: a signal that comes after the look and
 * before the sleep keeps an interruptible sleep from beginning. Once cut,
 * whatever else KVM tries for the same fault (the look for poisoned pages,
 * which may not retry) is cut too.
 *
 * Calling another function is done by pointing the instruction pointer at it,
 * at the first instruction of a function of the same type: stack and registers
 * are as the caller left them. That is what live patching does. An ftrace-based
 * probe ignores a changed stack pointer, so to return from here would not do.
 */
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/ptrace.h>
#include <linux/rcupdate.h>
#include <linux/sched/signal.h>

#include "kernel.h"
#include "record.h"
#include "stats.h"
#include "wait.h"

/* Called instead of handle_userfault(). Threads may be preempted in it: see wait_stop(). */
static noinline notrace vm_fault_t wait_refused(struct vm_fault *vmf, unsigned long reason)
{
	return VM_FAULT_SIGBUS;
}
NOKPROBE_SYMBOL(wait_refused);

static int notrace wait_pre(struct kprobe *probe, struct pt_regs *regs)
{
	struct vm_fault *vmf = (struct vm_fault *)regs_get_kernel_argument(regs, 0);
	struct record *record = record_find();

	if (!record || !(record->faultin || record->own))
		return 0;
	if (!record->cut) {
		/*
		 * Who may not wait does not. Kernel-mode accesses may be
		 * interrupted always, which get_user_pages may not be here: one
		 * is told from the other by that, and either is cut only where
		 * it is expected.
		 */
		const unsigned int expected =
			FAULT_FLAG_ALLOW_RETRY | (record->own ? FAULT_FLAG_INTERRUPTIBLE : 0);

		if ((vmf->flags & (FAULT_FLAG_ALLOW_RETRY | FAULT_FLAG_RETRY_NOWAIT |
				   FAULT_FLAG_USER | FAULT_FLAG_INTERRUPTIBLE)) != expected)
			return 0;
		if (!signal_pending(current)) {
			vmf->flags |= FAULT_FLAG_INTERRUPTIBLE;
			stats_count(waits);
			return 0;
		}
		WRITE_ONCE(record->cut, true);
	}
	instruction_pointer_set(regs, (unsigned long)wait_refused);
	return 1;
}
NOKPROBE_SYMBOL(wait_pre);

/*
 * There has to be one: it keeps the probe from becoming a jump, and ftrace from
 * sharing the function with live patches. Either would lose the changed
 * instruction pointer.
 */
static void notrace wait_post(struct kprobe *probe, struct pt_regs *regs, unsigned long flags)
{
}
NOKPROBE_SYMBOL(wait_post);

static struct kprobe wait_probe = {
	.symbol_name = "handle_userfault",
	.pre_handler = wait_pre,
	.post_handler = wait_post,
};

int wait_start(void)
{
	int error = register_kprobe(&wait_probe);

	if (error)
		pr_err("not loaded: no probe on handle_userfault (is it live patched?): %d\n",
		       error);
	else
		pr_info("probing %pS\n", wait_probe.addr);
	return error;
}

void wait_stop(void)
{
	unregister_kprobe(&wait_probe);	/* waits for handlers that run */
	/*
	 * Every task has since been seen outside of where it could have been
	 * preempted: none is in wait_refused() any more. One that sleeps in
	 * handle_userfault() itself is not waited for.
	 */
	synchronize_rcu_tasks();
}

unsigned long wait_missed(void)
{
	return wait_probe.nmissed;
}
