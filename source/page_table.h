/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A table of pages, of fixed size: which are asked for, or were wrong. Open
 * addressing, so that nothing is allocated after the start. The caller locks.
 */
#ifndef POSTERN_SOURCE_PAGE_TABLE_H
#define POSTERN_SOURCE_PAGE_TABLE_H

#include "base/err.h"
#include "base/types.h"

#define PAGE_TABLE_MAX (1u << 20)

/* What is known of a page. All but the first two are the table's user's. */
struct page_note {
	gfn_t gfn;
	bool used;
	uint8_t tries;
	uint8_t rounds;
	uint8_t source;			/* index */
	uint8_t refused;		/* bit a source */
	int64_t since_ns, due_ns;
};

struct page_table {
	struct page_note *slot;
	size_t slots;			/* a power of two, at least twice max */
	size_t max, count;
};

/* For up to max (1 to PAGE_TABLE_MAX) pages. -EINVAL, -ENOMEM. */
int page_table_init(struct page_table *table, size_t max, struct err *err);
void page_table_fini(struct page_table *table);

/* NULL: not in the table. Notes stay where they are until the next page_table_remove. */
struct page_note *page_table_find(const struct page_table *table, gfn_t gfn);
/* A page that is not in the table: its note, zero but for gfn; NULL: the table is full. */
struct page_note *page_table_add(struct page_table *table, gfn_t gfn);
void page_table_remove(struct page_table *table, struct page_note *note);
/* Removes gfn; was it there? */
bool page_table_take(struct page_table *table, gfn_t gfn);

#endif
