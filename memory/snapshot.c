// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// A snapshot's life (snapshot.h), over spans (span.h).
//
// The pause must not grow with memory, and protecting memory does: a page table
// entry takes some nanoseconds, and a huge page whose entry is one as long as a
// small one. So all of it is protected while the guest runs. What the guest
// writes until the moment is opened again, and logged; the pause has to protect
// what is in the log and no more. Each entry has cost the guest a fault, so the
// log of a guest that writes as fast as it can grows more slowly than it is
// worked off, and some rounds before the pause make it short.
#include "memory/snapshot.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "memory/internal.h"

/*
 * Rounds over what was written meanwhile; the log is short enough for the pause
 * with so few huge pages.
 */
#define PREPARE_ROUNDS 8
#define PREPARE_SHORT 32

struct memory_snapshot {
	struct memory *mem;
	struct memory_snapshot_config config;
	_Atomic bool cancelled;
	pthread_mutex_t cursor_lock; /* the two below: what no thread has looked at yet */
	unsigned int region;
	uint64_t offset;
	_Atomic uint64_t left; /* spans that were not handed out */
	_Atomic int64_t prepare_ns, begin_ns;
	_Atomic uint64_t armed_again;
};

int memory_snapshot_new(struct memory_snapshot **out, struct memory *mem,
			const struct memory_snapshot_config *config, struct err *err)
{
	struct memory_snapshot *snapshot = calloc(1, sizeof(*snapshot));

	if (!snapshot)
		return err_set(err, -ENOMEM, "no memory for a snapshot");
	if (atomic_exchange(&mem->spans.has_snapshot, true)) {
		free(snapshot);
		return err_set(err, -EBUSY, "another snapshot of this memory is under way");
	}
	snapshot->mem = mem;
	if (config)
		snapshot->config = *config;
	if (!snapshot->config.buffer_bytes)
		snapshot->config.buffer_bytes = MEMORY_SNAPSHOT_BUFFER;
	if (snapshot->config.buffer_bytes < MEMORY_SNAPSHOT_BUFFER_MIN)
		snapshot->config.buffer_bytes = MEMORY_SNAPSHOT_BUFFER_MIN;
	if (snapshot->config.buffer_bytes > mem->pages * PAGE_BYTES)
		snapshot->config.buffer_bytes = mem->pages * PAGE_BYTES;
	snapshot->left = mem->pages / MEMORY_SPAN_PAGES;
	pthread_mutex_init(&snapshot->cursor_lock, NULL);
	*out = snapshot;
	return 0;
}

void memory_snapshot_cancel(struct memory_snapshot *snapshot)
{
	atomic_store(&snapshot->cancelled, true);
}

/* 0, or why it is of no use any more. */
static int snapshot_check(const struct memory_snapshot *snapshot)
{
	if (atomic_load(&snapshot->cancelled) || atomic_load(&snapshot->mem->shut))
		return -ECANCELED;
	return atomic_load(&snapshot->mem->spans.error);
}

static int snapshot_why(int r, struct err *err)
{
	if (r == -ECANCELED)
		return err_set(err, r, "the snapshot was cancelled");
	if (r == -ENOBUFS)
		return err_set(err, r,
			       "devices hold more memory for writing than the snapshot's "
			       "buffer has room for: give it a larger one");
	return err_errno(err, r, "memory cannot be protected for a snapshot");
}

/* ---- prepare ---- */

/*
 * With the map lock held alone: memory that completes leaves what is registered
 * alone from here on.
 */
static int snapshot_watch(struct memory *mem, struct err *err)
{
	struct memory_spans *spans = &mem->spans;
	int r;

	pthread_rwlock_wrlock(&mem->map_lock);
	atomic_store(&spans->watching, true);
	r = memory_watch_writes(mem, err);
	if (!r)
		atomic_store(&spans->phase, SPANS_PREPARE);
	else if (atomic_load(&spans->phase) == SPANS_OFF)
		atomic_store(&spans->watching, false);
	pthread_rwlock_unlock(&mem->map_lock);
	return r;
}

