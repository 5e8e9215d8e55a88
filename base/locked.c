// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "base/locked.h"

#include <string.h>
#include <sys/mman.h>

#include "base/types.h"

static size_t locked_round(size_t bytes)
{
	return (bytes + PAGE_BYTES - 1) & ~(size_t)(PAGE_BYTES - 1);
}

void *locked_new(size_t bytes)
{
	size_t room = locked_round(bytes);
	void *memory = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return NULL;
	madvise(memory, room, MADV_DONTDUMP);
	locked_hold(memory, bytes);
	return memory;
}

bool locked_hold(void *memory, size_t bytes)
{
	return !mlock(memory, locked_round(bytes));
}

void locked_free(void *memory, size_t bytes)
{
	if (!memory)
		return;
	explicit_bzero(memory, bytes);
	munmap(memory, locked_round(bytes));
}
