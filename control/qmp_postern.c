// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// QMP commands that QEMU does not have: who waits for which page, which pages
// are there, and taking a guest back from a dead destination.
#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/hist.h"
#include "base/log.h"
#include "control/qmp_internal.h"

#define WAITERS_MAX (VM_VCPUS_MAX + 32u)
#define MAP_CELLS_MAX 4096u
#define MAP_LOOKS_MAX (UINT64_C(1) << 18)	/* pages that one map looks at: about a millisecond */

static const char *page_state_name(enum page_state state)
{
	switch (state) {
	case PAGE_MISSING:
		return "missing";
	case PAGE_REQUESTED:
		return "requested";
	case PAGE_PRESENT:
		return "present";
	case PAGE_LOST:
		break;
	}
	return "lost";
}

static json_t *waiter_to_json(struct memory *mem, const struct memory_waiter *waiter, int64_t now)
{
	json_t *out = json_pack("{s:o,s:o,s:I,s:s}", "name", qmp_string(waiter->name), "gpa",
				qmp_uint(waiter->gpa.v), "since-us",
				(json_int_t)((now - waiter->since_ns) / NS_PER_US), "page",
				page_state_name(memory_page_state(mem, gpa_to_gfn(waiter->gpa))));

	if (waiter->cpu >= 0)
		json_object_set_new(out, "cpu-index", json_integer(waiter->cpu));
	return out;
}

static json_t *pages_to_json(const struct memory_stats *stats)
{
	uint64_t away = stats->requested + stats->lost;

	return json_pack("{s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "total", qmp_uint(stats->pages),
			 "present", qmp_uint(stats->pages - stats->missing), "missing",
			 qmp_uint(stats->missing > away ? stats->missing - away : 0), "requested",
			 qmp_uint(stats->requested), "lost", qmp_uint(stats->lost), "split-huge",
			 qmp_uint(stats->split_huge),
			 /* Its name in 0.1, for one release more. */
			 "broken-huge", qmp_uint(stats->split_huge));
}

static json_t *counters_to_json(const struct memory_stats *stats)
{
	return json_pack("{s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "faults",
			 qmp_uint(stats->faults), "requests", qmp_uint(stats->requests), "filled",
			 qmp_uint(stats->filled), "duplicates", qmp_uint(stats->duplicates),
			 "kicks", qmp_uint(stats->kicks), "ejects", qmp_uint(stats->ejects),
			 "gup-sleeps", qmp_uint(stats->gup_sleeps), "direct-accesses",
			 qmp_uint(stats->direct_accesses), "discarded", qmp_uint(stats->discarded),
			 /* Its name in 0.1, for one release more. */
			 "stray-faults", qmp_uint(stats->direct_accesses));
}

static json_t *latency_to_json(struct hist *hist)
{
	json_t *buckets = json_array();
	unsigned int i;
	uint64_t n;

	for (i = 0; i < HIST_BUCKETS; i++) {
		n = hist_read(&hist->bucket[i]);
		if (n)
			json_array_append_new(
				buckets, json_pack("{s:f,s:o}", "le-us",
						   (double)(UINT64_C(2) << i) / (double)NS_PER_US,
						   "count", qmp_uint(n)));
	}
	return json_pack("{s:o,s:o,s:o,s:o,s:o}", "count",
			 qmp_uint(hist_read(&hist->count)), "p50-us",
			 qmp_uint(hist_quantile(hist, 0.5) / NS_PER_US), "p99-us",
			 qmp_uint(hist_quantile(hist, 0.99) / NS_PER_US), "max-us",
			 qmp_uint(hist_read(&hist->max_ns) / NS_PER_US),
			 "histogram", buckets);
}

static int cmd_faults(struct qmp_call *call, struct err *err)
{
	struct memory *mem = machine_memory(call->qmp->machine);
	struct memory_waiter waiters[WAITERS_MAX];
	json_t *vcpus = json_array(), *others = json_array();
	unsigned int i, n = memory_waiters(mem, waiters, WAITERS_MAX);
	int64_t now = clock_now_ns();
	struct memory_stats stats;

	(void)err;
	for (i = 0; i < n; i++)
		json_array_append_new(waiters[i].cpu >= 0 ? vcpus : others,
				      waiter_to_json(mem, &waiters[i], now));
	memory_stats(mem, &stats);
	call->result =
		json_pack("{s:o,s:o,s:o,s:o,s:o,s:s,s:o*}", "vcpus", vcpus, "others", others,
			  "pages", pages_to_json(&stats), "counters", counters_to_json(&stats),
			  "latency", latency_to_json(memory_latency(mem)), "way-out",
			  memory_way_out(mem) == WAY_OUT_EJECT ? "eject" : "kernel", "source",
			  qmp_source(call->qmp));
	return 0;
}

