/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Copies of what a server has acknowledged and not yet made stable. When its connection is lost, it
 * may be the server that has died, and what it had in its cache is gone; a flush over the next
 * connection would be answered all the same. So what is kept is written again before anything else
 * is asked, and the guest's flush means what it says. (NFS clients keep unstable writes until they
 * are committed for the same reason: RFC 1813, 3.3.21.)
 *
 * Ranges do not overlap: what comes later takes the place of what was there. Main thread.
 */
#ifndef POSTERN_DEVICE_DISK_NBD_KEPT_H
#define POSTERN_DEVICE_DISK_NBD_KEPT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct nbd_kept_range {
	uint64_t at, len;
	uint64_t sequence;
	uint8_t *data;		/* NULL: zeros */
	struct nbd_kept_range *next, *prev;	/* in order of sequence */
};

/* Zeroed: empty. */
struct nbd_kept {
	void *tree;		/* tsearch(3) */
	struct nbd_kept_range *first, *last;
	size_t bytes;		/* of memory */
};

/*
 * `len` bytes were written at `at`, out of iov (NULL: zeros), and acknowledged as number
 * `sequence`, not below that of an earlier one. -ENOMEM: not all of them are kept, nor is what they
 * replaced.
 */
int nbd_kept_put(struct nbd_kept *kept, uint64_t at, uint64_t len, const struct iovec *iov,
		 uint64_t sequence);
/* What is there now needs no keeping. -ENOMEM: some of what was beside it is not kept any more. */
int nbd_kept_cut(struct nbd_kept *kept, uint64_t at, uint64_t len);
/* All up to number `sequence` is stable. */
void nbd_kept_flushed(struct nbd_kept *kept, uint64_t sequence);

#endif
