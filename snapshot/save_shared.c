// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Memory that clones share (memory/backing.c), while the guest stands still. What it has not
 * written is as the image has it, and is kept by name; the page table knows the rest
 * (memory_written), which is little and is read by gup.
 */
#include <errno.h>
#include <string.h>

#include "memory/gup.h"
#include "snapshot/save_internal.h"

/* Waits for what has to come; a cancel ends that. */
static int get_pages(const struct save_reader *reader, gfn_t gfn, uint64_t n, struct gup_span *span)
{
	const struct gup_opts opts = { .self = reader->self };
	struct memory *mem = reader->save->mem;
	int r;

	memory_map_lock(mem);
	r = gup(mem, gfn_to_gpa(gfn), n * PAGE_BYTES, GUP_INTERRUPTIBLE, &opts, span);
	memory_map_unlock(mem);
	return r;
}

/* Pages [i, i + n) of the span at `base`, which are this machine's own. */
static int save_own(const struct save_reader *reader, gfn_t base, unsigned int i, unsigned int n,
		    struct err *err)
{
	struct save *save = reader->save;
	uint32_t mask = ((UINT32_C(1) << n) - 1) << i;
	gfn_t gfn = GFN(base.v + i);
	struct gup_span span;
	const uint8_t *data;
	int r;

	r = get_pages(reader, gfn, n, &span);
	if (r == -EIO && n == 1) {
		save_early_lose(save, base, mask);
		return image_writer_absent(save->writer, gfn, 1, err);
	}
	if (r == -EINTR)
		return save_cancelled(err);
	if (r < 0)
		return r == -EIO ? r :
				   err_errno(err, r, "page 0x%llx",
					     (unsigned long long)gfn_to_gpa(gfn).v);
	/* The writer wants the place of the span's first page. */
	data = (const uint8_t *)((uintptr_t)span.hva - i * PAGE_BYTES);
	r = save_early_note(save, base, mask, data);
	r = r ? err_set(err, r, "no memory to save a machine") :
		image_writer_span(save->writer, base, mask, data, err);
	gup_put(save->mem, &span);
	return r;
}

static int save_own_each(const struct save_reader *reader, gfn_t base, unsigned int i,
			 unsigned int n, struct err *err)
{
	unsigned int end = i + n;
	/* As one; but where a page of them is lost, one by one. */
	int r = save_own(reader, base, i, n, err);

	if (r != -EIO || n == 1)
		return r;
	for (r = 0; i < end && !r; i++)
		r = save_own(reader, base, i, 1, err);
	return r;
}

static int save_shared_span(const struct save_reader *reader, gfn_t first,
			    const uint8_t own[IMAGE_SPAN_PAGES / 8], struct err *err)
{
	unsigned int bits = own[0] | (unsigned int)own[1] << 8, i = 0, start;
	bool mine;
	int r = 0;

	while (i < IMAGE_SPAN_PAGES && !r) {
		start = i;
		mine = bits >> start & 1;
		while (i < IMAGE_SPAN_PAGES && (bits >> i & 1) == mine)
			i++;
		r = mine ? save_own_each(reader, first, start, i - start, err) :
			   image_writer_keep(reader->save->writer, GFN(first.v + start), i - start,
					     err);
	}
	return r;
}

/* The huge page's pages that are to be read: without a parent all of them. */
static int own_pages(const struct save *save, gfn_t first, uint8_t own[HUGE_PAGES / 8],
		     struct err *err)
{
	int64_t r;

	memset(own, save->parent ? 0 : 0xff, HUGE_PAGES / 8);
	if (!save->parent)
		return 0;
	r = memory_written(save->mem, first, HUGE_PAGES, own);
	return r < 0 ? err_errno(err, (int)r, "which pages are this machine's own") : 0;
}

static int save_huge(const struct save_reader *reader, gfn_t first, struct err *err)
{
	uint8_t own[HUGE_PAGES / 8];
	uint64_t i;
	int r = own_pages(reader->save, first, own, err);

	for (i = 0; i < HUGE_PAGES && !r; i += IMAGE_SPAN_PAGES)
		r = save_shared_span(reader, GFN(first.v + i), own + i / 8, err);
	return r;
}

/* The next huge page that nobody has taken; false: there is none. */
static bool save_take_huge(struct save *save, gfn_t *first)
{
	uint64_t at = atomic_fetch_add(&save->next_huge, 1);
	const struct memory_region *region;
	unsigned int i, n;

	region = memory_regions(save->mem, &n);
	for (i = 0; i < n; i++) {
		if (at < region[i].pages / HUGE_PAGES) {
			*first = GFN(region[i].first.v + at * HUGE_PAGES);
			return true;
		}
		at -= region[i].pages / HUGE_PAGES;
	}
	return false;
}

int save_shared_run(const struct save_reader *reader, struct err *err)
{
	struct save *save = reader->save;
	gfn_t first;
	int r = 0;

	while (!r && !save_is_cancelled(save) && save_take_huge(save, &first)) {
		r = save_huge(reader, first, err);
		atomic_fetch_add(&save->pages_done, HUGE_PAGES);
	}
	return r;
}
