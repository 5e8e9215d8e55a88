// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * What the destination still lacks, after a lost link. Its page states are the
 * truth: what was sent and not placed was lost with the link, so the source
 * forgets what it sent and marks what it is told.
 *
 * The bitmap travels in pieces of at most PIECE_BYTES, in ascending order,
 * region by region, and covers every page exactly once; the source takes
 * nothing less.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/log.h"
#include "migrate/internal.h"

#define PIECE_BYTES ((uint64_t)256 << 10)
#define PIECE_PAGES (PIECE_BYTES * 8)

uint64_t recover_count_missing(struct migration *m)
{
	struct memory_stats stats;

	memory_stats(machine_memory(m->machine), &stats);
	return stats.missing;
}

static int send_piece(struct incoming *in, gfn_t first, uint64_t pages, uint8_t *bits)
{
	Postern__Wire__Missing missing = POSTERN__WIRE__MISSING__INIT;
	int64_t r = memory_missing_bitmap(machine_memory(in->m->machine), first, pages, bits);

	if (r < 0)
		return (int)r;
	missing.gfn = first.v;
	missing.pages = pages;
	missing.bits.data = bits;
	missing.bits.len = (pages + 7) / 8;
	link_send(in->session.link, WIRE(MISSING), &missing);
	return 0;
}

void recover_send_missing(struct incoming *in)
{
	Postern__Wire__MissingEnd end = POSTERN__WIRE__MISSING_END__INIT;
	const struct memory_region *regions;
	uint8_t *bits = malloc(PIECE_BYTES);
	struct err err;
	unsigned int i, n;
	uint64_t at;
	int r = bits ? 0 : -ENOMEM;

	regions = memory_regions(machine_memory(in->m->machine), &n);
	for (i = 0; i < n && !r; i++)
		for (at = 0; at < regions[i].pages && !r; at += PIECE_PAGES) {
			uint64_t left = regions[i].pages - at;

			r = send_piece(in, GFN(regions[i].first.v + at),
				       left < PIECE_PAGES ? left : PIECE_PAGES, bits);
		}
	free(bits);
	if (!r) {
		link_send(in->session.link, WIRE(MISSING_END), &end);
		return;
	}
	err_errno(&err, r, "telling which pages are missing");
	link_fail(in->session.link, &err);
}

void recover_begin(struct outgoing *o)
{
	o->reported_pages = 0;
	o->reported_missing = 0;
}

/* The page that is `index` pages from the start of all regions laid end to end. */
static gfn_t page_at(const struct outgoing *o, uint64_t index)
{
	const struct memory_region *regions;
	unsigned int i, n;

	regions = memory_regions(machine_memory(o->m->machine), &n);
	for (i = 0; i < n; i++) {
		if (index < regions[i].pages)
			return GFN(regions[i].first.v + index);
		index -= regions[i].pages;
	}
	return GFN(UINT64_MAX);
}

int recover_take_missing(struct outgoing *o, const Postern__Wire__Missing *missing, struct err *err)
{
	struct memory *mem = machine_memory(o->m->machine);
	uint64_t pages = missing->pages;
	int64_t n;

	if (!pages || pages > PIECE_PAGES || missing->bits.len != (pages + 7) / 8)
		return err_set(err, -EBADMSG, "Missing message of %" PRIu64 " pages in %zu bytes",
			       pages, missing->bits.len);
	if (missing->gfn != page_at(o, o->reported_pages).v ||
	    !memory_is_ram(mem, gfn_to_gpa(GFN(missing->gfn)), pages * PAGE_BYTES))
		return err_set(err, -EBADMSG,
			       "Missing message of %" PRIu64 " pages from 0x%" PRIx64
			       ", which are not the next of this guest's RAM", pages, missing->gfn);
	n = sender_mark_reported(o->sender, GFN(missing->gfn), pages, missing->bits.data, err);
	if (n < 0)
		return (int)n;
	o->reported_missing += (uint64_t)n;
	o->reported_pages += pages;
	return 0;
}

int recover_end(struct outgoing *o, struct err *err)
{
	uint64_t pages = memory_pages(machine_memory(o->m->machine));

	if (o->reported_pages != pages || o->reported_missing != o->reply_missing)
		return err_set(err, -EBADMSG,
			       "told about %" PRIu64 " of %" PRIu64 " pages, of which %" PRIu64
			       " are missing and not %" PRIu64,
			       o->reported_pages, pages, o->reported_missing, o->reply_missing);
	log_info("migration: going on with %" PRIu64 " of %" PRIu64 " pages to send",
		 o->reported_missing, pages);
	return 0;
}
