// SPDX-License-Identifier: GPL-2.0-only
// Copyright The postern authors
/*
 * Two return probes. The outer one is on the function by which KVM handles a
 * guest page fault: it gives the thread a record, and when the fault was cut
 * turns the error that this has become into "resume the guest". That is all
 * that KVM needs. Before it enters the guest it looks for signals itself,
 * returns -EINTR from KVM_RUN, sets KVM_EXIT_INTR and counts a signal exit; and
 * should the signal have gone, to another thread of the process, the guest runs
 * on, faults on the same page, and waits again. No structure of KVM is read or
 * written here.
 *
 * The inner one, where there is one, marks the part in which KVM looks for the
 * host's page. It is there because the outer function may go on to emulate an
 * instruction, and emulation that is told that there is no memory tells the
 * guest. It looks at no argument and changes nothing, so what the compiler has
 * done to that static function does not matter.
 *
 * A probe that is missed leaves a thread without record, or without mark, and
 * so with the kernel's own behaviour. Nothing is ever cut whose end is not
 * seen: a thread has a record only if the outer function's return is hooked.
 */
#include <linux/errno.h>
#include <linux/kprobes.h>
#include <linux/ptrace.h>

#include "fault.h"
#include "kernel.h"
#include "record.h"
#include "stats.h"

#define RESUME_GUEST	1	/* what exit handlers return for it, on x86 and arm64 */

static int notrace fault_entry(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	struct record **mine = (struct record **)instance->data;

	*mine = record_take();
	if (unlikely(!*mine)) {
		stats_count(full);
		pr_warn_once(
			"too many guest page faults at once; some are not watched. Load with threads=N\n");
		return 1;
	}
	(*mine)->faultin = IS_ENABLED(CONFIG_ARM64);
	stats_count(faults);
	return 0;
}
NOKPROBE_SYMBOL(fault_entry);

static int notrace fault_return(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	struct record *record = *(struct record **)instance->data;

	if (record->cut) {
		if ((int)regs_return_value(regs) == -EFAULT) {
			regs_set_return_value(regs, RESUME_GUEST);
			stats_count(cuts);
		} else {
			stats_count(strange);
		}
	}
	record_release(record);
	return 0;
}
NOKPROBE_SYMBOL(fault_return);

static int notrace faultin_entry(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	struct record *record = record_find();

	if (!record)
		return 1;	/* begun before the module; or a page that came by an asynchronous page fault */
	*(struct record **)instance->data = record;
	record->faultin = true;
	return 0;
}
NOKPROBE_SYMBOL(faultin_entry);

static int notrace faultin_return(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	(*(struct record **)instance->data)->faultin = false;
	return 0;
}
NOKPROBE_SYMBOL(faultin_return);

static struct kretprobe fault_probe = {
	.kp.addr = FAULT_FUNCTION,
	.kp.symbol_name = FAULT_NAME,
	.entry_handler = fault_entry,
	.handler = fault_return,
	.data_size = sizeof(struct record *),
};

static struct kretprobe faultin_probe = {
	.entry_handler = faultin_entry,
	.handler = faultin_return,
	.data_size = sizeof(struct record *),
};

static const char *const faultin_names[] = FAULTIN_NAMES;

/* The first of the names that this kernel has. None needed: 0. */
static int faultin_start(void)
{
	const char *const *name;
	int error = 0;

	for (name = faultin_names; *name; name++) {
		faultin_probe.kp.symbol_name = *name;
		faultin_probe.kp.addr = NULL;
		faultin_probe.kp.flags = 0;
		error = register_kretprobe(&faultin_probe);
		if (!error) {
			pr_info("probing %pS\n", faultin_probe.kp.addr);
			return 0;
		}
	}
	faultin_probe.kp.addr = NULL;
	if (error)
		pr_err("not loaded: KVM's function that looks for a guest's page is not there under a known name: %d\n",
		       error);
	return error;
}

int fault_start(unsigned int records)
{
	int error;

	/*
	 * One for each record and for each CPU that is in an entry handler:
	 * records run out first, and that is seen and said.
	 */
	fault_probe.maxactive = records + num_possible_cpus();
	faultin_probe.maxactive = fault_probe.maxactive;
	error = register_kretprobe(&fault_probe);
	if (error) {
		pr_err("not loaded: no probe on KVM's page fault handler: %d\n", error);
		return error;
	}
	pr_info("probing %pS\n", fault_probe.kp.addr);
	error = faultin_start();
	if (error)
		unregister_kretprobe(&fault_probe);
	return error;
}

void fault_stop(void)
{
	/*
	 * The outer last: while there are marks there are records. Both calls
	 * wait for handlers that run.
	 */
	if (faultin_probe.kp.addr)
		unregister_kretprobe(&faultin_probe);
	unregister_kretprobe(&fault_probe);
}

unsigned long fault_missed(void)
{
	return fault_probe.nmissed + fault_probe.kp.nmissed + faultin_probe.nmissed +
	       faultin_probe.kp.nmissed;
}
