// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "base/thread.h"

/* Not <sched.h>: it and the kernel's header both define struct sched_param. */
#include <linux/sched.h>
#include <linux/sched/types.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"

#define THREAD_TURN_NS (NS_PER_MS / 5)

static void thread_policy(uint32_t policy, int64_t turn_ns)
{
	struct sched_attr attr = {
		.size = sizeof(attr),
		.sched_policy = policy,
		.sched_runtime = (uint64_t)turn_ns,
	};

	syscall(SYS_sched_setattr, 0, &attr, 0);
}

void thread_is_urgent(void)
{
	thread_policy(SCHED_NORMAL, THREAD_TURN_NS);
}

void thread_is_bulk(void)
{
	thread_policy(SCHED_BATCH, 0);
}
