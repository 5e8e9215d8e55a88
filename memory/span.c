// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// How spans (span.h) are armed and opened, and what a span held at the moment.
//
// Nobody writes a PROTECTED span without opening it. The guest is stopped by the
// kernel, whose report opens it (span_fault.c). Whoever writes by gup pins first
// and looks at the byte after; whoever arms sets the byte first and looks for
// pins after: one of the two sees the other. So what io_uring and the like write
// into pinned pages, which the kernel does not notice, is into open spans.
//
// Pages that are zero because nobody has ever touched them have no entry in the
// kernel's page table that could be protected. They are left so: the range is
// registered for missing pages as well, and their first touch is reported as
// one.
#include "memory/span.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/log.h"
#include "memory/internal.h"

#define SPAN_ALL ((uint16_t)((1u << MEMORY_SPAN_PAGES) - 1))
/* Of /proc/self/pagemap: the page is in memory, or in swap. */
#define PAGEMAP_HAS (UINT64_C(3) << 62)

/* ---- the kernel's part ---- */

static int protect_range(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n,
			 bool on)
{
	struct uffdio_writeprotect wp = {
		.range = {
			.start = (uintptr_t)mem->region[region].host + offset * PAGE_BYTES,
			.len = n * PAGE_BYTES,
		},
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	while (ioctl(mem->uffd, UFFDIO_WRITEPROTECT, &wp) < 0)
		if (errno != EAGAIN)
			return -errno;
	return 0;
}

/*
 * Linux before 6.3 takes no range that an eject's mprotect has cut in pieces
 * (eject.c): then page by page.
 */
static int spans_protect(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n,
			 bool on)
{
	int r = protect_range(mem, region, offset, n, on);
	uint64_t i;

	if (r != -ENOENT || n == 1)
		return r;
	for (i = 0, r = 0; i < n && !r; i++)
		r = protect_range(mem, region, offset + i, 1, on);
	return r;
}

/* Which pages of a span the kernel has; the others are zero, or not here. */
static int span_populated(struct memory *mem, unsigned int region, uint64_t offset, uint16_t *has)
{
	uint64_t entry[MEMORY_SPAN_PAGES];
	uint64_t page = (uintptr_t)mem->region[region].host / PAGE_BYTES + offset;
	unsigned int i;

	*has = SPAN_ALL;
	/* What backed memory has not in its page table it has in its memfd. */
	if (mem->pagemap < 0 || memory_is_backed(mem))
		return 0;
	if (pread(mem->pagemap, entry, sizeof(entry), (off_t)(page * sizeof(entry[0]))) !=
	    sizeof(entry))
		return -EIO;
	for (i = 0, *has = 0; i < MEMORY_SPAN_PAGES; i++)
		if (entry[i] & PAGEMAP_HAS)
			*has = (uint16_t)(*has | 1u << i);
	return 0;
}

/* ---- what is in a span ---- */

int memory_span_look(struct memory *mem, unsigned int region, uint64_t offset,
		     struct memory_span *span)
{
	uint64_t start = offset - offset % MEMORY_SPAN_PAGES;
	uint16_t came = mem->spans.late[region][start / MEMORY_SPAN_PAGES], has, bit;
	enum page_state state;
	unsigned int i;
	int r = span_populated(mem, region, start, &has);

	*span = (struct memory_span){ .first = GFN(mem->region[region].first.v + start),
				      .spans = 1 };
	for (i = 0; i < MEMORY_SPAN_PAGES; i++) {
		bit = (uint16_t)(1u << i);
		state = state_of(state_load(&mem->state[region][start + i]));
		if (state == PAGE_LOST)
			span->lost |= bit;
		else if (state != PAGE_PRESENT || came & bit)
			span->late |= bit;
		else if (has & bit)
			span->here |= bit;
		else
			span->zero |= bit;
	}
	return r;
}

uint16_t memory_span_absent(struct memory *mem, unsigned int region, uint64_t offset)
{
	uint64_t start = offset - offset % MEMORY_SPAN_PAGES;
	uint16_t has, absent = 0;
	unsigned int i;

	if (span_populated(mem, region, start, &has) < 0)
		return (uint16_t)(1u << (offset - start));
	for (i = 0; i < MEMORY_SPAN_PAGES; i++)
		if (!(has >> i & 1) &&
		    state_of(state_load(&mem->state[region][start + i])) == PAGE_PRESENT)
			absent = (uint16_t)(absent | 1u << i);
	return absent;
}

static void span_read(struct memory *mem, unsigned int region, const struct memory_span *span,
		      uint8_t *data)
{
	const uint8_t *host = mem->region[region].host +
			      (span->first.v - mem->region[region].first.v) * PAGE_BYTES;
	unsigned int i;

	if (span->here == SPAN_ALL) {
		memcpy(data, host, MEMORY_SPAN_BYTES);
		return;
	}
	for (i = 0; i < MEMORY_SPAN_PAGES; i++)
		if (span->here >> i & 1)
			memcpy(data + i * PAGE_BYTES, host + i * PAGE_BYTES, PAGE_BYTES);
}

int memory_span_copy(struct memory *mem, unsigned int region, uint64_t offset,
		     struct memory_span *span, uint8_t *data)
{
	int r = memory_span_look(mem, region, offset, span);

	if (!r)
		span_read(mem, region, span, data);
	return r;
}

bool memory_span_take(struct memory *mem, unsigned int region, uint64_t offset,
		      enum spans_room room)
{
	struct memory_spans *spans = &mem->spans;
	span_byte *byte = span_of(spans, region, offset);
	uint8_t now = atomic_load(byte), *data;
	struct memory_span span;
	int r;

	if (!(now & SPAN_WANTED) || now & SPAN_BLANK || memory_span_is_same(spans, now))
		return true;
	r = memory_span_look(mem, region, offset, &span);
	/* Then the snapshot is of no use, and the guest goes on all the same. */
	if (r < 0)
		atomic_store(&spans->error, r);
	if (r < 0 || !span.here) {
		atomic_fetch_or(byte, SPAN_BLANK);
		return true;
	}
	data = memory_copies_get(spans->copies, room);
	if (!data)
		return false;
	span_read(mem, region, &span, data);
	atomic_fetch_and(byte, (uint8_t)~SPAN_WANTED);
	count_add(&spans->n_copied, 1);
	memory_copies_push(spans->copies, &span, data);
	return true;
}

/* ---- open ---- */

/* What comes before its protection is taken away. False: no room for a copy. */
static bool span_get_ready(struct memory *mem, unsigned int region, uint64_t offset,
			   enum spans_room room)
{
	struct memory_spans *spans = &mem->spans;
	span_byte *byte = span_of(spans, region, offset);

	if (!(atomic_load(byte) & SPAN_PROTECTED))
		return true;
	if (!(atomic_load(&spans->phase) == SPANS_PREPARE &&
	      memory_spans_log(mem, region, offset)) &&
	    atomic_load(&spans->phase) == SPANS_LIVE &&
	    !memory_span_take(mem, region, offset, room))
		return false;
	atomic_fetch_or(byte, spans->written);
	return true;
}

/*
 * The kernel first, then the bytes: who does not see PROTECTED writes without a
 * look at the lock.
 */
static int spans_unprotect(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n)
{
	int r = spans_protect(mem, region, offset, n, false);
	uint64_t i;

	/* Nothing is registered any more: then nothing is protected. */
	if (r < 0 && r != -ENOENT) {
		log_error("UFFDIO_WRITEPROTECT: errno %d", -r);
		return r;
	}
	for (i = 0; i < n; i += MEMORY_SPAN_PAGES)
		atomic_fetch_and(span_of(&mem->spans, region, offset + i),
				 (uint8_t)~SPAN_PROTECTED);
	return 0;
}

bool memory_span_open(struct memory *mem, unsigned int region, uint64_t offset,
		      enum spans_room room)
{
	uint64_t start = offset - offset % MEMORY_SPAN_PAGES;

	if (atomic_load(&mem->spans.phase) == SPANS_OFF ||
	    !(atomic_load(span_of(&mem->spans, region, offset)) & SPAN_PROTECTED))
		return true;
	if (!span_get_ready(mem, region, start, room))
		return false;
	spans_unprotect(mem, region, start, MEMORY_SPAN_PAGES);
	return true;
}

/*
 * Spans of the huge page at `start` that have to be copied before they can be
 * opened.
 */
static unsigned int spans_to_copy(const struct memory *mem, unsigned int region, uint64_t start)
{
	const struct memory_spans *spans = &mem->spans;
	unsigned int i, n = 0;
	uint8_t byte;

	if (atomic_load(&spans->phase) != SPANS_LIVE)
		return 0;
	for (i = 0; i < SPANS_IN_HUGE; i++) {
		byte = atomic_load(span_of(spans, region, start + i * MEMORY_SPAN_PAGES));
		n += byte & SPAN_WANTED && !(byte & SPAN_BLANK);
	}
	return n;
}

/*
 * A huge page is opened as one where the kernel has it as one and there is room
 * for its copy: a piece of it would be split off for good.
 */
static bool spans_open_as_one(struct memory *mem, unsigned int region, uint64_t start)
{
	struct memory_spans *spans = &mem->spans;
	unsigned int i;

	if (atomic_load(&spans->used) + spans_to_copy(mem, region, start) >
		    atomic_load(&spans->high) ||
	    !memory_is_huge(mem->pagemap, mem->region[region].host + start * PAGE_BYTES))
		return false;
	for (i = 0; i < SPANS_IN_HUGE; i++)
		if (!span_get_ready(mem, region, start + i * MEMORY_SPAN_PAGES, SPANS_ROOM_RESERVE))
			return false;
	return true;
}

bool memory_span_open_for_fault(struct memory *mem, unsigned int region, uint64_t offset)
{
	uint64_t start = offset - offset % HUGE_PAGES;

	if (spans_open_as_one(mem, region, start)) {
		spans_unprotect(mem, region, start, HUGE_PAGES);
		return true;
	}
	start = offset - offset % MEMORY_SPAN_PAGES;
	if (!span_get_ready(mem, region, start, SPANS_ROOM_RESERVE))
		return false;
	/*
	 * Also where it is open: a page may be protected that no byte tells of.
	 */
	spans_unprotect(mem, region, start, MEMORY_SPAN_PAGES);
	return true;
}

bool memory_spans_may_write(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n,
			    uint64_t *bad)
{
	struct memory_spans *spans = &mem->spans;
	uint64_t at = offset - offset % MEMORY_SPAN_PAGES;
	pthread_mutex_t *lock;
	bool open;

	/* The pins first, then the bytes: see spans_arm_bytes. */
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load(&spans->phase) == SPANS_OFF)
		return true;
	for (; at < offset + n; at += MEMORY_SPAN_PAGES) {
		if (!(atomic_load(span_of(spans, region, at)) & SPAN_PROTECTED))
			continue;
		lock = memory_huge_lock(mem, region, at);
		open = memory_span_open(mem, region, at, SPANS_ROOM_USUAL);
		pthread_mutex_unlock(lock);
		if (open)
			continue;
		*bad = at > offset ? at : offset;
		return false;
	}
	return true;
}

