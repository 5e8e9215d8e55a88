// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Staged pages are placed, as one huge page where that is possible.
//
// Pages that somebody waited for came alone, and the guest may have changed them since; they keep a huge page from being moved in one
// piece. So, with the huge page's lock held, which keeps other fillers away:
//
//   1. Each of its pages that is PRESENT becomes REQUESTED again, unless somebody holds it (pins, an eject): gup waits for it.
//   2. It is write-protected, so that the guest and the kernel wait when they write. What they could see until now they still see.
//   3. Its PRESENT pages are copied into the stage: now the stage holds the truth about all 512.
//   4. The range is emptied, its page table with it (Linux 6.14 and later free it). Who reads now waits as for any missing page.
//   5. The stage's huge page is moved there, which wakes all that wait in the kernel; the bytes become PRESENT again.
//
// Nothing in it waits for a source: it takes some ten microseconds, a tenth of what copying the missing pages takes. If the
// move is refused, the whole stage is copied: from step 4 on it holds the only copy of the guest's pages and is not given up.
#include "memory/stage.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "memory/internal.h"

#define STAGE_WORDS (HUGE_PAGES / 64)

struct memory_stage {
	struct memory *mem;
	uint8_t *map;		/* twice a huge page, so that one lies inside at its boundary */
	uint8_t *area;
	int pagemap;		/* -1: none, then nothing is known to be huge */
	/* What waits. */
	unsigned int region;
	uint64_t offset;	/* of the huge page in its region, in pages */
	unsigned int n, zeros;	/* pages, and those of them that are zero */
	uint64_t has[STAGE_WORDS], zero[STAGE_WORDS];
};

static bool bit_get(const uint64_t *words, unsigned int i)
{
	return words[i / 64] >> (i % 64) & 1;
}

static void bit_set(uint64_t *words, unsigned int i)
{
	words[i / 64] |= UINT64_C(1) << (i % 64);
}

/* ---- life ---- */

