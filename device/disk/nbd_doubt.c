// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "device/disk/nbd_doubt.h"

#include <stddef.h>

void nbd_doubt_add(struct nbd_doubts *doubts, uint64_t at, uint64_t len, const void *owner,
		   int64_t end_ns)
{
	if (doubts->n == NBD_DOUBTS_MAX) {
		doubts->doubt[0] = (struct nbd_doubt){ .len = UINT64_MAX, .end_ns = end_ns };
		doubts->n = 1;
		return;
	}
	doubts->doubt[doubts->n++] = (struct nbd_doubt){ at, len, owner, end_ns };
}

bool nbd_doubt_allows(const struct nbd_doubts *doubts, uint64_t at, uint64_t len, const void *asker)
{
	unsigned int i;

	for (i = 0; i < doubts->n; i++) {
		const struct nbd_doubt *doubt = &doubts->doubt[i];

		/*
		 * Neither end overflows: one of the disk is far below 2^64, and
		 * UINT64_MAX begins at 0.
		 */
		if (doubt->owner != asker && at < doubt->at + doubt->len && doubt->at < at + len)
			return false;
	}
	return true;
}

void nbd_doubt_disown(struct nbd_doubts *doubts, const void *owner)
{
	unsigned int i;

	for (i = 0; i < doubts->n; i++)
		if (doubts->doubt[i].owner == owner)
			doubts->doubt[i].owner = NULL;
}

void nbd_doubt_expire(struct nbd_doubts *doubts, int64_t now_ns)
{
	unsigned int i, kept = 0;

	for (i = 0; i < doubts->n; i++)
		if (doubts->doubt[i].end_ns > now_ns)
			doubts->doubt[kept++] = doubts->doubt[i];
	doubts->n = kept;
}

void nbd_doubt_clear(struct nbd_doubts *doubts)
{
	doubts->n = 0;
}

int64_t nbd_doubt_end_ns(const struct nbd_doubts *doubts)
{
	return doubts->n ? doubts->doubt[doubts->n - 1].end_ns : 0;
}
