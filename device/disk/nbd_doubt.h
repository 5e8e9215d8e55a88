/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What is in doubt. When a connection is lost, what was asked over it to change the disk and has no
 * answer may have been done, may never be, or may yet be: the server may have it in a buffer, or at
 * work, and nothing that a client sees tells when that has ended. Two things follow, for as long as
 * it is in doubt:
 *
 *   - asking the same again over the next connection does no harm: whenever the old copy is done,
 *     it puts there what is there;
 *   - anything else that changes the same bytes has to wait, since the old copy could undo it after
 *     it was answered and flushed.
 *
 * Doubt ends when the server is known to have dropped the old connection (nbd_doubt_clear), or when
 * as much time has passed as it may be at work with what is left of one (NVMe calls that the
 * command quiesce time, TP4129). Ranges are those of the wire: whole blocks of the server's.
 *
 * Main thread.
 */
#ifndef POSTERN_DEVICE_DISK_NBD_DOUBT_H
#define POSTERN_DEVICE_DISK_NBD_DOUBT_H

#include <stdbool.h>
#include <stdint.h>

#define NBD_DOUBTS_MAX 1024

struct nbd_doubt {
	uint64_t at, len;
	const void *owner;	/* who may ask the same again; NULL: nobody any more */
	int64_t end_ns;		/* CLOCK_MONOTONIC */
};

/* Zeroed: none. */
struct nbd_doubts {
	unsigned int n;
	struct nbd_doubt doubt[NBD_DOUBTS_MAX];
};

/*
 * Until end_ns, which never lies before that of one added earlier. More than
 * fit make all of the disk doubtful.
 */
void nbd_doubt_add(struct nbd_doubts *doubts, uint64_t at, uint64_t len, const void *owner,
		   int64_t end_ns);
/* May `asker` change these bytes? */
bool nbd_doubt_allows(const struct nbd_doubts *doubts, uint64_t at, uint64_t len,
		      const void *asker);
/* The owner has ended. */
void nbd_doubt_disown(struct nbd_doubts *doubts, const void *owner);
/* Those whose time has come are none any more. */
void nbd_doubt_expire(struct nbd_doubts *doubts, int64_t now_ns);
void nbd_doubt_clear(struct nbd_doubts *doubts);
/* When the last of them ends; 0: there is none. */
int64_t nbd_doubt_end_ns(const struct nbd_doubts *doubts);

#endif