/* ---- what others do to pages ---- */

void memory_spans_arrive(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n)
{
	struct memory_spans *spans = &mem->spans;
	enum spans_phase phase = atomic_load(&spans->phase);
	uint64_t i;

	if (phase == SPANS_OFF)
		return;
	/*
	 * Logged, so that the moment does not come before they are here, and
	 * armed.
	 */
	if (phase == SPANS_PREPARE && !memory_spans_log(mem, region, offset))
		phase = SPANS_LIVE;
	for (i = offset; i < offset + n; i++) {
		if (phase == SPANS_LIVE)
			spans->late[region][i / MEMORY_SPAN_PAGES] |=
				(uint16_t)(1u << i % MEMORY_SPAN_PAGES);
		if (i == offset || !(i % MEMORY_SPAN_PAGES))
			atomic_fetch_or(span_of(spans, region, i),
					(uint8_t)(SPAN_PATCHY | spans->written));
	}
}

bool memory_spans_may_move(struct memory *mem, unsigned int region, uint64_t offset)
{
	enum spans_phase phase = atomic_load(&mem->spans.phase);
	unsigned int i;

	if (phase != SPANS_TRACK)
		return phase == SPANS_OFF;
	for (i = 0; i < HUGE_PAGES; i += MEMORY_SPAN_PAGES)
		memory_span_open(mem, region, offset + i, SPANS_ROOM_USUAL);
	/*
	 * A snapshot may have begun to prepare: then its log does not have them
	 * all.
	 */
	return atomic_load(&mem->spans.phase) == SPANS_TRACK;
}