static int huge_arm(struct memory *mem, uint32_t number)
{
	pthread_mutex_t *lock;
	unsigned int region;
	uint32_t open = 0;
	uint64_t offset;
	int r;

	memory_huge_at(mem, number, &region, &offset);
	lock = memory_huge_lock(mem, region, offset);
	r = memory_spans_arm(mem, region, offset, &open);
	if (open)
		memory_spans_log(mem, region, offset);
	pthread_mutex_unlock(lock);
	return r;
}

static int snapshot_arm_all(struct memory_snapshot *snapshot)
{
	uint32_t n = (uint32_t)(snapshot->mem->pages / HUGE_PAGES), i;
	int r = 0;

	for (i = 0; i < n && !r; i++) {
		r = snapshot_check(snapshot);
		if (!r)
			r = huge_arm(snapshot->mem, i);
	}
	return r;
}

/* What was written meanwhile, until little is left or it does not get less. */
static int snapshot_arm_again(struct memory_snapshot *snapshot)
{
	size_t n = memory_spans_logged(snapshot->mem), before, i;
	unsigned int round;
	int64_t number;
	int r = 0;

	for (round = 0; round < PREPARE_ROUNDS && n > PREPARE_SHORT && !r; round++) {
		before = n;
		for (i = 0; i < before && !r; i++) {
			number = memory_spans_unlog(snapshot->mem, false);
			if (number < 0)
				break;
			r = snapshot_check(snapshot);
			if (!r)
				r = huge_arm(snapshot->mem, (uint32_t)number);
		}
		n = memory_spans_logged(snapshot->mem);
		if (n > before - before / 4)
			break;
	}
	return r;
}

int memory_snapshot_prepare(struct memory_snapshot *snapshot, struct err *err)
{
	struct memory_spans *spans = &snapshot->mem->spans;
	int64_t start = clock_now_ns();
	int r;

	if (snapshot->config.paused)
		memory_spans_stop(snapshot->mem);
	spans->all = snapshot->config.all;
	r = memory_spans_want(snapshot->mem);
	if (!r && !snapshot->config.paused)
		r = memory_copies_new(&spans->copies, snapshot->mem, snapshot->config.buffer_bytes);
	if (r < 0)
		return err_set(err, r, "no memory for the snapshot's buffer");
	if (snapshot->config.paused) {
		memory_pagemap_open(snapshot->mem);
		return 0;
	}
	atomic_store(&spans->high,
		     (unsigned int)(snapshot->config.buffer_bytes / MEMORY_SPAN_BYTES));
	r = snapshot_watch(snapshot->mem, err);
	if (r < 0)
		return r;
	r = snapshot_arm_all(snapshot);
	if (!r)
		r = snapshot_arm_again(snapshot);
	snapshot->prepare_ns = clock_now_ns() - start;
	return r < 0 ? snapshot_why(r, err) : 0;
}

/* ---- the moment ---- */

/* What somebody holds, and may be writing, is copied by hand, and stays open. */
static int huge_take_open(struct memory *mem, unsigned int region, uint64_t offset, uint32_t open)
{
	struct memory_spans *spans = &mem->spans;
	unsigned int i;

	for (i = 0; i < SPANS_IN_HUGE; i++, offset += MEMORY_SPAN_PAGES) {
		if (!(open >> i & 1))
			continue;
		if (!memory_span_take(mem, region, offset, SPANS_ROOM_RESERVE))
			return -ENOBUFS;
		atomic_fetch_or(span_of(spans, region, offset), SPAN_WRITTEN);
	}
	return 0;
}

static int huge_arm_last(struct memory *mem, uint32_t number)
{
	pthread_mutex_t *lock;
	unsigned int region;
	uint32_t open = 0;
	uint64_t offset;
	int r;

	memory_huge_at(mem, number, &region, &offset);
	lock = memory_huge_lock(mem, region, offset);
	r = memory_spans_arm(mem, region, offset, &open);
	if (!r)
		r = huge_take_open(mem, region, offset, open);
	pthread_mutex_unlock(lock);
	return r;
}

