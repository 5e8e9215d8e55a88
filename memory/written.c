// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// What a machine whose RAM is a private mapping of an image's memfd has of its
// own: the kernel gave each page that it wrote a copy, which is anonymous, and
// a page that it discarded a zero page (backing.c). So these are the pages that
// the page table has, or swap, and that are not the file's.
#include <errno.h>
#include <unistd.h>

#include "memory/internal.h"
#include "memory/pagemap.h"

/* Of Linux' Documentation/admin-guide/mm/pagemap.rst. */
#define PM_FILE (UINT64_C(1) << 61)
#define PM_SWAPPED (UINT64_C(1) << 62)
#define PM_PRESENT (UINT64_C(1) << 63)

/* Where the bits go. */
struct written {
	uint64_t start;		/* host address of the first page */
	uint8_t *bits;
	int64_t found;
};

static void written_add(struct written *w, uint64_t start, uint64_t end)
{
	uint64_t i, last = (end - w->start) / PAGE_BYTES;

	for (i = (start - w->start) / PAGE_BYTES; i < last; i++)
		w->bits[i / 8] |= (uint8_t)(1u << (i % 8));
	w->found += (int64_t)((end - start) / PAGE_BYTES);
}

/* 0; -ENOTTY: this kernel (before 6.7) cannot. */
static int written_scan(int pagemap, uint64_t end, struct written *w)
{
	struct page_region found[64];
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = w->start,
		.end = end,
		.vec = (uintptr_t)found,
		.vec_len = sizeof(found) / sizeof(found[0]),
		.category_inverted = PAGE_IS_FILE,
		.category_mask = PAGE_IS_FILE,
		.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
		.return_mask = PAGE_IS_FILE,
	};
	int i, n;

	while (arg.start < end) {
		n = ioctl(pagemap, PAGEMAP_SCAN, &arg);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		for (i = 0; i < n; i++)
			written_add(w, found[i].start, found[i].end);
		arg.start = arg.walk_end;
	}
	return 0;
}

static int written_read(int pagemap, uint64_t end, struct written *w)
{
	uint64_t entry[512], at = w->start, i, n;
	ssize_t got;

	while (at < end) {
		n = (end - at) / PAGE_BYTES < 512 ? (end - at) / PAGE_BYTES : 512;
		got = pread(pagemap, entry, n * sizeof(entry[0]),
			    (off_t)(at / PAGE_BYTES * sizeof(entry[0])));
		if (got < 0 && errno == EINTR)
			continue;
		if (got < (ssize_t)sizeof(entry[0]))
			return got < 0 ? -errno : -EIO;
		n = (uint64_t)got / sizeof(entry[0]);
		for (i = 0; i < n; i++, at += PAGE_BYTES)
			if (entry[i] & (PM_PRESENT | PM_SWAPPED) && !(entry[i] & PM_FILE))
				written_add(w, at, at + PAGE_BYTES);
	}
	return 0;
}

int64_t memory_written(struct memory *mem, gfn_t first, uint64_t n, uint8_t *bits)
{
	struct written w = { .bits = bits };
	unsigned int region;
	uint64_t offset;
	int r;

	if (!memory_find(mem, first, n, &region, &offset))
		return -EFAULT;
	if (!memory_is_backed(mem))
		return -EINVAL;
	if (mem->pagemap < 0)
		return -EBADF;
	w.start = (uintptr_t)mem->region[region].host + offset * PAGE_BYTES;
	r = written_scan(mem->pagemap, w.start + n * PAGE_BYTES, &w);
	if (r == -ENOTTY)
		r = written_read(mem->pagemap, w.start + n * PAGE_BYTES, &w);
	return r < 0 ? r : w.found;
}
