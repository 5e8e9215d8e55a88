// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * nbd_export.c - what the server says of its export: its size, whether it can be
 * written to, and the requests that it takes.
 */
#include <errno.h>

#include "device/disk/nbd_internal.h"

/* What the protocol lets a client assume of a server that does not say. */
#define MOST_DEFAULT (UINT32_C(32) << 20)

/* What requests the server takes. */
static int blocks_check(struct nbd *nbd, struct err *err)
{
	int64_t block = nbd->lib.nbd_get_block_size(nbd->h, LIBNBD_SIZE_MINIMUM);
	int64_t likes = nbd->lib.nbd_get_block_size(nbd->h, LIBNBD_SIZE_PREFERRED);
	int64_t most = nbd->lib.nbd_get_block_size(nbd->h, LIBNBD_SIZE_MAXIMUM);

	if (block < 0 || likes < 0 || most < 0)
		return err_set(err, -EIO, "%s", nbd_link_says(nbd));
	if (block < DISK_SECTOR_BYTES)
		block = DISK_SECTOR_BYTES;
	if (!most || most > MOST_DEFAULT)
		most = MOST_DEFAULT;
	if (block > NBD_BLOCK_MAX || block & (block - 1) || most < block)
		return err_set(
			err, -EPROTO,
			"the server wants blocks of %lld to %lld bytes: powers of two up to %d are possible",
			(long long)block, (long long)most, NBD_BLOCK_MAX);
	nbd->block = (uint32_t)block;
	nbd->most = (uint32_t)(most - most % block);
	if (likes < block || likes > MOST_DEFAULT || likes & (likes - 1))
		likes = block > DISK_DIRECT_BYTES ? block : DISK_DIRECT_BYTES;
	/* The guest is told once. */
	if (!nbd->disk.limits.physical)
		nbd->disk.limits = (struct disk_limits){ .physical = (uint32_t)likes,
							 .discard = (uint32_t)likes };
	return 0;
}

int nbd_export_check(struct nbd *nbd, struct err *err)
{
	int64_t bytes = nbd->lib.nbd_get_size(nbd->h);
	uint64_t whole;
	int r;

	if (bytes < 0)
		return err_set(err, -EIO, "%s", nbd_link_says(nbd));
	r = blocks_check(nbd, err);
	if (r < 0)
		return r;
	if (bytes < nbd->block)
		return err_set(err, -EINVAL, "smaller than a block of %u bytes", nbd->block);
	whole = (uint64_t)bytes - (uint64_t)bytes % nbd->block;
	if (nbd->disk.bytes && whole != nbd->disk.bytes)
		return err_set(err, -EINVAL, "it has %llu bytes now, and had %llu",
			       (unsigned long long)whole, (unsigned long long)nbd->disk.bytes);
	if (!nbd->disk.readonly && nbd->lib.nbd_is_read_only(nbd->h) != 0)
		return err_set(err, -EROFS, "the server has it for reading only: say readonly");
	nbd->disk.bytes = whole;
	nbd->flushes = nbd->lib.nbd_can_flush(nbd->h) > 0;
	nbd->fua = nbd->lib.nbd_can_fua(nbd->h) > 0;
	return 0;
}
