// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "base/buf.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

uint8_t *buf_reserve(struct buf *buf, size_t more)
{
	size_t need, cap = buf->cap ? buf->cap : 256;
	uint8_t *data;

	if (__builtin_add_overflow(buf->len, more, &need))
		return NULL;
	while (cap < need)
		if (__builtin_mul_overflow(cap, (size_t)2, &cap))
			return NULL;
	if (cap != buf->cap) {
		data = realloc(buf->data, cap);
		if (!data)
			return NULL;
		buf->data = data;
		buf->cap = cap;
	}
	return buf->data + buf->len;
}

int buf_append(struct buf *buf, const void *data, size_t len)
{
	uint8_t *to = buf_reserve(buf, len);

	if (!to)
		return -ENOMEM;
	if (len)
		memcpy(to, data, len);
	buf->len += len;
	return 0;
}

void buf_consume(struct buf *buf, size_t len)
{
	assert(len <= buf->len);
	if (len)
		memmove(buf->data, buf->data + len, buf->len - len);
	buf->len -= len;
}

void buf_fini(struct buf *buf)
{
	free(buf->data);
	*buf = (struct buf){ 0 };
}
