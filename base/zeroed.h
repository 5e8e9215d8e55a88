/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Large arrays that begin as zeros and are mostly never touched: what is kept of
 * each page of a guest. They cost address space, and memory only where they are
 * written (4 KiB at a time), however long they are; to make one zeros again
 * costs what was written, not what it is long.
 */
#ifndef POSTERN_BASE_ZEROED_H
#define POSTERN_BASE_ZEROED_H

#include <stddef.h>

/* At least one byte. NULL: no address space. zeroed_free takes the same number, and NULL. */
void *zeroed_new(size_t bytes);
void zeroed_free(void *array, size_t bytes);
/* All zeros again; what was written is the host's again. Nobody else uses it meanwhile. */
void zeroed_clear(void *array, size_t bytes);

#endif
