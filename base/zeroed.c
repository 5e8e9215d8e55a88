// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "base/zeroed.h"

#include <string.h>
#include <sys/mman.h>

void *zeroed_new(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	/* A huge page for a byte that is written would be 2 MiB of zeros. */
	madvise(p, bytes, MADV_NOHUGEPAGE);
	return p;
}

void zeroed_free(void *array, size_t bytes)
{
	if (array)
		munmap(array, bytes);
}

void zeroed_clear(void *array, size_t bytes)
{
	/* Refused for locked memory, say. */
	if (madvise(array, bytes, MADV_DONTNEED) < 0)
		memset(array, 0, bytes);
}
