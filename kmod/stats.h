/* SPDX-License-Identifier: GPL-2.0-only */
/* Copyright The postern authors */
/*
 * What the module has seen and done, shown in /sys/kernel/debug/postern_intr/stats.
 */
#ifndef POSTERN_INTR_STATS_H
#define POSTERN_INTR_STATS_H

#include <linux/percpu.h>

struct stats {
	u64 faults;		/* guest page faults that went through KVM's slow path, watched */
	u64 waits;		/* times one went to sleep in userfaultfd, for any signal to end */
	u64 cuts;		/* faults, and updates of stolen time, ended because of a signal */
	u64 full;		/* faults not watched: too many at once */
	u64 strange;		/* faults that were cut and did not end in the error expected; must be 0 */
};

DECLARE_PER_CPU(struct stats, postern_intr_stats);

/* Preemption is off, as in every probe. */
#define stats_count(field)	__this_cpu_inc(postern_intr_stats.field)

void stats_init(void);
void stats_fini(void);

#endif
