// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Staged pages are placed, as one huge page where that is possible.
//
// Pages that somebody waited for came alone, and the guest may have changed
// them since; they keep a huge page from being moved in one piece. So, with the
// huge page's lock held, which keeps other fillers away:
//
//   1. Each of its pages that is PRESENT becomes REQUESTED again, unless
//      somebody holds it (pins, an eject): gup waits for it.
//   2. It is write-protected, so that the guest and the kernel wait when they
//      write. What they could see until now they still see.
//   3. Its PRESENT pages are copied into the stage: now the stage holds the
//      truth about all 512.
//   4. The range is emptied, its page table with it (Linux 6.14 and later free
//      it). Who reads now waits as for any missing page.
//   5. The stage's huge page is moved there, which wakes all that wait in the
//      kernel; the bytes become PRESENT again.
//
// Nothing in it waits for a source: it takes some ten microseconds, a tenth of
// what copying the missing pages takes. If the move is refused, the guest's
// pages are copied back first, and then the others: from step 4 on the stage
// holds their only copy.
//
// Only where a vCPU's wait is interruptible: an eject would take the protection
// away beneath step 3, and KVM's own kernel copies into early pages could meet
// it.
#include "memory/stage.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/page.h"
#include "base/probe.h"
#include "memory/internal.h"

#define STAGE_WORDS (HUGE_PAGES / 64)

struct memory_stage {
	struct memory *mem;
	uint8_t *map;		/* twice a huge page, so that one lies inside at its boundary */
	uint8_t *area;
	/* What waits. */
	unsigned int region;
	uint64_t offset;	/* of the huge page in its region, in pages */
	unsigned int n, zeros;	/* pages, and those of them that are zero */
	bool split;		/* the area's own huge page went in pieces */
	uint64_t has[STAGE_WORDS], zero[STAGE_WORDS];
};

static bool stage_bit_get(const uint64_t *words, unsigned int i)
{
	return words[i / 64] >> (i % 64) & 1;
}

static void bit_set(uint64_t *words, unsigned int i)
{
	words[i / 64] |= UINT64_C(1) << (i % 64);
}

static void bit_clear(uint64_t *words, unsigned int i)
{
	words[i / 64] &= ~(UINT64_C(1) << (i % 64));
}

/* ---- life ---- */

