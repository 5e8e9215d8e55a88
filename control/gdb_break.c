// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// See gdb_break.h. Two virtual addresses may be one physical address: both
// entries then hold the same covered bytes, and the instruction goes when the
// last of them does.
#include "control/gdb_break.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"

/*
 * The page has come; at most it is being taken into a huge page
 * (memory/stage.c), which takes some microseconds.
 */
#define PAGE_WAIT_NS (2 * NS_PER_MS)

/* Gets and keeps the instruction's bytes: a page that is held stays where it is. */
static int soft_hold(struct memory *mem, struct gdb_soft *soft, size_t len)
{
	struct gup_opts opts = { .deadline_ns = clock_now_ns() + PAGE_WAIT_NS };
	int r;

	memory_map_lock(mem);
	r = gup(mem, soft->gpa, len, GUP_WRITE, &opts, &soft->span);
	memory_map_unlock(mem);
	return r == -ETIMEDOUT ? -EAGAIN : r;
}

struct gdb_soft *gdb_breaks_find(struct gdb_breaks *breaks, gva_t gva)
{
	unsigned int i;

	for (i = 0; i < breaks->nsoft; i++)
		if (breaks->soft[i].gva.v == gva.v)
			return &breaks->soft[i];
	return NULL;
}

const struct gdb_soft *gdb_breaks_find_at(const struct gdb_breaks *breaks, gpa_t gpa)
{
	unsigned int i;

	for (i = 0; i < breaks->nsoft; i++)
		if (breaks->soft[i].planted && breaks->soft[i].gpa.v == gpa.v)
			return &breaks->soft[i];
	return NULL;
}

/* Another entry whose instruction is in memory at the same place. */
static struct gdb_soft *find_alias(struct gdb_breaks *breaks, const struct gdb_soft *soft)
{
	unsigned int i;

	for (i = 0; i < breaks->nsoft; i++)
		if (&breaks->soft[i] != soft && breaks->soft[i].gpa.v == soft->gpa.v &&
		    breaks->soft[i].planted)
			return &breaks->soft[i];
	return NULL;
}

static int plant(struct gdb_breaks *breaks, struct memory *mem, struct gdb_soft *soft)
{
	struct gdb_soft *alias = find_alias(breaks, soft);
	const uint8_t *insn;
	size_t len;
	int r;

	if (soft->planted)
		return 0;
	insn = arch_breakpoint(&len);
	if (alias) {
		memcpy(soft->old, alias->old, sizeof(soft->old));
		soft->planted = true;
		return 0;
	}
	r = soft_hold(mem, soft, len);
	if (r < 0)
		return r;
	memcpy(soft->old, soft->span.hva, len);
	memcpy(soft->span.hva, insn, len);
	soft->planted = true;
	return 0;
}

/* Lets go of the page, unless an alias still needs it: that one holds it from now on. */
static void soft_release(struct memory *mem, struct gdb_soft *soft, struct gdb_soft *alias)
{
	if (!soft->span.hva)
		return;
	if (alias)
		alias->span = soft->span;
	else
		gup_put(mem, &soft->span);
	soft->span = (struct gup_span){ 0 };
}

/*
 * Puts back what it covers, unless the guest has written something else there
 * or an alias still needs it.
 */
static void unplant(struct gdb_breaks *breaks, struct memory *mem, struct gdb_soft *soft)
{
	struct gdb_soft *alias = find_alias(breaks, soft);
	const uint8_t *insn;
	size_t len;

	if (!soft->planted)
		return;
	soft->planted = false;
	insn = arch_breakpoint(&len);
	if (!alias && !memcmp(soft->span.hva, insn, len))
		memcpy(soft->span.hva, soft->old, len);
	soft_release(mem, soft, alias);
}

int gdb_breaks_set(struct gdb_breaks *breaks, struct memory *mem, gva_t gva, gpa_t gpa)
{
	struct gdb_soft *soft = gdb_breaks_find(breaks, gva);
	int r;

	if (soft && soft->gpa.v == gpa.v)
		return plant(breaks, mem, soft);
	/* The address means another place now: what was set before cannot be meant any more. */
	if (soft)
		gdb_breaks_remove(breaks, mem, gva);
	if (breaks->nsoft == GDB_SOFT_MAX)
		return -ENOSPC;
	soft = &breaks->soft[breaks->nsoft];
	*soft = (struct gdb_soft){ .gva = gva, .gpa = gpa };
	r = plant(breaks, mem, soft);
	if (r == 0)
		breaks->nsoft++;
	return r;
}