int memory_snapshot_begin(struct memory_snapshot *snapshot, struct err *err)
{
	int64_t start = clock_now_ns(), number = 0;
	int r = snapshot_check(snapshot);

	while (!r && !snapshot->config.paused) {
		number = memory_spans_unlog(snapshot->mem, true);
		if (number < 0)
			break;
		r = huge_arm_last(snapshot->mem, (uint32_t)number);
		count_add(&snapshot->armed_again, 1);
	}
	snapshot->begin_ns = clock_now_ns() - start;
	return r < 0 ? snapshot_why(r, err) : 0;
}

/* ---- next ---- */

/*
 * A span that is wanted, with its huge page's lock held: its masks, and its
 * data if `data`.
 */
static int span_hand_out(struct memory *mem, unsigned int region, uint64_t offset,
			 struct memory_span *span, void *data)
{
	uint8_t byte = atomic_load(span_of(&mem->spans, region, offset));
	int r;

	if (memory_span_is_same(&mem->spans, byte)) {
		*span = (struct memory_span){
			.first = GFN(mem->region[region].first.v + offset),
			.spans = 1,
			.same = true,
		};
		return 0;
	}
	if (data && !(byte & SPAN_BLANK))
		return memory_span_copy(mem, region, offset, span, data);
	r = memory_span_look(mem, region, offset, span);
	if (byte & SPAN_BLANK) {
		/* What is here has been written since. */
		span->zero |= span->here;
		span->here = 0;
	}
	return r;
}

static bool spans_are_alike(const struct memory_span *a, const struct memory_span *b)
{
	return !a->here && !b->here && a->zero == b->zero && a->late == b->late &&
	       a->lost == b->lost && a->same == b->same;
}

/*
 * The huge page at offset, all of whose spans are wanted, alike, and without
 * data; its lock is held.
 */
static bool huge_is_alike(struct memory *mem, unsigned int region, uint64_t offset,
			  struct memory_span *span)
{
	struct memory_span other;
	uint64_t i;

	for (i = 0; i < HUGE_PAGES; i += MEMORY_SPAN_PAGES) {
		if (!(atomic_load(span_of(&mem->spans, region, offset + i)) & SPAN_WANTED) ||
		    span_hand_out(mem, region, offset + i, i ? &other : span, NULL) < 0)
			return false;
		if (i ? !spans_are_alike(span, &other) : span->here)
			return false;
	}
	span->spans = SPANS_IN_HUGE;
	return true;
}

/* Spans [offset, offset + n) are handed out. The huge page's lock is held. */
static void spans_done(struct memory_snapshot *snapshot, unsigned int region, uint64_t offset,
		       uint64_t n)
{
	struct memory *mem = snapshot->mem;
	uint64_t huge = offset - offset % HUGE_PAGES, i;
	bool wanted = false;

	for (i = offset; i < offset + n; i += MEMORY_SPAN_PAGES)
		atomic_fetch_and(span_of(&mem->spans, region, i), (uint8_t)~SPAN_WANTED);
	for (i = huge; i < huge + HUGE_PAGES && !wanted; i += MEMORY_SPAN_PAGES)
		wanted = atomic_load(span_of(&mem->spans, region, i)) & SPAN_WANTED;
	/*
	 * As one, which keeps it a huge page, before the guest writes it piece
	 * by piece.
	 */
	if (!wanted && !snapshot->config.track && !snapshot->config.paused)
		memory_spans_disarm(mem, region, huge);
}

/*
 * The span at the cursor, or the huge page's if they are alike; the cursor's
 * lock is held. 1, 0: it was not wanted; or an error.
 */