/* How many pages of a part of guest memory were looked at, and what they are. */
struct map_cell {
	unsigned int looked, state[4];	/* by enum page_state */
};

static void map_fill(const struct memory *mem, struct map_cell *cells, uint64_t ncells,
		     uint64_t every)
{
	unsigned int i, n;
	const struct memory_region *region = memory_regions(mem, &n);
	uint64_t pages = memory_pages(mem), before = 0, page;
	struct map_cell *cell;

	for (i = 0; i < n; before += region[i++].pages)
		for (page = (every - before % every) % every; page < region[i].pages;
		     page += every) {
			cell = &cells[(before + page) * ncells / pages];
			cell->looked++;
			cell->state[memory_page_state(mem, (gfn_t){ region[i].first.v + page })]++;
		}
}

static int cmd_map(struct qmp_call *call, struct err *err)
{
	const struct memory *mem = machine_memory(call->qmp->machine);
	uint64_t pages = memory_pages(mem), every = (pages + MAP_LOOKS_MAX - 1) / MAP_LOOKS_MAX, i;
	uint64_t ncells = qmp_arg_uint(call, "cells", 64);
	json_t *looked, *present, *requested, *lost;
	struct map_cell *cells;

	if (ncells < 1 || ncells > MAP_CELLS_MAX)
		return err_set(err, -EINVAL,
			       "Parameter 'cells' expects an integer in the range of 1 to %u",
			       MAP_CELLS_MAX);
	cells = calloc(ncells, sizeof(*cells));
	if (!cells)
		return err_set(err, -ENOMEM, "no memory for a map of %u cells",
			       (unsigned int)ncells);
	map_fill(mem, cells, ncells, every);
	looked = json_array();
	present = json_array();
	requested = json_array();
	lost = json_array();
	for (i = 0; i < ncells; i++) {
		json_array_append_new(looked, qmp_uint(cells[i].looked));
		json_array_append_new(present, qmp_uint(cells[i].state[PAGE_PRESENT]));
		json_array_append_new(requested, qmp_uint(cells[i].state[PAGE_REQUESTED]));
		json_array_append_new(lost, qmp_uint(cells[i].state[PAGE_LOST]));
	}
	free(cells);
	call->result = json_pack("{s:o,s:o,s:o,s:o,s:o,s:o}", "pages", qmp_uint(pages), "every",
				 qmp_uint(every), "looked", looked, "present", present, "requested",
				 requested, "lost", lost);
	return 0;
}

/*
 * After switchover only one who knows that the destination is dead may let the
 * guest run here again: it goes on from the moment of the switchover, and what
 * the destination did since is lost.
 */
static int cmd_reclaim(struct qmp_call *call, struct err *err)
{
	if (!qmp_arg_bool(call, "destination-is-dead"))
		return err_set(
			err, -EINVAL,
			"the guest may run at the destination: 'destination-is-dead': true is "
			"needed, and has to be so");
	return migration_reclaim(call->qmp->migration, err);
}

/* Only one who knows that the server has dropped what it had of old connections may say so. */
static int cmd_disk_fenced(struct qmp_call *call, struct err *err)
{
	const char *device = qmp_arg_string(call, "device");

	if (machine_disk_fenced(call->qmp->machine, device) < 0)
		return err_set(err, -ENODEV, "Device '%s' not found", device);
	return 0;
}

static const struct qmp_arg map_args[] = { { "cells", QMP_UINT, true }, { 0 } };
static const struct qmp_arg fenced_args[] = { { "device", QMP_STRING, false }, { 0 } };
static const struct qmp_arg reclaim_args[] = { { "destination-is-dead", QMP_BOOL, false }, { 0 } };

const struct qmp_command qmp_postern_commands[] = {
	{ "query-postern-faults", cmd_faults, NULL, false },
	{ "query-postern-map", cmd_map, map_args, false },
	{ "postern-disk-fenced", cmd_disk_fenced, fenced_args, false },
	{ "postern-reclaim", cmd_reclaim, reclaim_args, false },
	{ 0 },
};
