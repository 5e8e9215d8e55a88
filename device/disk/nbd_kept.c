// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "device/disk/nbd_kept.h"

#include <errno.h>
#include <search.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Of data, in one range: whoever cuts one copies what is left of it, on the main thread. */
#define RANGE_BYTES (UINT64_C(64) << 10)

/* Those that overlap are the same: so a search finds one that does, and none that do are in it. */
static int kept_compare(const void *a, const void *b)
{
	const struct nbd_kept_range *x = a, *y = b;

	return x->at + x->len <= y->at ? -1 : y->at + y->len <= x->at;
}

static void range_free(struct nbd_kept *kept, struct nbd_kept_range *range)
{
	kept->bytes -= sizeof(*range) + (range->data ? range->len : 0);
	free(range->data);
	free(range);
}

static void take_out(struct nbd_kept *kept, struct nbd_kept_range *range)
{
	tdelete(range, &kept->tree, kept_compare);
	*(range->prev ? &range->prev->next : &kept->first) = range->next;
	*(range->next ? &range->next->prev : &kept->last) = range->prev;
}

/* Behind `prev`, NULL: first. */
static int put_in(struct nbd_kept *kept, struct nbd_kept_range *range, struct nbd_kept_range *prev)
{
	if (!tsearch(range, &kept->tree, kept_compare))
		return -ENOMEM;
	range->prev = prev;
	range->next = prev ? prev->next : kept->first;
	*(prev ? &prev->next : &kept->first) = range;
	*(range->next ? &range->next->prev : &kept->last) = range;
	return 0;
}

/* Takes up memory; nothing is in it yet. */
static struct nbd_kept_range *range_new(struct nbd_kept *kept, uint64_t at, uint64_t len, bool data,
					uint64_t sequence)
{
	struct nbd_kept_range *range = malloc(sizeof(*range));

	if (!range)
		return NULL;
	*range = (struct nbd_kept_range){ .at = at, .len = len, .sequence = sequence };
	range->data = data ? malloc(len) : NULL;
	if (data && !range->data) {
		free(range);
		return NULL;
	}
	kept->bytes += sizeof(*range) + (data ? len : 0);
	return range;
}

/* [from, to) of a range that is about to go stays, in its place. */
static int piece_stays(struct nbd_kept *kept, const struct nbd_kept_range *of, uint64_t from,
		       uint64_t to, struct nbd_kept_range *prev)
{
	struct nbd_kept_range *piece;

	if (from >= to)
		return 0;
	piece = range_new(kept, from, to - from, of->data, of->sequence);
	if (!piece)
		return -ENOMEM;
	if (of->data)
		memcpy(piece->data, of->data + (from - of->at), piece->len);
	if (put_in(kept, piece, prev) < 0) {
		range_free(kept, piece);
		return -ENOMEM;
	}
	return 0;
}

static int cut(struct nbd_kept *kept, uint64_t at, uint64_t len)
{
	const struct nbd_kept_range what = { .at = at, .len = len };
	struct nbd_kept_range *range, *prev;
	void *node;
	int r = 0;

	while (len && (node = tfind(&what, &kept->tree, kept_compare))) {
		range = *(struct nbd_kept_range **)node;
		prev = range->prev;
		take_out(kept, range);
		if (piece_stays(kept, range, range->at, at, prev) < 0 ||
		    piece_stays(kept, range, at + len, range->at + range->len, prev) < 0)
			r = -ENOMEM;
		range_free(kept, range);
	}
	return r;
}

/* The next len bytes of iov, which *offset of the first are behind. */
static void gather(uint8_t *to, uint64_t len, const struct iovec **iov, size_t *offset)
{
	uint64_t n;

	for (; len; to += n, len -= n) {
		n = (*iov)->iov_len - *offset < len ? (*iov)->iov_len - *offset : len;
		memcpy(to, (const uint8_t *)(*iov)->iov_base + *offset, n);
		*offset += n;
		if (*offset < (*iov)->iov_len)
			continue;
		++*iov;
		*offset = 0;
	}
}

int nbd_kept_put(struct nbd_kept *kept, uint64_t at, uint64_t len, const struct iovec *iov,
		 uint64_t sequence)
{
	struct nbd_kept_range *range;
	int r = cut(kept, at, len);
	size_t offset = 0;
	uint64_t n;

	for (; len; at += n, len -= n) {
		n = iov && len > RANGE_BYTES ? RANGE_BYTES : len;
		range = range_new(kept, at, n, iov, sequence);
		if (!range)
			return -ENOMEM;
		if (iov)
			gather(range->data, n, &iov, &offset);
		if (put_in(kept, range, kept->last) < 0) {
			range_free(kept, range);
			return -ENOMEM;
		}
	}
	return r;
}

int nbd_kept_cut(struct nbd_kept *kept, uint64_t at, uint64_t len)
{
	return cut(kept, at, len);
}

void nbd_kept_flushed(struct nbd_kept *kept, uint64_t sequence)
{
	struct nbd_kept_range *range;

	while ((range = kept->first) && range->sequence <= sequence) {
		take_out(kept, range);
		range_free(kept, range);
	}
}
