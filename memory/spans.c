// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// The life of spans (span.h): their bytes, the log of those that were opened
// while a snapshot was being prepared, and what is left of them after its end.
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "memory/internal.h"
#include "memory/span.h"

void memory_spans_init(struct memory *mem)
{
	pthread_mutex_init(&mem->spans.log_lock, NULL);
	atomic_store(&mem->spans.high, UINT_MAX);
	mem->spans.written = SPAN_WRITTEN_A;
	mem->spans.before = SPAN_WRITTEN_B;
}

void memory_spans_fini(struct memory *mem)
{
	struct memory_spans *spans = &mem->spans;
	unsigned int i;

	memory_copies_free(spans->copies);
	for (i = 0; i < mem->regions; i++) {
		free((void *)spans->span[i]);
		free(spans->late[i]);
	}
	free(spans->log);
	free(spans->logged);
	pthread_mutex_destroy(&spans->log_lock);
}

/* Kept until the memory goes: others may be looking at a byte. */
static int spans_alloc(struct memory *mem)
{
	struct memory_spans *spans = &mem->spans;
	bool there = true;
	unsigned int i;
	uint64_t n;

	for (i = 0; i < mem->regions; i++) {
		n = mem->region[i].pages / MEMORY_SPAN_PAGES;
		if (!spans->span[i])
			spans->span[i] = calloc(n, sizeof(spans->span[i][0]));
		if (!spans->late[i])
			spans->late[i] = calloc(n, sizeof(spans->late[i][0]));
		there &= spans->span[i] && spans->late[i];
	}
	n = mem->pages / HUGE_PAGES;
	if (!spans->log)
		spans->log = calloc(n, sizeof(spans->log[0]));
	if (!spans->logged)
		spans->logged = calloc(n, sizeof(spans->logged[0]));
	return there && spans->log && spans->logged ? 0 : -ENOMEM;
}

static void span_want(struct memory_spans *spans, span_byte *byte)
{
	if (atomic_load(&spans->phase) == SPANS_OFF) {
		atomic_store(byte, (uint8_t)(SPAN_WANTED | spans->written));
		return;
	}
	atomic_fetch_or(byte, SPAN_WANTED);
	atomic_fetch_and(byte, (uint8_t)~SPAN_BLANK);
}

int memory_spans_want(struct memory *mem)
{
	struct memory_spans *spans = &mem->spans;
	unsigned int r;
	uint64_t i, n;

	if (spans_alloc(mem) < 0)
		return -ENOMEM;
	for (r = 0; r < mem->regions; r++) {
		n = mem->region[r].pages / MEMORY_SPAN_PAGES;
		for (i = 0; i < n; i++)
			span_want(spans, &spans->span[r][i]);
		memset(spans->late[r], 0, n * sizeof(spans->late[r][0]));
	}
	pthread_mutex_lock(&spans->log_lock);
	memset(spans->logged, 0, mem->pages / HUGE_PAGES);
	spans->log_first = spans->n_log = 0;
	pthread_mutex_unlock(&spans->log_lock);
	atomic_store(&spans->error, 0);
	atomic_store(&spans->n_copied, 0);
	atomic_store(&spans->used_max, 0);
	atomic_store(&spans->n_throttled, 0);
	atomic_store(&spans->throttled_ns, 0);
	return 0;
}

/* ---- the log ---- */

bool memory_spans_log(struct memory *mem, unsigned int region, uint64_t offset)
{
	struct memory_spans *spans = &mem->spans;
	uint32_t huge = memory_huge_number(mem, region, offset);
	bool prepares;

	pthread_mutex_lock(&spans->log_lock);
	prepares = atomic_load(&spans->phase) == SPANS_PREPARE;
	if (prepares && !spans->logged[huge]) {
		spans->logged[huge] = 1;
		spans->log[(spans->log_first + spans->n_log++) % (mem->pages / HUGE_PAGES)] = huge;
	}
	pthread_mutex_unlock(&spans->log_lock);
	return prepares;
}

int64_t memory_spans_unlog(struct memory *mem, bool moment)
{
	struct memory_spans *spans = &mem->spans;
	int64_t huge = -1;

	pthread_mutex_lock(&spans->log_lock);
	if (spans->n_log) {
		huge = spans->log[spans->log_first];
		spans->logged[huge] = 0;
		spans->log_first = (spans->log_first + 1) % (mem->pages / HUGE_PAGES);
		spans->n_log--;
	} else if (moment) {
		spans->before = spans->written;
		spans->written ^= SPAN_WRITTEN;
		/* Last, so that whoever sees it sees the bits. */
		atomic_store(&spans->phase, SPANS_LIVE);
	}
	pthread_mutex_unlock(&spans->log_lock);
	return huge;
}

