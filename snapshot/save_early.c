// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Early pages: those that KVM touches itself, so that a restored guest needs them before it runs.
 * They go into the state's object, with what they held at the moment: taken out of what is handed
 * to the image anyway; and what is not, since it is the same there, out of the parent.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/page.h"
#include "image/state.h"
#include "snapshot/save_internal.h"

static int save_early_add(void *arg, gfn_t gfn)
{
	struct save *save = arg;
	struct save_early_page *pages;

	/* Descriptor tables and the like may point anywhere; only RAM is saved. */
	if (gfn.v > UINT64_MAX >> PAGE_SHIFT ||
	    !memory_is_ram(save->mem, gfn_to_gpa(gfn), PAGE_BYTES))
		return 0;
	pages = reallocarray(save->early, save->n_early + 1, sizeof(*pages));
	if (!pages)
		return -ENOMEM;
	save->early = pages;
	pages[save->n_early++] = (struct save_early_page){ .gfn = gfn };
	return 0;
}

int save_early_list(struct save *save, struct err *err)
{
	int r = machine_early_pages(save->config.machine, save_early_add, save, err);

	return r == -ENOMEM ? err_set(err, r, "no memory to save a machine") : r;
}

/* The first that is not before gfn. */
static size_t early_find(const struct save *save, gfn_t gfn)
{
	size_t low = 0, high = save->n_early;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (save->early[middle].gfn.v < gfn.v)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static int page_keep(struct save_early_page *page, const uint8_t *data)
{
	if (data && !page_is_zero(data)) {
		page->data = malloc(PAGE_BYTES);
		if (!page->data)
			return -ENOMEM;
		memcpy(page->data, data, PAGE_BYTES);
	}
	page->known = true;
	return 0;
}

int save_early_note(struct save *save, gfn_t first, uint32_t mask, const uint8_t *data)
{
	size_t at = early_find(save, first);
	uint64_t i;
	int r = 0;

	for (; at < save->n_early && !r; at++) {
		i = save->early[at].gfn.v - first.v;
		if (i >= MEMORY_SPAN_PAGES)
			break;
		if (mask >> i & 1)
			r = page_keep(&save->early[at], data ? data + i * PAGE_BYTES : NULL);
	}
	return r;
}

void save_early_lose(struct save *save, gfn_t first, uint32_t mask)
{
	size_t at = early_find(save, first);
	uint64_t i;

	for (; at < save->n_early; at++) {
		i = save->early[at].gfn.v - first.v;
		if (i >= MEMORY_SPAN_PAGES)
			break;
		save->early[at].lost |= mask >> i & 1;
	}
}

/* It is as in the parent. */
static int early_read(struct save *save, struct save_early_page *page, struct err *err)
{
	uint8_t data[PAGE_BYTES];
	bool zero = false;
	int64_t r;

	if (page->lost || !save->parent)
		return err_set(err, -ENODATA, "it is lost");
	r = image_read(save->parent, page->gfn, 1, data, &zero, err);
	if (r < 0)
		return (int)r;
	return page_keep(page, zero ? NULL : data) < 0 ? err_set(err, -ENOMEM, "no memory") : 0;
}

static int early_encode(struct save *save, struct buf *out, struct err *err)
{
	static const uint8_t zeros[PAGE_BYTES];
	struct save_early_page *page;
	size_t i;
	int r = 0;

	for (i = 0; i < save->n_early && !r; i++) {
		page = &save->early[i];
		if (!page->known)
			r = early_read(save, page, err);
		if (r < 0)
			return err_prefix(
				err, r, "page 0x%llx, which has to be there before the guest runs",
				(unsigned long long)gfn_to_gpa(page->gfn).v);
		r = image_state_add_page(out, page->gfn, page->data ? page->data : zeros, err);
	}
	return r;
}

int save_early_encode(struct save *save, struct buf *out, struct err *err)
{
	int r = image_state_begin(out, save->machine_state.data, save->machine_state.len, err);

	return r ? r : early_encode(save, out, err);
}

void save_early_fini(struct save *save)
{
	size_t i;

	for (i = 0; i < save->n_early; i++)
		free(save->early[i].data);
	free(save->early);
}