static int cursor_take(struct memory_snapshot *snapshot, struct memory_span *span, void *data)
{
	struct memory *mem = snapshot->mem;
	unsigned int region = snapshot->region;
	uint64_t offset = snapshot->offset;
	pthread_mutex_t *lock;
	int r = 0;

	/*
	 * Of backed memory somebody else may have brought a page, which the
	 * guest may have written.
	 */
	memory_look(mem, region, offset, offset % HUGE_PAGES ? MEMORY_SPAN_PAGES : HUGE_PAGES);
	lock = memory_huge_lock(mem, region, offset);
	if (!(offset % HUGE_PAGES) && huge_is_alike(mem, region, offset, span)) {
		spans_done(snapshot, region, offset, HUGE_PAGES);
		snapshot->offset += HUGE_PAGES;
		r = 1;
	} else {
		snapshot->offset += MEMORY_SPAN_PAGES;
		if (atomic_load(span_of(&mem->spans, region, offset)) & SPAN_WANTED) {
			r = span_hand_out(mem, region, offset, span, data);
			r = r < 0 ? r : 1;
			spans_done(snapshot, region, offset, MEMORY_SPAN_PAGES);
		}
	}
	pthread_mutex_unlock(lock);
	if (snapshot->offset == mem->region[region].pages) {
		snapshot->offset = 0;
		snapshot->region++;
	}
	return r;
}

/* 1, 0: there is nothing left to look at; or an error. */
static int cursor_next(struct memory_snapshot *snapshot, struct memory_span *span, void *data)
{
	int r = 0;

	pthread_mutex_lock(&snapshot->cursor_lock);
	while (!r && snapshot->region < snapshot->mem->regions)
		r = cursor_take(snapshot, span, data);
	pthread_mutex_unlock(&snapshot->cursor_lock);
	return r;
}

int memory_snapshot_next(struct memory_snapshot *snapshot, struct memory_span *span, void *data)
{
	struct memory_spans *spans = &snapshot->mem->spans;
	int r;

	for (;;) {
		r = snapshot_check(snapshot);
		if (r < 0)
			return r;
		if (spans->copies && memory_copies_pop(spans->copies, span, data))
			r = 1;
		else
			r = cursor_next(snapshot, span, data);
		if (r > 0)
			atomic_fetch_sub(&snapshot->left, span->spans);
		if (r)
			return r;
		if (!atomic_load(&snapshot->left))
			return 0;
		/*
		 * Another thread is about to hand it out, or to bring the copy.
		 */
		usleep(NS_PER_MS / NS_PER_US / 10);
	}
}

bool memory_snapshot_is_pressed(const struct memory_snapshot *snapshot)
{
	const struct memory_spans *spans = &snapshot->mem->spans;

	return !snapshot->config.paused &&
	       atomic_load(&spans->used) > atomic_load(&spans->high) / 2;
}

/* ---- end ---- */

void memory_snapshot_end(struct memory_snapshot *snapshot, bool saved)
{
	struct memory *mem;

	if (!snapshot)
		return;
	mem = snapshot->mem;
	memory_spans_end(mem, snapshot->config.track, saved && !atomic_load(&snapshot->left));
	pthread_mutex_destroy(&snapshot->cursor_lock);
	free(snapshot);
	atomic_store(&mem->spans.has_snapshot, false);
}

bool memory_snapshot_is_tracked(const struct memory *mem)
{
	return atomic_load(&mem->spans.phase) == SPANS_TRACK && mem->spans.based;
}

void memory_snapshot_stats(const struct memory_snapshot *snapshot,
			   struct memory_snapshot_stats *stats)
{
	const struct memory_spans *spans = &snapshot->mem->spans;

	*stats = (struct memory_snapshot_stats){
		.spans = snapshot->mem->pages / MEMORY_SPAN_PAGES,
		.left = atomic_load(&snapshot->left),
		.copied = count_get(&spans->n_copied),
		.buffered = atomic_load(&spans->used),
		.buffered_max = atomic_load(&spans->used_max),
		.armed_again = count_get(&snapshot->armed_again),
		.prepare_ns = snapshot->prepare_ns,
		.begin_ns = snapshot->begin_ns,
		.throttled = count_get(&spans->n_throttled),
		.throttled_ns = (int64_t)count_get(&spans->throttled_ns),
	};
}
