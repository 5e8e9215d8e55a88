/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What a page of memory holds.
 */
#ifndef POSTERN_BASE_PAGE_H
#define POSTERN_BASE_PAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/types.h"

/*
 * Is this page, PAGE_BYTES at a boundary of as many, all zeros? One that is not
 * is mostly told by its first cache line.
 */
bool page_is_zero(const uint8_t *page);

/*
 * A buffer for guest pages on their way, at a page's boundary; core dumps leave
 * it out. bytes: a multiple of PAGE_BYTES. NULL: no memory. page_buffer_free
 * takes the same number, and NULL.
 */
uint8_t *page_buffer_new(size_t bytes);
void page_buffer_free(uint8_t *buffer, size_t bytes);
/* Pages of it hold nothing that is of use: they take no memory until they are written again. */
void page_buffer_clear(uint8_t *pages, size_t bytes);

#endif
