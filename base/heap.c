// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "base/heap.h"

#include <malloc.h>

void heap_share(void)
{
	mallopt(M_ARENA_MAX, 1);
}

void heap_trim(void)
{
	malloc_trim(0);
}
