// SPDX-License-Identifier: GPL-2.0-only
// Copyright The postern authors
/*
 * postern_intr: KVM guest page faults that wait for a userfaultfd page end on
 * any signal, on kernels whose KVM lets only SIGKILL end them (x86 before Linux
 * 6.2; arm64). KVM_RUN then returns -EINTR with KVM_EXIT_INTR, as it does when
 * a signal comes while the guest runs, and the access is retried at the next
 * KVM_RUN.
 *
 * fault.c knows when a thread is in a guest page fault, steal.c (arm64) when
 * KVM writes stolen time, record.c remembers it, wait.c ends the waits, stats.c
 * counts, trial.c tries beforehand, kernel.h holds what kernels differ in.
 * Nothing is patched: three probes, by the kernel's own interface.
 *
 * Order. Loading: records, then faults and stolen time, then waits, so that a
 * wait is cut only where its fault's end is watched. Unloading: the reverse,
 * and between waits and faults a pause until each fault that was cut has been
 * answered; else the error that it travels as would reach user space. Threads
 * that sleep in a fault for a page may do so during all of this: they have the
 * kernel's code under them, and hooks of its own, not ours.
 */
#include <linux/delay.h>
#include <linux/jiffies.h>
#include <linux/module.h>

#include "fault.h"
#include "kernel.h"
#include "record.h"
#include "stats.h"
#include "steal.h"
#include "trial.h"
#include "wait.h"

#define THREADS_LEAST	1024
#define THREADS_EACH	64	/* vCPUs that wait at a time, for each CPU of the host */
#define THREADS_MOST	65536
#define ANSWER_SECONDS	30

static unsigned int threads;
module_param(threads, uint, 0444);
MODULE_PARM_DESC(threads, "guest page faults watched at a time (0: by the number of CPUs)");

static int __init postern_intr_init(void)
{
	int places, error;

	if (KERNEL_DOES_IT) {
		pr_err("not loaded: this kernel's KVM ends such waits on signals by itself (Linux 6.2); the module is not needed\n");
		return -EOPNOTSUPP;
	}
	if (!threads)
		threads = max_t(unsigned int, THREADS_LEAST, THREADS_EACH * num_possible_cpus());
	threads = clamp_t(unsigned int, threads, 16, THREADS_MOST);
	error = trial_run();
	if (error)
		return error;
	places = record_init(threads);
	if (places < 0)
		return places;
	error = fault_start(places);
	if (error)
		goto err_record;
	steal_start(places);
	error = wait_start();
	if (error)
		goto err_steal;
	stats_init();
	pr_info("guest page faults that wait for userfaultfd end on signals now; at most %u at a time\n",
		threads);
	return 0;

err_steal:
	steal_stop();
	fault_stop();
err_record:
	record_fini();
	return error;
}

/* From being cut to its end a fault waits for nothing but the memory map's lock. */
static void wait_answered(void)
{
	unsigned long end = jiffies + ANSWER_SECONDS * HZ;

	while (record_any_cut()) {
		if (time_after(jiffies, end)) {
			pr_warn("a fault that was cut has not ended in %d s: its thread died in an oops, it seems\n",
				ANSWER_SECONDS);
			return;
		}
		msleep(1);
	}
}

static void __exit postern_intr_exit(void)
{
	stats_fini();
	wait_stop();
	wait_answered();
	steal_stop();
	fault_stop();
	record_fini();
	pr_info("guest page faults wait as this kernel has them wait\n");
}

module_init(postern_intr_init);
module_exit(postern_intr_exit);
MODULE_LICENSE("GPL");
MODULE_AUTHOR("The postern authors");
MODULE_DESCRIPTION(
	"KVM: guest page faults that wait for userfaultfd end on signals, on kernels without it");
MODULE_VERSION("1.0");