/* Fresh, untouched memory at the area: the next touch brings a whole huge page. */
static int stage_renew(struct memory_stage *stage)
{
	if (mmap(stage->area, HUGE_BYTES, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		return -errno;
	madvise(stage->area, HUGE_BYTES, MADV_HUGEPAGE);
	return 0;
}

int memory_stage_new(struct memory_stage **out, struct memory *mem, struct err *err)
{
	struct memory_stage *stage = calloc(1, sizeof(*stage));

	if (!stage)
		return err_set(err, -ENOMEM, "no memory to receive pages");
	stage->mem = mem;
	stage->map = mmap(NULL, 2 * HUGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (stage->map == MAP_FAILED) {
		free(stage);
		return err_set(err, -ENOMEM, "no memory to receive pages");
	}
	stage->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
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
	if (stage->pagemap >= 0)
		close(stage->pagemap);
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
	if ((stage->mem->region[stage->region].first.v + stage->offset) / HUGE_PAGES != first.v / HUGE_PAGES)
		return false;
	for (i = at; i < at + n; i++)
		if (bit_get(stage->has, i))
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

bool memory_stage_is_whole(const struct memory_stage *stage)
{
	state_byte *state = &stage->mem->state[stage->region][stage->offset];
	unsigned int i;

	if (!stage->n)
		return false;
	for (i = 0; i < HUGE_PAGES; i++)
		if (!bit_get(stage->has, i) && state_of(state_load(&state[i])) != PAGE_PRESENT)
			return false;
	return true;
}

/* ---- in one piece ---- */

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

/* Pages [first, first + n) of the huge page are in the kernel. Returns how many are new: those taken back were counted before. */
static uint64_t stage_publish(struct memory_stage *stage, struct frozen *frozen, unsigned int first, unsigned int n)
{
	uint64_t fresh = memory_publish(stage->mem, stage->region, stage->offset + first, n, &frozen->wakes);
	unsigned int i, again = 0;

	for (i = first; i < first + n; i++)
		again += bit_get(frozen->page, i);
	count_sub(&stage->mem->n_filled, again);
	/* Never to zero: a page that is new is still counted. */
	atomic_fetch_sub(&stage->mem->n_missing, again);
	return fresh - again;
}

/* Can all 512 pages be placed together, and is any of them new? */
static bool stage_is_placeable(const struct memory_stage *stage)
{
	const struct memory *mem = stage->mem;
	state_byte *state = stage_states(stage);
	unsigned int i, here = 0;
	uint8_t byte;

	if (!mem->can_move || stage->zeros > MEMORY_HUGE_ZEROS_MAX)
		return false;
	for (i = 0; i < HUGE_PAGES; i++) {
		byte = state_load(&state[i]);
		if (byte & (STATE_EJECTING | STATE_PIN_MASK))
			return false;
		if (state_of(byte) == PAGE_PRESENT)
			here++;
		else if (!bit_get(stage->has, i))
			return false;
	}
	return here < HUGE_PAGES && (!here || mem->can_mend);
}

/* As it was before stage_freeze. */
static void stage_thaw(struct memory_stage *stage, struct frozen *frozen)
{
	unsigned int i;

	for (i = 0; i < HUGE_PAGES; i++)
		if (bit_get(frozen->page, i))
			stage_publish(stage, frozen, i, 1);
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
		if (!state_freeze(&state[i]))
			return false;
		atomic_fetch_add(&mem->n_missing, 1);
		count_add(&mem->n_requested, 1);
		bit_set(frozen->page, i);
		frozen->n++;
	}
	return true;
}

/* Taking the protection away wakes those who wait to write. */
static int stage_protect(struct memory_stage *stage, uint8_t *host, bool on)
{
	struct uffdio_writeprotect wp = {
		.range = { .start = (uintptr_t)host, .len = HUGE_BYTES },
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	while (ioctl(stage->mem->uffd, UFFDIO_WRITEPROTECT, &wp) < 0)
		if (errno != EAGAIN)
			return -errno;
	return 0;
}

/*
 * Steps 1 to 3: from now on the stage holds the truth. False: it could not be, and nothing changed. An eject would take the guest's
 * pages from under the copying, hence its lock.
 */
static bool stage_take(struct memory_stage *stage, uint8_t *host, struct frozen *frozen)
{
	struct memory *mem = stage->mem;
	unsigned int i;
	bool ok;

	pthread_mutex_lock(&mem->eject_lock);
	ok = stage_freeze(stage, frozen) && (!frozen->n || !stage_protect(stage, host, true));
	for (i = 0; ok && i < HUGE_PAGES; i++) {
		if (bit_get(frozen->page, i))
			memcpy(stage->area + i * PAGE_BYTES, host + i * PAGE_BYTES, PAGE_BYTES);
		else if (bit_get(stage->zero, i))
			memset(stage->area + i * PAGE_BYTES, 0, PAGE_BYTES);
	}
	pthread_mutex_unlock(&mem->eject_lock);
	if (!ok)
		stage_thaw(stage, frozen);
	return ok;
}

/*
 * Brings the area's pages into the kernel's page table. Returns 0, or why only the first *done are there. `must`: nobody else has what
 * the area holds, so it is tried until the host has memory for it.
 */
static int stage_bring(struct memory_stage *stage, bool must, unsigned int *done)
{
	struct memory *mem = stage->mem;
	struct fill_data from = { .move = true };
	uint64_t batch = HUGE_PAGES;
	int64_t got;

	for (*done = 0; *done < HUGE_PAGES;) {
		from.pages = stage->area + *done * PAGE_BYTES;
		batch = batch < HUGE_PAGES - *done ? batch : HUGE_PAGES - *done;
		got = memory_fill_kernel(mem, stage->region, stage->offset + *done, batch, &from);
		if (got > 0) {
			*done += (unsigned int)got;
		} else if (got == -EEXIST) {
			memory_wake_kernel(mem, stage->region, stage->offset + *done);
			*done += 1;
		} else if (got == -ENOENT && batch > 1) {
			batch = 1;	/* an eject has cut the mapping in pieces */
		} else if (got != -EAGAIN) {
			if (!must || atomic_load(&mem->shut))
				return (int)got;
			usleep(NS_PER_MS / NS_PER_US);
		}
	}
	return 0;
}

/* With the huge page's lock held. False: it is to be placed in pieces. *fresh: as memory_fill's result. */
static bool stage_place_whole(struct memory_stage *stage, struct frozen *frozen, int64_t *fresh)
{
	struct memory *mem = stage->mem;
	uint8_t *host = mem->region[stage->region].host + stage->offset * PAGE_BYTES;
	unsigned int done;
	bool huge;
	int r;

	if (!stage_is_placeable(stage) || !stage_take(stage, host, frozen))
		return false;
	if (madvise(host, HUGE_BYTES, MADV_DONTNEED) < 0 && frozen->n) {
		/* Locked memory, say. */
		mem->can_mend = false;
		stage_protect(stage, host, false);
		stage_thaw(stage, frozen);
		return false;
	}
	r = stage_bring(stage, frozen->n, &done);
	huge = !r && memory_is_huge(stage->pagemap, host);
	*fresh = (int64_t)stage_publish(stage, frozen, 0, done);
	if (!huge) {
		/* Where the kernel keeps the empty page table, mending only costs. */
		mem->can_mend &= !frozen->n;
		/* What a huge page was split into would serve the next one badly. */
		r = stage_renew(stage) < 0 ? -ENOMEM : r;
	}
	if (r < 0) {
		memory_count_fresh(mem, (uint64_t)*fresh);
		*fresh = r;
	}
	return true;
}

/* ---- in pieces ---- */

static int64_t stage_place_pieces(struct memory_stage *stage)
{
	gfn_t first = GFN(stage->mem->region[stage->region].first.v + stage->offset);
	unsigned int i = 0, start;
	int64_t fresh = 0, got;
	bool zero;

	while (i < HUGE_PAGES) {
		start = i++;
		if (!bit_get(stage->has, start))
			continue;
		zero = bit_get(stage->zero, start);
		while (i < HUGE_PAGES && bit_get(stage->has, i) && bit_get(stage->zero, i) == zero)
			i++;
		got = memory_fill(stage->mem, GFN(first.v + start), i - start,
				  zero ? NULL : stage->area + start * PAGE_BYTES);
		if (got < 0)
			return got;
		fresh += got;
	}
	return fresh;
}

int64_t memory_stage_place(struct memory_stage *stage)
{
	struct memory *mem = stage->mem;
	unsigned int n = stage->n;
	struct frozen frozen = { 0 };
	pthread_mutex_t *lock;
	int64_t fresh = 0;
	bool whole;

	stage->n = 0;
	if (!n || mem->uffd < 0)
		return 0;
	lock = memory_huge_lock(mem, stage->region, stage->offset);
	whole = stage_place_whole(stage, &frozen, &fresh);
	pthread_mutex_unlock(lock);
	memory_wake_published(mem, stage->region, stage->offset, &frozen.wakes);
	if (!whole)
		return stage_place_pieces(stage);
	if (fresh >= 0)
		count_add(&mem->n_duplicates, n - (uint64_t)fresh);
	memory_count_fresh(mem, fresh > 0 ? (uint64_t)fresh : 0);
	return fresh;
}
