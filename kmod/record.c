// SPDX-License-Identifier: GPL-2.0-only
// Copyright The postern authors
/*
 * A table, open to all, in which a thread may have its record in any of the
 * WINDOW places from its hash on. Taking one is a compare and exchange of a
 * free place's task pointer; from then on the place is this thread's until it
 * stores NULL. A thread finds its own record whatever others do meanwhile,
 * since nobody else stores its pointer, or removes it.
 *
 * A thread that an oops ends inside of a fault leaves its record behind. The
 * place is lost, and does no harm: a new task at the same address was born
 * later.
 */
#include <linux/hash.h>
#include <linux/kprobes.h>
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/slab.h>

#include "record.h"

#define WINDOW	16
#define SPARE	2	/* places for each thread that the table is meant for, so that windows do not fill up */

static struct record *table;
static unsigned int table_bits, table_size;

int record_init(unsigned int threads)
{
	table_bits = order_base_2(threads * SPARE);
	table_size = (1U << table_bits) + WINDOW - 1;
	table = kvcalloc(table_size, sizeof(*table), GFP_KERNEL);
	return table ? (int)table_size : -ENOMEM;
}

void record_fini(void)
{
	kvfree(table);
}

static inline struct record *window_of(struct task_struct *task)
{
	return table + hash_ptr(task, table_bits);
}

notrace struct record *record_find(void)
{
	struct record *window = window_of(current);
	int i;

	for (i = 0; i < WINDOW; i++)
		if (READ_ONCE(window[i].task) == current && window[i].born == current->start_time)
			return &window[i];
	return NULL;
}
NOKPROBE_SYMBOL(record_find);

notrace struct record *record_take(void)
{
	struct record *window = window_of(current);
	int i;

	for (i = 0; i < WINDOW; i++) {
		struct record *record = &window[i];

		if (READ_ONCE(record->task) || cmpxchg(&record->task, NULL, current))
			continue;
		record->born = current->start_time;
		record->faultin = false;
		record->own = false;
		WRITE_ONCE(record->cut, false);
		return record;
	}
	return NULL;
}
NOKPROBE_SYMBOL(record_take);

notrace void record_release(struct record *record)
{
	WRITE_ONCE(record->cut, false);
	smp_store_release(&record->task, NULL);	/* all stores before: the next owner's come after them */
}
NOKPROBE_SYMBOL(record_release);

bool record_any_cut(void)
{
	unsigned int i;

	for (i = 0; i < table_size; i++)
		if (READ_ONCE(table[i].task) && READ_ONCE(table[i].cut))
			return true;
	return false;
}