size_t memory_spans_logged(struct memory *mem)
{
	size_t n;

	pthread_mutex_lock(&mem->spans.log_lock);
	n = mem->spans.n_log;
	pthread_mutex_unlock(&mem->spans.log_lock);
	return n;
}

/* ---- the end ---- */

/* Calls fn for each huge page, with its lock held. */
static void
huge_each(struct memory *mem,
	  void (*fn)(struct memory *mem, unsigned int region, uint64_t offset, bool arg), bool arg)
{
	pthread_mutex_t *lock;
	unsigned int r;
	uint64_t i;

	for (r = 0; r < mem->regions; r++)
		for (i = 0; i < mem->region[r].pages; i += HUGE_PAGES) {
			lock = memory_huge_lock(mem, r, i);
			fn(mem, r, i, arg);
			pthread_mutex_unlock(lock);
		}
}

/*
 * What is written is so since the snapshot's moment; or if that came to
 * nothing, since the last one's.
 */
static void huge_keep(struct memory *mem, unsigned int region, uint64_t offset, bool nothing)
{
	struct memory_spans *spans = &mem->spans;
	span_byte *byte = span_of(spans, region, offset);
	unsigned int i;

	for (i = 0; i < SPANS_IN_HUGE; i++) {
		if (nothing && atomic_load(&byte[i]) & spans->before)
			atomic_fetch_or(&byte[i], spans->written);
		atomic_fetch_and(&byte[i], (uint8_t)~spans->before);
	}
}

static void huge_disarm(struct memory *mem, unsigned int region, uint64_t offset, bool arg)
{
	(void)arg;
	if (mem->uffd >= 0)
		memory_spans_disarm(mem, region, offset);
}

/*
 * Writes are not noticed any more. What is registered stays so while memory is
 * late, until that completes (fill.c), which does not happen between the two.
 */
static void spans_drop(struct memory *mem)
{
	struct memory_spans *spans = &mem->spans;
	bool late;

	spans->based = false;
	huge_each(mem, huge_disarm, false);
	pthread_rwlock_wrlock(&mem->map_lock);
	late = memory_is_late(mem);
	atomic_store(&spans->phase, SPANS_OFF);
	if (late)
		atomic_store(&spans->watching, false);
	pthread_rwlock_unlock(&mem->map_lock);
	if (late || mem->uffd < 0)
		return;
	memory_unregister(mem);
	atomic_store(&spans->watching, false);
	memory_collapse_start(mem);
}

/*
 * Nobody is at a copy any more when it returns: they have the lock of a huge
 * page, and saw LIVE before.
 */
static void spans_leave_live(struct memory *mem)
{
	unsigned int i;

	atomic_store(&mem->spans.phase, SPANS_TRACK);
	atomic_store(&mem->spans.high, UINT_MAX);
	memory_wake_room(mem);
	for (i = 0; i < MEMORY_HUGE_LOCKS; i++) {
		pthread_mutex_lock(&mem->huge_lock[i]);
		pthread_mutex_unlock(&mem->huge_lock[i]);
	}
}

void memory_spans_end(struct memory *mem, bool track, bool saved)
{
	struct memory_spans *spans = &mem->spans;
	enum spans_phase phase = atomic_load(&spans->phase);
	bool based = spans->based || (saved && phase == SPANS_LIVE);

	if (phase != SPANS_OFF)
		spans_leave_live(mem);
	memory_copies_free(spans->copies);
	spans->copies = NULL;
	atomic_store(&spans->used, 0);
	atomic_store(&spans->high, UINT_MAX);
	if (phase == SPANS_OFF)
		return;
	if (!track || !based || atomic_load(&spans->error)) {
		spans_drop(mem);
		return;
	}
	spans->based = true;
	if (phase == SPANS_LIVE)
		huge_each(mem, huge_keep, !saved);
}

void memory_spans_stop(struct memory *mem)
{
	if (atomic_load(&mem->spans.phase) == SPANS_TRACK)
		spans_drop(mem);
}

void memory_spans_fail(struct memory *mem, int error)
{
	struct memory_spans *spans = &mem->spans;

	atomic_store(&spans->unserved, true);
	if (atomic_load(&spans->phase) == SPANS_OFF)
		return;
	atomic_store(&spans->error, error);
	huge_each(mem, huge_disarm, false);
	if (!memory_is_late(mem))
		memory_unregister(mem);
	atomic_store(&spans->high, UINT_MAX);
	memory_wake_room(mem);
}
