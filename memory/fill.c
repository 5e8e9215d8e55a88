// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Pages come in: UFFDIO_COPY makes them visible whole and in one step, then their bytes become PRESENT, then whoever
// waits in gup or has a ticket is woken (UFFDIO_COPY itself wakes those who wait inside the kernel).
//
// Data that a source has put into a staging area is moved instead of copied, where the kernel can (UFFDIO_MOVE, Linux 6.8): a
// whole huge page changes hands in one step, and KVM maps it as one.
#include <errno.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "base/log.h"
#include "memory/internal.h"
#include "memory/stage.h"

/* Newer than Debian 12's headers: Linux' include/uapi/linux/userfaultfd.h. */
#ifndef UFFDIO_MOVE
struct uffdio_move {
	__u64 dst, src, len, mode;
	__s64 move;
};
#define UFFDIO_MOVE _IOWR(UFFDIO, 0x05, struct uffdio_move)
#endif

/* Where pages come from. */
struct fill_data {
	uint8_t *pages;		/* of the first page filled; NULL: zeros */
	bool move;		/* they lie in a staging area, and may be taken away */
};

static int64_t fill_move(struct memory *mem, uint64_t to, uint64_t n, uint8_t *pages)
{
	struct uffdio_move move = { .dst = to, .src = (uintptr_t)pages, .len = n * PAGE_BYTES };

	if (!ioctl(mem->uffd, UFFDIO_MOVE, &move))
		return (int64_t)n;
	return move.move > 0 ? move.move / (int64_t)PAGE_BYTES : -errno;
}

/*
 * Copies (or zero-fills) up to n pages at offset. Returns how many pages came in (perhaps fewer than asked), or a negative
 * errno of the first page: -EEXIST the kernel has it already, -ENOENT the range is cut by an eject's mprotect.
 */
static int64_t fill_kernel(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n,
			   struct fill_data *from)
{
	uint64_t to = (uintptr_t)mem->region[region].host + offset * PAGE_BYTES;
	int64_t done;

	if (from->pages) {
		struct uffdio_copy copy = {
			.dst = to, .src = (uintptr_t)from->pages, .len = n * PAGE_BYTES,
		};

		if (from->move) {
			done = fill_move(mem, to, n, from->pages);
			if (done > 0 || done == -EEXIST || done == -EAGAIN)
				return done;
			/* What cannot be moved (an eject's mprotect is under way, say) is copied. */
			from->move = false;
		}
		if (!ioctl(mem->uffd, UFFDIO_COPY, &copy))
			return (int64_t)n;
		done = copy.copy;
	} else {
		struct uffdio_zeropage zero = {
			.range = { .start = to, .len = n * PAGE_BYTES },
		};

		if (!ioctl(mem->uffd, UFFDIO_ZEROPAGE, &zero))
			return (int64_t)n;
		done = zero.zeropage;
	}
	return done > 0 ? done / (int64_t)PAGE_BYTES : -errno;
}

/* Remembers how a huge page came to be: whole, or how much of it is zero; memory_collapse asks later. */
static void fill_note(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n, const struct fill_data *from)
{
	struct huge_note *note = &mem->huge[region][offset / HUGE_PAGES];

	if (from->move && n == HUGE_PAGES)
		atomic_store_explicit(&note->whole, true, memory_order_relaxed);
	for (; !from->pages && n; offset++, n--)
		/* Statistics order nothing. */
		atomic_fetch_add_explicit(&mem->huge[region][offset / HUGE_PAGES].zeros, 1,
					  memory_order_relaxed);
}

/* [offset, offset + n) is in: the bytes become PRESENT and waiters are woken. Returns how many were new. */
static uint64_t fill_publish(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n)
{
	uint64_t i, fresh = 0, requested = 0, lost = 0;
	bool waited = false;
	uint8_t old;

	for (i = 0; i < n; i++) {
		old = state_set_present(&mem->state[region][offset + i]);
		fresh += state_of(old) != PAGE_PRESENT;
		requested += state_of(old) == PAGE_REQUESTED;
		lost += state_of(old) == PAGE_LOST;
		waited |= old & STATE_WAITED;
	}
	count_add(&mem->n_filled, fresh);
	count_sub(&mem->n_requested, requested);
	count_sub(&mem->n_lost, lost);
	if (waited)
		memory_wake(mem, GFN(mem->region[region].first.v + offset), n, true);
	return fresh;
}

/* The last page has come: the kernel need not watch any more. */
static void fill_complete(struct memory *mem)
{
	unsigned int i;

	pthread_rwlock_wrlock(&mem->map_lock);
	for (i = 0; i < mem->regions; i++) {
		struct uffdio_range range = {
			.start = (uintptr_t)mem->region[i].host,
			.len = mem->region[i].pages * PAGE_BYTES,
		};

		if (ioctl(mem->uffd, UFFDIO_UNREGISTER, &range) < 0)
			log_warn("UFFDIO_UNREGISTER: errno %d", errno);
	}
	pthread_rwlock_unlock(&mem->map_lock);
	/* Sequentially consistent: who sees "not late" sees all that the fills did. */
	atomic_store(&mem->late, false);
	memory_collapse_start(mem);
	if (mem->events.complete)
		mem->events.complete(mem->events.arg);
}

/* Fills [offset, offset + n), none of which was PRESENT a moment ago. Adds to *fresh what came in, also with an error. */
static int fill_run(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n,
			struct fill_data from, int64_t *fresh)
{
	uint64_t i = 0, batch = n;
	struct fill_data at;
	int64_t got;

