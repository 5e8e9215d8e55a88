// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// No thread of the VMM touches a page that is not there: this is the check.
// userfaultfd says which thread waits. It may be
//
//   - a vCPU's, inside KVM_RUN: what late memory is for;
//   - no thread of this process: a worker of KVM's own (async page faults),
//     another process that looks in;
//   - any other thread of this process, or a vCPU's outside KVM_RUN: a direct
//     access. It should have come through gup.
//
// Kernel threads have their number of the host's own process namespace: in a
// container one of ours might have the same, and would then be blamed for a
// worker's wait. That is a log line too many, in a build for tests an abort.
//
// A report may be read while a vCPU is on its way out of KVM_RUN, and judged
// when it is out. So each return from KVM_RUN has a number, and the fault
// thread notes the last one before it reads. A vCPU that is outside with a
// smaller or the same number was outside when the report was read, and then it
// was so when it touched the page: who has left a wait has taken its report
// back.
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "memory/internal.h"

void memory_set_direct_access(struct memory *mem, enum memory_direct_access what)
{
	atomic_store(&mem->direct_access, what);
}

uint64_t memory_returns(struct memory *mem)
{
	return atomic_load(&mem->returns);
}

/* Known threads: may this one, which waits for a page, wait there? *known: is it one? */
static bool thread_may_wait(struct memory *mem, pid_t tid, uint64_t returns, bool *known)
{
	struct memory_thread *thread;
	bool may = false;

	pthread_mutex_lock(&mem->wait_lock);
	for (thread = mem->threads; thread; thread = thread->next)
		if (atomic_load(&thread->tid) == tid)
			break;
	*known = thread;
	if (thread) {
		pthread_mutex_lock(&mem->eject_lock);
		may = thread->in_run || thread->returned_at > returns;
		pthread_mutex_unlock(&mem->eject_lock);
	}
	pthread_mutex_unlock(&mem->wait_lock);
	return may;
}

/* It waits, so it is there: the number cannot be another's by now. */
static bool thread_is_ours(pid_t tid)
{
	return tid > 0 && !syscall(SYS_tgkill, getpid(), tid, 0);
}

/* Was this one told of before? Only the fault thread calls it. */
static bool access_is_new(struct memory *mem, pid_t tid)
{
	unsigned int i;

	for (i = 0; i < MEMORY_DIRECT_NAMED_MAX && mem->direct_named[i]; i++)
		if (mem->direct_named[i] == tid)
			return false;
	if (i == MEMORY_DIRECT_NAMED_MAX)
		return false;
	mem->direct_named[i] = tid;
	return true;
}

static void thread_name(pid_t tid, char *name, size_t size)
{
	char path[64];
	size_t len;
	FILE *f;

	snprintf(name, size, "?");
	snprintf(path, sizeof(path), "/proc/self/task/%d/comm", tid);
	f = fopen(path, "re");
	if (!f)
		return;
	if (fgets(name, (int)size, f)) {
		len = strcspn(name, "\n");
		name[len] = 0;
	}
	fclose(f);
}

void memory_check_access(struct memory *mem, pid_t tid, gfn_t gfn, uint64_t returns)
{
	enum memory_direct_access what = atomic_load(&mem->direct_access);
	char name[16];
	bool known;

	if (thread_may_wait(mem, tid, returns, &known) || (!known && !thread_is_ours(tid)))
		return;
	count_add(&mem->n_direct_accesses, 1);
	if (what == MEMORY_DIRECT_ACCESS_COUNT ||
	    (!access_is_new(mem, tid) && what != MEMORY_DIRECT_ACCESS_ABORT))
		return;
	thread_name(tid, name, sizeof(name));
	log_error(
		"direct access: thread %d (%s) waits for the page at guest physical address 0x%" PRIx64
		"%s; this is a defect of "
		"postern's: the page should have been asked for with gup",
		tid, name, gfn_to_gpa(gfn).v, known ? " outside KVM_RUN" : "");
	if (what == MEMORY_DIRECT_ACCESS_ABORT)
		abort();
}
