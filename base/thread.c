// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "base/thread.h"

/* Not <sched.h>: it and the kernel's header both define struct sched_param. */
#include <linux/sched.h>
#include <linux/sched/types.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"

/* The least that Linux takes. */
#define THREAD_TURN_NS (NS_PER_MS / 10)

static void thread_policy(uint32_t policy)
{
	struct sched_attr attr = {
		.size = sizeof(attr),
		.sched_policy = policy,
		.sched_runtime = (uint64_t)THREAD_TURN_NS,
	};

	syscall(SYS_sched_setattr, 0, &attr, 0);
}

void thread_is_urgent(void)
{
	thread_policy(SCHED_NORMAL);
}

void thread_is_bulk(void)
{
	thread_policy(SCHED_BATCH);
}
