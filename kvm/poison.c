// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Host memory that has failed. The kernel poisons a page whose memory has an
// error that cannot be corrected: it is taken away from whoever has it, and who
// touches it gets SIGBUS, with the code BUS_MCEERR_AR and the address
// (sigaction(2)). When a guest touches such a page, KVM sends that signal to
// the vCPU's thread and tries again; a thread that has SIGBUS blocked thus
// tries for ever. So vCPU threads have it open. The handler takes those that
// come while the thread is inside KVM_RUN; the thread then knows the page when
// it is out. All others are what they would be without it: they go to the
// handler that was there before.
#include <errno.h>
#include <signal.h>
#include <stddef.h>

#include "kvm/internal.h"

/*
 * A signal handler gets no context: this thread's vCPU, and what SIGBUS did
 * before, once for the process.
 */
static _Thread_local struct poison *poison_here;
static struct sigaction poison_before;

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	struct poison *here = poison_here;

	(void)context;
	if (info->si_code == BUS_MCEERR_AO)
		return;		/* nobody has touched it yet */
	if (here && here->inside && info->si_code == BUS_MCEERR_AR) {
		here->address = info->si_addr;
		__atomic_store_n(&here->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
		return;
	}
	/*
	 * The access is made again when this returns, and the signal comes
	 * again. One that was sent is sent again.
	 */
	sigaction(sig, &poison_before, NULL);
	if (info->si_code <= 0)
		raise(sig);
}

int poison_listen(struct err *err)
{
	struct sigaction action = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO }, now;

	if (sigaction(SIGBUS, NULL, &now) < 0)
		return err_errno(err, -errno, "SIGBUS's handler");
	if (now.sa_flags & SA_SIGINFO && now.sa_sigaction == on_sigbus)
		return 0;
	poison_before = now;
	if (sigaction(SIGBUS, &action, NULL) < 0)
		return err_errno(err, -errno, "SIGBUS's handler");
	return 0;
}

void poison_bind(struct poison *poison, struct kvm_run *run)
{
	sigset_t set;

	*poison = (struct poison){ .run = run };
	poison_here = poison;
	sigemptyset(&set);
	sigaddset(&set, SIGBUS);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

void poison_enter(struct poison *poison)
{
	poison->address = NULL;
	poison->inside = true;
}

void *poison_leave(struct poison *poison)
{
	poison->inside = false;
	return poison->address;
}