/* ---- arm ---- */

static bool span_is_held(const struct memory *mem, unsigned int region, uint64_t offset)
{
	unsigned int i;

	for (i = 0; i < MEMORY_SPAN_PAGES; i++)
		if (state_load(&mem->state[region][offset + i]) & STATE_PIN_MASK)
			return true;
	return false;
}

/*
 * Marks what is to be armed, and returns it: a bit a span. What is held stays
 * as it is: *open.
 */
static uint32_t spans_arm_bytes(struct memory *mem, unsigned int region, uint64_t offset,
				uint32_t *open)
{
	span_byte *byte = span_of(&mem->spans, region, offset);
	uint32_t arm = 0, patchy = 0;
	unsigned int i;

	for (i = 0; i < SPANS_IN_HUGE; i++) {
		uint8_t now = atomic_load(&byte[i]);

		if (!(now & SPAN_PROTECTED))
			arm |= UINT32_C(1) << i;
		else if (now & SPAN_PATCHY)
			patchy |= UINT32_C(1) << i;
		if (now & SPAN_PATCHY || !(now & SPAN_PROTECTED)) {
			atomic_fetch_and(&byte[i], (uint8_t)~SPAN_PATCHY);
			atomic_fetch_or(&byte[i], SPAN_PROTECTED);
		}
	}
	/*
	 * The bytes first, then the pins: see memory_spans_may_write. Who holds
	 * one that was PROTECTED does not write.
	 */
	atomic_thread_fence(memory_order_seq_cst);
	for (i = 0; i < SPANS_IN_HUGE; i++)
		if (arm >> i & 1 && span_is_held(mem, region, offset + i * MEMORY_SPAN_PAGES)) {
			atomic_fetch_and(&byte[i], (uint8_t)~SPAN_PROTECTED);
			arm &= ~(UINT32_C(1) << i);
			*open |= UINT32_C(1) << i;
		}
	return arm | patchy;
}

int memory_spans_arm(struct memory *mem, unsigned int region, uint64_t offset, uint32_t *open)
{
	uint32_t arm = spans_arm_bytes(mem, region, offset, open);
	unsigned int i = 0, start;
	int r = 0;

	while (i < SPANS_IN_HUGE && !r) {
		start = i;
		while (i < SPANS_IN_HUGE && arm >> i & 1)
			i++;
		if (i > start)
			r = spans_protect(mem, region, offset + start * MEMORY_SPAN_PAGES,
					  (i - start) * MEMORY_SPAN_PAGES, true);
		else
			i++;
	}
	return r;
}

int memory_spans_disarm(struct memory *mem, unsigned int region, uint64_t offset)
{
	span_byte *byte = span_of(&mem->spans, region, offset);
	unsigned int i, armed = 0;

	for (i = 0; i < SPANS_IN_HUGE; i++)
		armed |= atomic_load(&byte[i]) & SPAN_PROTECTED;
	return armed ? spans_unprotect(mem, region, offset, HUGE_PAGES) : 0;
}