int gdb_breaks_remove(struct gdb_breaks *breaks, struct memory *mem, gva_t gva)
{
	struct gdb_soft *soft = gdb_breaks_find(breaks, gva);

	if (!soft)
		return -ENOENT;
	unplant(breaks, mem, soft);
	*soft = breaks->soft[--breaks->nsoft];
	return 0;
}

void gdb_breaks_lift(struct gdb_breaks *breaks, struct memory *mem)
{
	unsigned int i;

	for (i = 0; i < breaks->nsoft; i++)
		unplant(breaks, mem, &breaks->soft[i]);
}

void gdb_breaks_plant(struct gdb_breaks *breaks, struct memory *mem)
{
	unsigned int i;

	for (i = 0; i < breaks->nsoft; i++)
		plant(breaks, mem, &breaks->soft[i]);
}

void gdb_breaks_clear(struct gdb_breaks *breaks, struct memory *mem)
{
	gdb_breaks_lift(breaks, mem);
	breaks->nsoft = 0;
	breaks->nwatch = 0;
}

/* Does [a, a + a_len) meet [b, b + b_len)? Neither wraps around more than once. */
static bool meets(uint64_t a, size_t a_len, uint64_t b, size_t b_len)
{
	return a - b < b_len || b - a < a_len;
}

void gdb_breaks_mask(const struct gdb_breaks *breaks, gpa_t gpa, uint8_t *data, size_t len)
{
	const struct gdb_soft *soft;
	const uint8_t *insn;
	size_t size, i;
	uint64_t at;

	insn = arch_breakpoint(&size);
	for (soft = breaks->soft; soft < breaks->soft + breaks->nsoft; soft++) {
		/* One of those at a place is enough: the others cover the same. */
		if (!soft->span.hva || !meets(gpa.v, len, soft->gpa.v, size))
			continue;
		for (i = 0; i < size; i++) {
			at = soft->gpa.v + i - gpa.v;
			if (at < len && data[at] == insn[i])
				data[at] = soft->old[i];
		}
	}
}

static bool is_in(const struct gdb_piece *piece, unsigned int n, uint64_t gpa)
{
	unsigned int i;

	for (i = 0; i < n; i++)
		if (gpa - piece[i].gpa.v < piece[i].len)
			return true;
	return false;
}

/* `soft` holds its place: what has been written there is what all of its addresses cover. */
static void soft_written(struct gdb_breaks *breaks, const struct gdb_soft *soft,
			 const struct gdb_piece *piece, unsigned int n)
{
	uint8_t *bytes = soft->span.hva, old[GDB_SOFT_BYTES];
	struct gdb_soft *other;
	const uint8_t *insn;
	bool any = false;
	size_t size, i;

	insn = arch_breakpoint(&size);
	for (i = 0; i < size; i++) {
		bool written = is_in(piece, n, soft->gpa.v + i);

		any |= written;
		/* What was not written there is the instruction still. */
		old[i] = written || bytes[i] != insn[i] ? bytes[i] : soft->old[i];
	}
	if (!any)
		return;
	memcpy(bytes, insn, size);
	for (other = breaks->soft; other < breaks->soft + breaks->nsoft; other++)
		if (other->planted && other->gpa.v == soft->gpa.v)
			memcpy(other->old, old, size);
}

void gdb_breaks_written(struct gdb_breaks *breaks, const struct gdb_piece *piece, unsigned int n)
{
	const struct gdb_soft *soft;

	for (soft = breaks->soft; soft < breaks->soft + breaks->nsoft; soft++)
		if (soft->span.hva)
			soft_written(breaks, soft, piece, n);
}

static struct arch_watch *find_watch(struct gdb_breaks *breaks, const struct arch_watch *watch)
{
	struct arch_watch *w;

	for (w = breaks->watch; w < breaks->watch + breaks->nwatch; w++)
		if (w->type == watch->type && w->gva.v == watch->gva.v && w->len == watch->len)
			return w;
	return NULL;
}

int gdb_breaks_watch(struct gdb_breaks *breaks, const struct arch_watch *watch)
{
	if (find_watch(breaks, watch))
		return 0;
	if (breaks->nwatch == ARCH_WATCH_MAX)
		return -ENOSPC;
	breaks->watch[breaks->nwatch++] = *watch;
	return 0;
}

int gdb_breaks_unwatch(struct gdb_breaks *breaks, const struct arch_watch *watch)
{
	struct arch_watch *w = find_watch(breaks, watch);

	if (!w)
		return -ENOENT;
	*w = breaks->watch[--breaks->nwatch];
	return 0;
}
