// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "base/thread.h"

#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"

/* The least that Linux takes. */
#define THREAD_TURN_NS (NS_PER_MS / 10)

/*
 * struct sched_attr of Linux' include/uapi/linux/sched/types.h, which cannot be
 * included beside <sched.h>.
 */
struct turn {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime_ns, deadline_ns, period_ns;
	uint32_t util_min, util_max;
};

int thread_start(pthread_t *thread, void *(*main)(void *arg), void *arg)
{
	static const int own[] = { SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP };
	sigset_t all, old;
	size_t i;
	int r;

	sigfillset(&all);
	/*
	 * What a thread does to itself: blocked, the process would die of it
	 * without a handler's word, or KVM_RUN try for ever.
	 */
	for (i = 0; i < sizeof(own) / sizeof(own[0]); i++)
		sigdelset(&all, own[i]);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(thread, NULL, main, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -r;
}

static void thread_policy(uint32_t policy)
{
	struct turn turn = { .size = sizeof(turn) };

	/* The nice value stays what it is. */
	if (syscall(SYS_sched_getattr, 0, &turn, sizeof(turn), 0) < 0)
		return;
	turn.policy = policy;
	turn.runtime_ns = (uint64_t)THREAD_TURN_NS;
	syscall(SYS_sched_setattr, 0, &turn, 0);
}

void thread_is_urgent(void)
{
	thread_policy(SCHED_OTHER);
}

void thread_is_bulk(void)
{
	thread_policy(SCHED_BATCH);
}

void thread_give_way(void)
{
	sched_yield();
}
