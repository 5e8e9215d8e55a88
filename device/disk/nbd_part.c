// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * nbd_part.c - a job's requests to the server, of sizes that it takes.
 *
 * A run of guest memory that is long enough is sent and received in place, shorter ones through a
 * buffer of ours. A server may want whole blocks (the protocol's "block size constraints"): a read
 * is then rounded outwards, into a buffer; of a write or a range to be zeroed what lies at the
 * edges is read, changed and written back; a discard, which is a hint, is rounded inwards.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "device/disk/nbd_internal.h"

/* Sent as one, from or to guest memory, if the server takes it. */
#define PART_BYTES (UINT64_C(4) << 20)
/* Through a buffer of ours; runs of guest memory that are at least RUN_BYTES are not. */
#define BUFFER_BYTES (UINT64_C(256) << 10)
#define RUN_BYTES (UINT64_C(64) << 10)
#define ZEROS_BYTES 65536

_Static_assert(BUFFER_BYTES % NBD_BLOCK_MAX == 0 && ZEROS_BYTES % NBD_BLOCK_MAX == 0,
	       "whole blocks");

static const uint8_t zeros[ZEROS_BYTES];

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

void nbd_wire_range(const struct nbd *nbd, const struct disk_job *job, uint64_t *at, uint64_t *len)
{
	uint64_t mask = nbd->block - 1, end = (job->offset + job->len + mask) & ~mask;

	*at = job->offset & ~mask;
	*len = end - *at;
}

/* ---- a job's memory ---- */

/* The iovec of byte `at`; *offset inside of it. */
static const struct iovec *iov_at(const struct disk_job *job, uint64_t at, uint64_t *offset)
{
	const struct iovec *iov = job->iov;

	for (; at >= iov->iov_len; iov++)
		at -= iov->iov_len;
	*offset = at;
	return iov;
}

/* Between the job's memory and the part's place in its buffer. */
static void nbd_part_copy(const struct nbd_part *part, bool in)
{
	uint8_t *place = part->buffer + (part->job->offset + part->at - part->wire_at);
	uint64_t done = 0, offset, n;

	while (done < part->len) {
		const struct iovec *iov = iov_at(part->job, part->at + done, &offset);
		uint8_t *memory = (uint8_t *)iov->iov_base + offset;

		n = least(iov->iov_len - offset, part->len - done);
		if (in)
			memcpy(memory, place + done, n);
		else
			memcpy(place + done, memory, n);
		done += n;
	}
}

/* Cleared: what a server leaves out never is what this memory had before. */
static uint8_t *buffer_new(struct nbd_part *part)
{
	part->buffer = calloc(1, part->wire_len);
	return part->buffer;
}

/*
 * What the next part of a job that moves data is: its lengths, and where it is
 * sent from; NULL: no memory.
 */
static uint8_t *data_place(const struct nbd *nbd, struct nbd_part *part)
{
	uint64_t left = part->job->len - part->at, start = part->job->offset + part->at;
	uint64_t lead = start % nbd->block, offset, run, n;
	const struct iovec *iov = iov_at(part->job, part->at, &offset);

	run = least(iov->iov_len - offset, left);
	n = least(least(run, PART_BYTES), nbd->most);
	n -= n % nbd->block;
	part->wire_at = start - lead;
	if (!lead && n && (n == left || n >= RUN_BYTES || n == nbd->most)) {
		part->len = part->wire_len = n;
		return (uint8_t *)iov->iov_base + offset;
	}
	n = least(BUFFER_BYTES, nbd->most);
	part->len = least(left, n - lead);
	/*
	 * A write has no edge here: but for a whole number of blocks there is
	 * an edge of its own.
	 */
	if (part->job->op == DISK_WRITE)
		part->len -= part->len % nbd->block;
	part->wire_len = (lead + part->len + nbd->block - 1) / nbd->block * nbd->block;
	if (buffer_new(part) && part->job->op == DISK_WRITE)
		nbd_part_copy(part, false);
	return part->buffer;
}

/* ---- requests ---- */

/* From within libnbd, which must not be called from here: only noted. */
static int nbd_part_on_complete(void *arg, int *error)
{
	struct nbd_part *part = arg;

	part->finished = true;
	part->error = *error;
	return 1;
}

static nbd_completion_callback completion(struct nbd_part *part)
{
	return (nbd_completion_callback){ .callback = nbd_part_on_complete, .user_data = part };
}

static uint32_t flags_of(const struct nbd *nbd, const struct disk_job *job)
{
	return job->stable && nbd->fua ? LIBNBD_CMD_FLAG_FUA : 0;
}

/* Is what is next of a change less than a block? *n: how much of it. */
static bool is_edge(const struct nbd *nbd, const struct disk_job *job, uint64_t at, uint64_t *n)
{
	uint64_t room = nbd->block - (job->offset + at) % nbd->block, left = job->len - at;

	*n = least(room, left);
	return *n < nbd->block;
}

static int no_memory(struct disk_job *job)
{
	job->error = -ENOMEM;
	return 1;
}

static int edge_read(struct nbd *nbd, struct nbd_part *part)
{
	part->type = NBD_PART_EDGE_READ;
	part->wire_at = (part->job->offset + part->at) / nbd->block * nbd->block;
	part->wire_len = nbd->block;
	if (!buffer_new(part))
		return no_memory(part->job);
	return nbd->lib.nbd_aio_pread(nbd->h, part->buffer, part->wire_len, part->wire_at,
				      completion(part), 0) < 0 ?
		       -1 :
		       0;
}

static int edge_write(struct nbd *nbd, struct nbd_part *part)
{
	part->type = NBD_PART_EDGE_WRITE;
	part->finished = false;
	if (part->job->op == DISK_WRITE)
		nbd_part_copy(part, false);
	else
		memset(part->buffer + (part->job->offset + part->at - part->wire_at), 0, part->len);
	return nbd->lib.nbd_aio_pwrite(nbd->h, part->buffer, part->wire_len, part->wire_at,
				       completion(part), flags_of(nbd, part->job)) < 0 ?
		       -1 :
		       0;
}

static int data_send(struct nbd *nbd, struct nbd_part *part)
{
	uint8_t *place = data_place(nbd, part);
	int64_t r;

	if (!place)
		return no_memory(part->job);
	if (part->job->op == DISK_READ)
		r = nbd->lib.nbd_aio_pread(nbd->h, place, part->wire_len, part->wire_at,
					   completion(part), 0);
	else
		r = nbd->lib.nbd_aio_pwrite(nbd->h, place, part->wire_len, part->wire_at,
					    completion(part), flags_of(nbd, part->job));
	return r < 0 ? -1 : 0;
}

static int flush_send(struct nbd *nbd, struct nbd_part *part)
{
	if (!nbd->flushes)
		return 1;
	part->sequence = nbd->sequence;
	return nbd->lib.nbd_aio_flush(nbd->h, completion(part), 0) < 0 ? -1 : 0;
}

/* A hint. */
static int discard_send(struct nbd *nbd, struct nbd_part *part)
{
	uint64_t mask = nbd->block - 1, from = (part->job->offset + mask) & ~mask;
	uint64_t end = (part->job->offset + part->job->len) & ~mask;

	if (nbd->lib.nbd_can_trim(nbd->h) <= 0 || from >= end)
		return 1;
	part->wire_at = from;
	part->wire_len = end - from;
	return nbd->lib.nbd_aio_trim(nbd->h, part->wire_len, part->wire_at, completion(part),
				     flags_of(nbd, part->job)) < 0 ?
		       -1 :
		       0;
}

static int zero_send(struct nbd *nbd, struct nbd_part *part)
{
	uint32_t flags = flags_of(nbd, part->job);

	part->wire_at = part->job->offset + part->at;
	part->len -= part->len % nbd->block;
	if (nbd->lib.nbd_can_zero(nbd->h) > 0) {
		part->wire_len = part->len;
		flags |= part->job->unmap ? 0 : LIBNBD_CMD_FLAG_NO_HOLE;
		return nbd->lib.nbd_aio_zero(nbd->h, part->wire_len, part->wire_at,
					     completion(part), flags) < 0 ?
			       -1 :
			       0;
	}
	part->len = part->wire_len = least(least(part->len, ZEROS_BYTES), nbd->most);
	return nbd->lib.nbd_aio_pwrite(nbd->h, zeros, part->wire_len, part->wire_at,
				       completion(part), flags) < 0 ?
		       -1 :
		       0;
}

int nbd_part_send(struct nbd *nbd, struct nbd_part *part)
{
	struct disk_job *job = part->job;

	part->len = job->len - part->at;
	if (job->op == DISK_FLUSH || job->syncing)
		return flush_send(nbd, part);
	if (job->op == DISK_DISCARD)
		return discard_send(nbd, part);
	if (job->op != DISK_READ && is_edge(nbd, job, part->at, &part->len))
		return edge_read(nbd, part);
	part->len = job->len - part->at;
	return job->op == DISK_ZERO ? zero_send(nbd, part) : data_send(nbd, part);
}

int nbd_part_answered(struct nbd *nbd, struct nbd_part *part)
{
	if (part->type == NBD_PART_EDGE_READ)
		return edge_write(nbd, part);
	if (part->buffer && part->job->op == DISK_READ)
		nbd_part_copy(part, true);
	return 1;
}

void nbd_part_free(struct nbd_part *part)
{
	free(part->buffer);
	*part = (struct nbd_part){ .job = NULL };
}
