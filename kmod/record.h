/* SPDX-License-Identifier: GPL-2.0-only */
/* Copyright The postern authors */
/*
 * One record for each thread that handles a guest page fault, or writes stolen
 * time, at this moment. KVM does one after the other.
 *
 * A record belongs to the thread that took it: nobody else writes to it, or
 * reads more of it than whether it is taken and cut. So there is no lock, and
 * none of this can be interrupted by itself: guest page faults and userfaultfd
 * waits sleep, no interrupt handler has any.
 */
#ifndef POSTERN_INTR_RECORD_H
#define POSTERN_INTR_RECORD_H

#include <linux/sched.h>
#include <linux/types.h>

struct record {
	struct task_struct *task;	/* NULL: free */
	u64 born;			/* the task's start_time: a dead task's address may come back */
	bool faultin;			/* KVM is looking for the page of the fault, and can take no for an answer */
	bool own;			/* KVM accesses guest memory on its own account, and can take no for an answer */
	bool cut;			/* it was told that there is none, since a signal is pending */
};

/* A table for so many threads at once. How many places it has, which is more, or -ENOMEM. */
int record_init(unsigned int threads);

/* No probe may be left. */
void record_fini(void);

/* A record for this thread, or NULL when there are too many. It has none yet. */
struct record *record_take(void);

/* This thread's record or NULL. */
struct record *record_find(void);

void record_release(struct record *record);

/* Is any thread between being told that there is no page and the return from its fault? */
bool record_any_cut(void);

#endif
