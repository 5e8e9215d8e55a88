// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "source/page_table.h"

#include <errno.h>
#include <stdlib.h>

int page_table_init(struct page_table *table, size_t max, struct err *err)
{
	if (max < 1 || max > PAGE_TABLE_MAX)
		return err_set(err, -EINVAL, "a table of %zu pages, 1 to %u are possible", max,
			       PAGE_TABLE_MAX);
	*table = (struct page_table){ .max = max, .slots = 2 };
	while (table->slots < 2 * max)
		table->slots *= 2;
	table->slot = calloc(table->slots, sizeof(*table->slot));
	return table->slot ? 0 : err_set(err, -ENOMEM, "no memory for a table of %zu pages", max);
}

void page_table_fini(struct page_table *table)
{
	free(table->slot);
	table->slot = NULL;
}

/* Where a page belongs if nothing is in its way. */
static size_t home(const struct page_table *table, gfn_t gfn)
{
	return (size_t)(gfn.v * UINT64_C(0x9e3779b97f4a7c15) >> 32) & (table->slots - 1);
}

static size_t next(const struct page_table *table, size_t i)
{
	return (i + 1) & (table->slots - 1);
}

struct page_note *page_table_find(const struct page_table *table, gfn_t gfn)
{
	size_t i;

	if (!table->count)
		return NULL;
	for (i = home(table, gfn); table->slot[i].used; i = next(table, i))
		if (table->slot[i].gfn.v == gfn.v)
			return &table->slot[i];
	return NULL;
}

struct page_note *page_table_add(struct page_table *table, gfn_t gfn)
{
	size_t i = home(table, gfn);

	if (table->count == table->max)
		return NULL;
	while (table->slot[i].used)
		i = next(table, i);
	table->slot[i] = (struct page_note){ .gfn = gfn, .used = true };
	table->count++;
	return &table->slot[i];
}

/* What stood behind the hole because of it moves up, so that no search ends at a hole. */
void page_table_remove(struct page_table *table, struct page_note *note)
{
	size_t mask = table->slots - 1, hole = (size_t)(note - table->slot), i;

	for (i = next(table, hole); table->slot[i].used; i = next(table, i)) {
		size_t from_home = (i - home(table, table->slot[i].gfn)) & mask;

		if (from_home < ((i - hole) & mask))
			continue;
		table->slot[hole] = table->slot[i];
		hole = i;
	}
	table->slot[hole].used = false;
	table->count--;
}

bool page_table_take(struct page_table *table, gfn_t gfn)
{
	struct page_note *note = page_table_find(table, gfn);

	if (note)
		page_table_remove(table, note);
	return note;
}
