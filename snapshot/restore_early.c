// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "snapshot/restore_early.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/page.h"

/* At once: each is a page of a buffer that is fresh, and so is a fault of its own. */
#define EARLY_RUN_PAGES 8u

/* The i-th early page and those behind it that follow on each other, into `pages`: how many. */
static unsigned int early_page_run(const struct image_state *state, unsigned int i, uint8_t *pages)
{
	gfn_t first = image_state_page(state, i, &(const uint8_t *){ NULL });
	const uint8_t *page;
	unsigned int n;

	for (n = 0; n < EARLY_RUN_PAGES && i + n < state->n_pages; n++) {
		if (image_state_page(state, i + n, &page).v != first.v + n)
			break;
		memcpy(pages + n * PAGE_BYTES, page, PAGE_BYTES);
	}
	return n;
}

int early_place(struct memory *mem, const struct image_state *state, struct err *err)
{
	struct page_sink *sink = memory_sink(mem);
	uint8_t *pages = page_buffer_new(EARLY_RUN_PAGES * PAGE_BYTES);
	unsigned int i, n;
	int64_t r = 0;
	gfn_t first;

	if (!pages)
		return err_set(err, -ENOMEM, "no memory to restore a machine");
	for (i = 0; i < state->n_pages && r >= 0; i += n) {
		first = image_state_page(state, i, &(const uint8_t *){ NULL });
		n = early_page_run(state, i, pages);
		r = sink->ops->fill(sink, first, n, pages);
		if (r < 0)
			err_errno(err, (int)r, "page 0x%" PRIx64 " of the image's state",
				  gfn_to_gpa(first).v);
	}
	page_buffer_free(pages, EARLY_RUN_PAGES * PAGE_BYTES);
	return r < 0 ? (int)r : 0;
}

/* Early pages are in ascending order. */
void early_spans_of(struct early_spans *spans, const struct image_state *state,
		    unsigned int span_pages)
{
	unsigned int i;
	gfn_t first;

	*spans = (struct early_spans){ .span_pages = span_pages };
	for (i = 0; i < state->n_pages && !spans->more; i++) {
		first = image_state_page(state, i, &(const uint8_t *){ NULL });
		first.v -= first.v % span_pages;
		if (spans->n && spans->first[spans->n - 1].v == first.v)
			continue;
		spans->more = spans->n == EARLY_SPANS_MAX;
		if (!spans->more)
			spans->first[spans->n++] = first;
	}
}

void early_spans_read(const struct early_spans *spans, struct image *image)
{
	size_t bytes = spans->span_pages * PAGE_BYTES;
	uint8_t *pages = page_buffer_new(bytes);
	enum image_page kind;
	unsigned int i, at;
	struct err err;
	int64_t r = 0;
	bool zero;

	for (i = 0; i < spans->n && pages && r >= 0; i++)
		r = image_look(image, spans->first[i], 1, &kind, &err);
	for (i = 0; i < spans->n && pages && !spans->more; i++)
		for (at = 0; at < spans->span_pages && r >= 0; at += r ? (unsigned int)r : 1)
			r = image_read(image, GFN(spans->first[i].v + at), spans->span_pages - at,
				       pages, &zero, &err);
	if (pages)
		page_buffer_free(pages, bytes);
}
