// SPDX-License-Identifier: GPL-2.0-only
// Copyright The postern authors
/*
 * arm64: before it enters a guest that has been told of stolen time, and
 * whenever its thread has been away from the processor, KVM adds to a counter
 * in guest memory, by get_user() and put_user(). When that page is missing the
 * thread waits outside of any guest page fault. The kernel has it sleep
 * interruptibly, but tries again for all signals but SIGKILL: with one pending
 * it spins.
 *
 * So the thread has a record during this, marked in another way, by which
 * wait.c refuses the wait that a signal has ended. get_user() returns -EFAULT,
 * the function returns without having changed anything, and the next update,
 * which is due when KVM_RUN is called next, counts from where the last one left
 * off. What the guest does before, should the signal have gone to another
 * thread, it does with a counter that is a little old. KVM then comes to its
 * own look for signals. There is no result to change.
 *
 * Nothing of the kind is done on x86: see README.md.
 */
#include <linux/errno.h>
#include <linux/kprobes.h>
#include <linux/ptrace.h>

#include "kernel.h"
#include "record.h"
#include "stats.h"
#include "steal.h"

static int notrace steal_entry(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	struct record **mine = (struct record **)instance->data;

	*mine = record_take();
	if (unlikely(!*mine)) {
		stats_count(full);
		pr_warn_once(
			"too many updates of stolen time at once; some are not watched. Load with threads=N\n");
		return 1;
	}
	(*mine)->own = true;
	return 0;
}
NOKPROBE_SYMBOL(steal_entry);

static int notrace steal_return(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	struct record *record = *(struct record **)instance->data;

	if (record->cut)
		stats_count(cuts);
	record_release(record);
	return 0;
}
NOKPROBE_SYMBOL(steal_return);

static struct kretprobe probe = {
	.kp.symbol_name = STEAL_NAME,
	.entry_handler = steal_entry,
	.handler = steal_return,
	.data_size = sizeof(struct record *),
};

static bool watched;

void steal_start(unsigned int records)
{
	int error;

	if (!STEAL_NAME)
		return;
	probe.maxactive = records + num_possible_cpus();	/* records run out first, as in fault.c */
	error = register_kretprobe(&probe);
	watched = !error;
	if (error)
		pr_warn("no probe on KVM's updates of stolen time, which wait as without: %d\n",
			error);
	else
		pr_info("probing %pS\n", probe.kp.addr);
}

void steal_stop(void)
{
	if (watched)
		unregister_kretprobe(&probe);	/* waits for handlers that run */
}

unsigned long steal_missed(void)
{
	return probe.nmissed + probe.kp.nmissed;
}