/* Fresh, untouched memory at the area: the next touch brings a whole huge page. */
static int stage_renew(struct memory_stage *stage)
{
	if (mmap(stage->area, HUGE_BYTES, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		return -errno;
	madvise(stage->area, HUGE_BYTES, MADV_HUGEPAGE);
	if (!stage->mem->dumpable)
		madvise(stage->area, HUGE_BYTES, MADV_DONTDUMP);
	return 0;
}

int memory_stage_new(struct memory_stage **out, struct memory *mem, struct err *err)
{
	struct memory_stage *stage = calloc(1, sizeof(*stage));

	if (!stage)
		return err_set(err, -ENOMEM, "no memory to receive pages");
	stage->mem = mem;
	stage->map = mmap(NULL, 2 * HUGE_BYTES, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (stage->map == MAP_FAILED) {
		free(stage);
		return err_set(err, -ENOMEM, "no memory to receive pages");
	}
	stage->area = stage->map + (HUGE_BYTES - (uintptr_t)stage->map % HUGE_BYTES) % HUGE_BYTES;
	if (stage_renew(stage) < 0) {
		memory_stage_free(stage);
		return err_set(err, -ENOMEM, "no memory to receive pages");
	}
	*out = stage;
	return 0;
}

void memory_stage_free(struct memory_stage *stage)
{
	if (!stage)
		return;
	munmap(stage->map, 2 * HUGE_BYTES);
	free(stage);
}

/* ---- what waits ---- */

uint8_t *memory_stage_at(struct memory_stage *stage, gfn_t gfn)
{
	return stage->area + gfn.v % HUGE_PAGES * PAGE_BYTES;
}

bool memory_stage_is_empty(const struct memory_stage *stage)
{
	return !stage->n;
}

bool memory_stage_takes(const struct memory_stage *stage, gfn_t first, uint64_t n)
{
	unsigned int i, at = (unsigned int)(first.v % HUGE_PAGES);

	if (!stage->n)
		return true;
	if ((stage->mem->region[stage->region].first.v + stage->offset) / HUGE_PAGES !=
	    first.v / HUGE_PAGES)
		return false;
	for (i = at; i < at + n; i++)
		if (stage_bit_get(stage->has, i))
			return false;
	return true;
}

int memory_stage_add(struct memory_stage *stage, gfn_t first, uint64_t n, bool zero)
{
	unsigned int region, i, at = (unsigned int)(first.v % HUGE_PAGES);
	uint64_t offset;

	if (n > HUGE_PAGES - at || !memory_stage_takes(stage, first, n) ||
	    !memory_find(stage->mem, first, n, &region, &offset))
		return -EFAULT;
	if (!stage->n) {
		stage->region = region;
		stage->offset = offset - at;
		stage->zeros = 0;
		memset(stage->has, 0, sizeof(stage->has));
		memset(stage->zero, 0, sizeof(stage->zero));
	}
	for (i = at; i < at + n; i++) {
		bit_set(stage->has, i);
		if (zero)
			bit_set(stage->zero, i);
	}
	stage->n += (unsigned int)n;
	stage->zeros += zero ? (unsigned int)n : 0;
	return 0;
}

bool memory_stage_is_due(const struct memory_stage *stage)
{
	state_byte *state = &stage->mem->state[stage->region][stage->offset];
	bool whole = true;
	unsigned int i;
	uint8_t byte;

	if (!stage->n || !stage->mem->can_move)
		return stage->n;
	for (i = 0; i < HUGE_PAGES; i++) {
		byte = state_load(&state[i]);
		if (stage_bit_get(stage->has, i) && (byte & STATE_WAITED))
			return true;
		whole &= stage_bit_get(stage->has, i) || state_of(byte) == PAGE_PRESENT;
	}
	return whole;
}

/* ---- in one piece ---- */

/*
 * So many in a row, and this kernel is held for one that keeps empty page
 * tables: promotion only costs there.
 */
#define PROMOTIONS_FAILED_MAX 4

bool memory_can_promote(const struct memory *mem)
{
	return mem->can_move && mem->can_protect && atomic_load(&mem->way) == WAY_OUT_KERNEL &&
	       atomic_load(&mem->promotions_failed) < PROMOTIONS_FAILED_MAX;
}

void memory_count_promoted(struct memory *mem, bool huge)
{
	if (huge)
		atomic_store(&mem->promotions_failed, 0);
	else
		atomic_fetch_add(&mem->promotions_failed, 1);
}

/* The guest's pages that are taken back for the time of a move, and who waits for any page. */
struct frozen {
	unsigned int n;
	uint64_t page[STAGE_WORDS];
	struct wakes wakes;
};

static state_byte *stage_states(const struct memory_stage *stage)
{
	return &stage->mem->state[stage->region][stage->offset];
}

static uint8_t *stage_host(const struct memory_stage *stage)
{
	return stage->mem->region[stage->region].host + stage->offset * PAGE_BYTES;
}

/*
 * Pages [first, first + n) were published. Returns how many had been taken
 * back, and counted before.
 */
static unsigned int stage_count_again(struct memory_stage *stage, struct frozen *frozen,
				      unsigned int first, unsigned int n)
{
	unsigned int i, again = 0;

	for (i = first; i < first + n; i++) {
		again += stage_bit_get(frozen->page, i);
		bit_clear(frozen->page, i);
	}
	count_sub(&stage->mem->n_filled, again);
	/* Never to zero: a page that is new is still counted. */
	atomic_fetch_sub(&stage->mem->n_missing, again);
	return again;
}

/*
 * Can all 512 pages be placed together, is any of them new, and is it worth it?
 * Pages that are PRESENT stay so under the huge page's lock and are not being
 * ejected, so a look into them does not wait.
 */
static bool stage_is_placeable(const struct memory_stage *stage)
{
	const struct memory *mem = stage->mem;
	state_byte *state = stage_states(stage);
	unsigned int i, here = 0, zeros = stage->zeros;
	uint8_t byte;

	if (!mem->can_move)
		return false;
	for (i = 0; i < HUGE_PAGES; i++) {
		byte = state_load(&state[i]);
		if (byte & (STATE_EJECTING | STATE_PIN_MASK))
			return false;
		if (state_of(byte) == PAGE_PRESENT) {
			here++;
			/* Staged as well: counted already, or not zero any more. */
			zeros += !stage_bit_get(stage->zero, i) &&
				 page_is_zero(stage_host(stage) + i * PAGE_BYTES);
		} else if (!stage_bit_get(stage->has, i) || state_of(byte) == PAGE_LOST) {
			/* What is lost goes page by page: its memory may have failed. */
			return false;
		}
	}
	return here < HUGE_PAGES && zeros <= MEMORY_HUGE_ZEROS_MAX &&
	       (!here || (memory_can_promote(mem) &&
			  memory_spans_may_move(stage->mem, stage->region, stage->offset)));
}

/* What is taken back is PRESENT again: it is in the kernel. */
static void stage_thaw(struct memory_stage *stage, struct frozen *frozen)
{
	unsigned int i;

	for (i = 0; i < HUGE_PAGES; i++)
		if (stage_bit_get(frozen->page, i)) {
			memory_publish(stage->mem, stage->region, stage->offset + i, 1,
				       &frozen->wakes);
			stage_count_again(stage, frozen, i, 1);
		}
}

/* Takes the PRESENT pages back. False: somebody took hold of one meanwhile. */
static bool stage_freeze(struct memory_stage *stage, struct frozen *frozen)
{
	struct memory *mem = stage->mem;
	state_byte *state = stage_states(stage);
	unsigned int i;

	for (i = 0; i < HUGE_PAGES; i++) {
		if (state_of(state_load(&state[i])) != PAGE_PRESENT)
			continue;
		/* Counted before, so that nobody who sees the byte counts below zero. */
		count_add(&mem->n_requested, 1);
		atomic_fetch_add(&mem->n_missing, 1);
		if (!state_freeze(&state[i])) {
			count_sub(&mem->n_requested, 1);
			atomic_fetch_sub(&mem->n_missing, 1);
			return false;
		}
		bit_set(frozen->page, i);
		frozen->n++;
	}
	return true;
}

/* Taking the protection away wakes those who wait to write. */
static int stage_protect(struct memory_stage *stage, bool on)
{
	struct uffdio_writeprotect wp = {
		.range = { .start = (uintptr_t)stage_host(stage), .len = HUGE_BYTES },
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	while (ioctl(stage->mem->uffd, UFFDIO_WRITEPROTECT, &wp) < 0)
		if (errno != EAGAIN)
			return -errno;
	return 0;
}

/*
 * Steps 1 to 3: from now on the stage holds the truth. False: it could not be,
 * and nothing changed.
 */
static bool stage_take(struct memory_stage *stage, struct frozen *frozen)
{
	unsigned int i;

	if (!stage_freeze(stage, frozen) || (frozen->n && stage_protect(stage, true) < 0)) {
		if (frozen->n)
			stage_protect(stage, false);
		stage_thaw(stage, frozen);
		return false;
	}
	for (i = 0; i < HUGE_PAGES; i++) {
		if (stage_bit_get(frozen->page, i))
			memcpy(stage->area + i * PAGE_BYTES, stage_host(stage) + i * PAGE_BYTES,
			       PAGE_BYTES);
		else if (stage_bit_get(stage->zero, i))
			memset(stage->area + i * PAGE_BYTES, 0, PAGE_BYTES);
	}
	return true;
}

/* Moves the area into the huge page's place; how many pages went: all, or as far as it came. */
static unsigned int stage_move(struct memory_stage *stage)
{
	uint64_t done = 0;
	int64_t got;

	memory_spans_arrive(stage->mem, stage->region, stage->offset, HUGE_PAGES);
	while (done < HUGE_PAGES) {
		got = memory_fill_move(stage->mem, stage->region, stage->offset + done,
				       HUGE_PAGES - done, stage->area + done * PAGE_BYTES);
		if (got > 0)
			done += (uint64_t)got;
		else if (got != -EAGAIN)
			break;
	}
	return (unsigned int)done;
}

/*
 * The move was refused: what the guest had goes back where it was. The memory
 * for it was free a moment ago; should somebody else have it now, it is tried
 * until there is some, since nobody else has what these pages hold.
 */
static void stage_put_back(struct memory_stage *stage, const struct frozen *frozen)
{
	unsigned int i;
	int64_t got;

	for (i = 0; i < HUGE_PAGES; i++) {
		uint8_t *page = stage->area + i * PAGE_BYTES;
		uint64_t offset = stage->offset + i;

		if (!stage_bit_get(frozen->page, i))
			continue;
		for (;;) {
			got = memory_fill_copy(stage->mem, stage->region, offset, 1, page);
			/* -EEXIST: it was never taken away. */
			if (got > 0 || got == -EEXIST || atomic_load(&stage->mem->shut))
				break;
			/* Moving takes no memory. */
			if (got != -EAGAIN &&
			    memory_fill_move(stage->mem, stage->region, offset, 1, page) > 0)
				break;
			if (got != -EAGAIN)
				usleep(NS_PER_MS / NS_PER_US);
		}
	}
}

/* False: it is to be placed in pieces. Adds to *fresh how many are new. */
static bool stage_place_whole(struct memory_stage *stage, int64_t *fresh)
{
	struct memory *mem = stage->mem;
	pthread_mutex_t *lock = memory_huge_lock(mem, stage->region, stage->offset);
	struct frozen frozen = { 0 };
	unsigned int done = 0, i;
	int64_t waited;
	bool huge;

	if (stage_is_placeable(stage) && stage_take(stage, &frozen)) {
		/* It may fail half-way: locked memory, say. */
		if (!madvise(stage_host(stage), HUGE_BYTES, MADV_DONTNEED) || !frozen.n)
			done = stage_move(stage);
		*fresh += (int64_t)memory_publish(mem, stage->region, stage->offset, done,
						  &frozen.wakes);
		*fresh -= stage_count_again(stage, &frozen, 0, done);
		if (done < HUGE_PAGES && frozen.n) {
			stage_put_back(stage, &frozen);
			stage_protect(stage, false);
			stage_thaw(stage, &frozen);
		}
		huge = done == HUGE_PAGES && memory_is_huge(mem->pagemap, stage_host(stage));
		stage->split |= done && !huge;
		/*
		 * The area does not have it any more: should the rest fail, it
		 * is not placed again.
		 */
		for (i = 0; i < done; i++)
			bit_clear(stage->has, i);
		if (frozen.n)
			memory_count_promoted(mem, huge);
	}
	pthread_mutex_unlock(lock);
	waited = memory_wake_published(mem, stage->region, stage->offset, &frozen.wakes);
	if (*fresh)
		PROBE_FILL(mem->region[stage->region].first.v + stage->offset, (uint64_t)*fresh,
			   waited);
	return done == HUGE_PAGES;
}

/* ---- in pieces ---- */

/* Around what is PRESENT. Adds to *fresh how many are new. */
static int stage_place_pieces(struct memory_stage *stage, int64_t *fresh)
{
	unsigned int i = 0, start;
	bool zero;
	int r = 0;

	while (i < HUGE_PAGES && !r) {
		start = i++;
		if (!stage_bit_get(stage->has, start))
			continue;
		zero = stage_bit_get(stage->zero, start);
		while (i < HUGE_PAGES && stage_bit_get(stage->has, i) &&
		       stage_bit_get(stage->zero, i) == zero)
			i++;
		r = memory_fill_huge(stage->mem, stage->region, stage->offset + start, i - start,
				     zero ? NULL : stage->area + start * PAGE_BYTES, fresh);
	}
	return r;
}

/* So many of what was held are new, or why not all of it could be placed. */
static int64_t stage_placed(struct memory_stage *stage, int64_t fresh, int r)
{
	memory_count_fresh(stage->mem, (uint64_t)fresh);
	if (r < 0)
		return r;
	if (stage->mem->uffd >= 0)
		count_add(&stage->mem->n_duplicates, stage->n - (uint64_t)fresh);
	stage->n = 0;
	return fresh;
}

int64_t memory_stage_place(struct memory_stage *stage)
{
	int64_t fresh = 0;
	int r = 0;

	if (stage->n && stage->mem->uffd >= 0 && !stage_place_whole(stage, &fresh))
		r = stage_place_pieces(stage, &fresh);
	fresh = stage_placed(stage, fresh, r);
	/*
	 * A huge page that was moved whole left nothing behind; of one that was
	 * split, what is left would serve the next badly.
	 */
	if (fresh < 0 || !stage->split)
		return fresh;
	stage->split = false;
	return stage_renew(stage) < 0 ? -ENOMEM : fresh;
}

int64_t memory_stage_place_apart(struct memory_stage *stage)
{
	int64_t fresh = 0;
	int r = stage->mem->uffd >= 0 ? stage_place_pieces(stage, &fresh) : 0;

	return stage_placed(stage, fresh, r);
}

void memory_stage_drop(struct memory_stage *stage)
{
	stage->n = 0;
}

void memory_stage_forget(struct memory_stage *stage, gfn_t first, uint64_t n,
			 struct wakes *forgotten)
{
	unsigned int i, at = (unsigned int)(first.v % HUGE_PAGES);

	for (i = at; stage->n && i < at + n; i++) {
		if (!stage_bit_get(stage->has, i))
			continue;
		bit_clear(stage->has, i);
		stage->zeros -= stage_bit_get(stage->zero, i);
		bit_clear(stage->zero, i);
		bit_set(forgotten->page, i);
		stage->n--;
	}
}
