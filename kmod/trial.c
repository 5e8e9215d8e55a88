// SPDX-License-Identifier: GPL-2.0-only
// Copyright The postern authors
/*
 * Does with a function of its own what the module does with the kernel's: has
 * another one called in its place, and its result changed. Nothing of the
 * kernel has been touched when this fails.
 */
#include <linux/errno.h>
#include <linux/kprobes.h>
#include <linux/ptrace.h>

#include "kernel.h"
#include "trial.h"

#define ASKED		1
#define REPLACED	2
#define CHANGED		3

static noinline int trial_subject(int asked)
{
	barrier();
	return asked;
}

/* By pointer, or the compiler knows what they return. */
static int (*volatile subject)(int) = trial_subject;

static noinline int trial_caller(int asked)
{
	int result = subject(asked);

	barrier();
	return result;
}

static int (*volatile caller)(int) = trial_caller;

static noinline notrace int trial_replacement(int asked)
{
	barrier();
	return REPLACED;
}

static int trial_pre(struct kprobe *probe, struct pt_regs *regs)
{
	if (regs_get_kernel_argument(regs, 0) != ASKED)
		return 0;
	instruction_pointer_set(regs, (unsigned long)trial_replacement);
	return 1;
}

static void trial_post(struct kprobe *probe, struct pt_regs *regs, unsigned long flags)
{
}

static int trial_return(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	if (regs_return_value(regs) == REPLACED)
		regs_set_return_value(regs, CHANGED);
	return 0;
}

static struct kprobe probe = {
	.addr = (kprobe_opcode_t *)trial_subject,
	.pre_handler = trial_pre,
	.post_handler = trial_post,
};

static struct kretprobe return_probe = {
	.kp.addr = (kprobe_opcode_t *)trial_caller,
	.handler = trial_return,
};

int trial_run(void)
{
	int result, error;

	error = register_kretprobe(&return_probe);
	if (error)
		goto out;
	error = register_kprobe(&probe);
	if (!error) {
		result = caller(ASKED);
		if (result != CHANGED || caller(CHANGED + 1) != CHANGED + 1) {
			pr_err("a probe cannot redirect a call here: %d instead of %d\n", result,
			       CHANGED);
			error = -EOPNOTSUPP;
		}
		unregister_kprobe(&probe);
	}
	unregister_kretprobe(&return_probe);
out:
	if (error)
		pr_err("not loaded: this kernel's probes do not do what is needed: %d\n", error);
	return error;
}