	while (i < n) {
		if (batch > n - i)
			batch = n - i;
		at = from;
		if (at.pages)
			at.pages += i * PAGE_BYTES;
		got = fill_kernel(mem, region, offset + i, batch, &at);
		if (got > 0) {
			fill_note(mem, region, offset + i, (uint64_t)got, &at);
			*fresh += (int64_t)fill_publish(mem, region, offset + i, (uint64_t)got);
			i += (uint64_t)got;
			continue;
		}
		switch (got) {
		case -EAGAIN:		/* the memory map is changing: again */
			break;
		case -EEXIST:
			/*
			 * Another filler has it in the kernel and is about to publish it. Published here as well: a
			 * page that the kernel has is whole, and its waiters are not left to the other one.
			 */
			memory_wake_kernel(mem, region, offset + i);
			*fresh += (int64_t)fill_publish(mem, region, offset + i, 1);
			i++;
			break;
		case -ENOENT:
			/*
			 * An eject has cut the mapping in pieces for a moment: page by page. Or all pages have come by
			 * other fillers and nothing is watched any more: then this one is PRESENT.
			 */
			if (state_of(state_load(&mem->state[region][offset + i])) == PAGE_PRESENT)
				i++;
			else if (batch == 1)
				return -EFAULT;
			batch = 1;
			break;
		default:
			return (int)got;
		}
	}
	return 0;
}

static int64_t fill(struct memory *mem, gfn_t first, uint64_t n, struct fill_data from)
{
	unsigned int region;
	uint64_t offset, i, start;
	int64_t got = 0, fresh = 0;

	if (!memory_find(mem, first, n, &region, &offset))
		return -EFAULT;
	if (mem->uffd < 0)
		return 0;
	for (i = 0; i < n && got >= 0;) {
		for (start = i; i < n; i++)
			if (state_of(state_load(&mem->state[region][offset + i])) == PAGE_PRESENT)
				break;
		if (i > start) {
			got = fill_run(mem, region, offset + start, i - start,
				       (struct fill_data){
					       .pages = from.pages ? from.pages + start * PAGE_BYTES : NULL,
					       .move = from.move,
				       }, &fresh);
		}
		for (; got >= 0 && i < n; i++)
			if (state_of(state_load(&mem->state[region][offset + i])) != PAGE_PRESENT)
				break;
	}
	if (fresh > 0) {
		/* The one that takes the count to zero, and no other, completes. */
		if (atomic_fetch_sub(&mem->n_missing, (uint64_t)fresh) == (uint64_t)fresh)
			fill_complete(mem);
	}
	if (got >= 0)
		count_add(&mem->n_duplicates, n - (uint64_t)fresh);
	return got < 0 ? got : fresh;
}

int64_t memory_fill(struct memory *mem, gfn_t first, uint64_t n, const void *data)
{
	/* Only pages of a staging area are ever taken away. */
	return fill(mem, first, n, (struct fill_data){ .pages = (uint8_t *)(uintptr_t)data });
}

/* ---- staging areas ---- */

struct memory_stage {
	struct memory *mem;
	uint8_t *map;		/* twice a huge page, so that one lies inside at its boundary */
	uint8_t *area;
};

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

uint8_t *memory_stage_at(struct memory_stage *stage, gfn_t gfn)
{
	return stage->area + gfn.v % HUGE_PAGES * PAGE_BYTES;
}

int64_t memory_fill_staged(struct memory_stage *stage, gfn_t first, uint64_t n)
{
	struct memory *mem = stage->mem;
	struct fill_data from = { .pages = memory_stage_at(stage, first) };
	int64_t r;

	if (!n || n > HUGE_PAGES - first.v % HUGE_PAGES)
		return -EFAULT;
	/* A part is copied: moved, it would leave an area that only gets small pages, and renewing that costs more. */
	from.move = mem->can_move && n == HUGE_PAGES;
	r = fill(mem, first, n, from);
	/* Moved in one piece it left nothing behind. In several, around pages that were there: begin anew. */
	if (from.move && r != (int64_t)HUGE_PAGES && stage_renew(stage) < 0)
		return -ENOMEM;
	return r;
}

int memory_lose(struct memory *mem, gfn_t gfn)
{
	unsigned int region;
	uint64_t offset;
	uint8_t old;

	if (!memory_find(mem, gfn, 1, &region, &offset))
		return -EFAULT;
	old = state_set_lost(&mem->state[region][offset]);
	if (state_of(old) == PAGE_PRESENT || state_of(old) == PAGE_LOST)
		return 0;
	if (state_of(old) == PAGE_REQUESTED)
		count_sub(&mem->n_requested, 1);
	count_add(&mem->n_lost, 1);
	if (old & STATE_WAITED)
		memory_wake(mem, gfn, 1, false);
	if (mem->events.lost)
		mem->events.lost(mem->events.arg, gfn);
	return 0;
}

/* ---- as a sink ---- */

static struct memory *memory_of(struct page_sink *sink)
{
	return (struct memory *)(void *)((char *)sink - offsetof(struct memory, sink));
}

static int64_t sink_fill(struct page_sink *sink, gfn_t first, uint64_t n, const void *data)
{
	return memory_fill(memory_of(sink), first, n, data);
}

static int sink_lose(struct page_sink *sink, gfn_t gfn)
{
	return memory_lose(memory_of(sink), gfn);
}

const struct page_sink_ops memory_sink_ops = {
	.name = "memory",
	.fill = sink_fill,
	.lose = sink_lose,
};

struct page_sink *memory_sink(struct memory *mem)
{
	return &mem->sink;
}
