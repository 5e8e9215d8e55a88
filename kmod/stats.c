// SPDX-License-Identifier: GPL-2.0-only
// Copyright The postern authors
/*
 * Counters of each CPU's own, added up when somebody reads them: `name value` lines.
 */
#include <linux/debugfs.h>
#include <linux/module.h>
#include <linux/seq_file.h>

#include "fault.h"
#include "stats.h"
#include "steal.h"
#include "wait.h"

DEFINE_PER_CPU(struct stats, postern_intr_stats);

static struct dentry *dir;

static int stats_show(struct seq_file *file, void *unused)
{
	struct stats sum = {};
	int cpu;

	for_each_possible_cpu(cpu) {
		const struct stats *one = per_cpu_ptr(&postern_intr_stats, cpu);

		sum.faults += one->faults;
		sum.waits += one->waits;
		sum.cuts += one->cuts;
		sum.full += one->full;
		sum.strange += one->strange;
	}
	seq_printf(file, "faults %llu\nwaits %llu\ncuts %llu\nmissed %llu\nstrange %llu\n",
		   sum.faults, sum.waits, sum.cuts,
		   sum.full + fault_missed() + steal_missed() + wait_missed(), sum.strange);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(stats);

void stats_init(void)
{
	dir = debugfs_create_dir(KBUILD_MODNAME, NULL);
	debugfs_create_file("stats", 0444, dir, NULL, &stats_fops);	/* errors are debugfs' own affair */
}

void stats_fini(void)
{
	debugfs_remove_recursive(dir);	/* waits for readers */
}
