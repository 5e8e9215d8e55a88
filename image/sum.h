/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Checksums of an image: xxh3-64 of a page, xxh3-128 (in its canonical form,
 * the most significant byte first) of all else. They tell damage from data, not
 * friend from foe. Pure; any thread.
 */
#ifndef POSTERN_IMAGE_SUM_H
#define POSTERN_IMAGE_SUM_H

#include <stddef.h>
#include <stdint.h>

#define SUM_BYTES 16
#define SUM_TEXT (2 * SUM_BYTES + 1)

/* Of PAGE_BYTES at any address. */
uint64_t sum_page(const void *page);
void sum_bytes(const void *data, size_t len, uint8_t out[SUM_BYTES]);

/* The same bit by bit: new, add, and end, which frees it. NULL: no memory. */
struct sum_stream;
struct sum_stream *sum_stream_new(void);
void sum_stream_reset(struct sum_stream *stream);
void sum_stream_add(struct sum_stream *stream, const void *data, size_t len);
void sum_stream_get(const struct sum_stream *stream, uint8_t out[SUM_BYTES]);
void sum_stream_free(struct sum_stream *stream);

/* Lower-case hexadecimal digits, two a byte; parse takes nothing else. 0 or -EINVAL. */
void sum_format_hex(const uint8_t *bytes, size_t n, char *out);
int sum_parse_hex(uint8_t *bytes, size_t n, const char *text);

#endif
