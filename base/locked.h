/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Memory for keys: pages of its own that core dumps leave out, that are not
 * swapped as far as RLIMIT_MEMLOCK allows it, and that are wiped before they go.
 * Any thread.
 */
#ifndef POSTERN_BASE_LOCKED_H
#define POSTERN_BASE_LOCKED_H

#include <stdbool.h>
#include <stddef.h>

/* Zeroed, at a page's boundary. NULL: no memory. locked_free takes the same number, and NULL. */
void *locked_new(size_t bytes);
void locked_free(void *memory, size_t bytes);
/*
 * False: it may be swapped, since more than RLIMIT_MEMLOCK would be locked. Tries
 * again, too: a child does not inherit what its parent has locked.
 */
bool locked_hold(void *memory, size_t bytes);

#endif
