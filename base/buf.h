/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A growable byte buffer; zero-initialised it is empty. Owned by one thread at a time.
 */
#ifndef POSTERN_BASE_BUF_H
#define POSTERN_BASE_BUF_H

#include <stddef.h>
#include <stdint.h>

struct buf {
	uint8_t *data;
	size_t len;
	size_t cap;
};

/*
 * Makes room for `more` further bytes; returns where they start (len is
 * unchanged), or NULL: no memory.
 */
uint8_t *buf_reserve(struct buf *buf, size_t more);
/* Appends; returns 0 or -ENOMEM. */
int buf_append(struct buf *buf, const void *data, size_t len);
/* Drops the first `len` bytes. */
void buf_consume(struct buf *buf, size_t len);
void buf_fini(struct buf *buf);

#endif
