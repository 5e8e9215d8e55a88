/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What a page of memory holds.
 */
#ifndef POSTERN_BASE_PAGE_H
#define POSTERN_BASE_PAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/types.h"

/* Is this page, PAGE_BYTES at a boundary of as many, all zeros? One that is not is mostly told by its first cache line. */
bool page_is_zero(const uint8_t *page);

#endif
