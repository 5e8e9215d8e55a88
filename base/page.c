// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "base/page.h"

#include <stddef.h>
#include <sys/mman.h>

bool page_is_zero(const uint8_t *page)
{
	const uint64_t *word = (const uint64_t *)__builtin_assume_aligned(page, 64);
	size_t i, j;

	/* A cache line at a time: pages with data are mostly told by their first one. */
	for (i = 0; i < PAGE_BYTES / 8; i += 8) {
		uint64_t any = 0;

		for (j = 0; j < 8; j++)
			any |= word[i + j];
		if (any)
			return false;
	}
	return true;
}

uint8_t *page_buffer_new(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	madvise(p, bytes, MADV_DONTDUMP);
	return p;
}

void page_buffer_free(uint8_t *buffer, size_t bytes)
{
	if (buffer)
		munmap(buffer, bytes);
}

void page_buffer_clear(uint8_t *pages, size_t bytes)
{
	madvise(pages, bytes, MADV_DONTNEED);
}
