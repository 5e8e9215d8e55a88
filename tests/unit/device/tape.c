// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "tape.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#define PENDING_MAX 1024

struct tape tape;

/* Under way, by what completes them. */
static struct {
	uint64_t data, id, flush;
	bool stable;
} pending[PENDING_MAX];
static uint64_t next_id;

void tape_start(struct media *media)
{
	tape = (struct tape){ .media = media };
	memset(pending, 0, sizeof(pending));
}

static void completed(uint64_t data, int result)
{
	unsigned int i;

	for (i = 0; i < PENDING_MAX && (!pending[i].id || pending[i].data != data); i++)
		;
	if (i == PENDING_MAX)
		return;
	if (result >= 0 && pending[i].flush)
		media_flush_end(tape.media, pending[i].flush);
	else if (result >= 0)
		media_acknowledge(tape.media, pending[i].id, pending[i].stable);
	pending[i].id = 0;
}

void tape_look(void)
{
	struct io_uring_cq *cq = &tape.ring->cq;
	unsigned int tail;

	if (!tape.ring || !tape.media)
		return;
	for (tail = __atomic_load_n(cq->ktail, __ATOMIC_ACQUIRE); tape.seen != tail; tape.seen++) {
		const struct io_uring_cqe *cqe = &cq->cqes[tape.seen & *cq->kring_mask];

		completed(cqe->user_data, cqe->res);
	}
}

static uint64_t remember(uint64_t data, bool stable, uint64_t flush)
{
	unsigned int i;

	for (i = 0; pending[i].id; i++)
		assert(i + 1 < PENDING_MAX);
	pending[i].data = data;
	pending[i].id = ++next_id;
	pending[i].stable = stable;
	pending[i].flush = flush;
	return next_id;
}

static void note_write(const struct io_uring_sqe *sqe)
{
	const struct iovec *iov = (const struct iovec *)(uintptr_t)sqe->addr;
	const struct iovec one = { (void *)(uintptr_t)sqe->addr, sqe->len };
	unsigned int i, n = sqe->opcode == IORING_OP_WRITEV ? sqe->len : 1;
	bool stable = sqe->rw_flags & RWF_DSYNC;
	uint64_t at = sqe->off, id = remember(sqe->user_data, stable, 0);

	tape.writes++;
	tape.stable_writes += stable;
	if (sqe->opcode == IORING_OP_WRITE)
		iov = &one;
	for (i = 0; i < n; at += iov[i++].iov_len)
		media_put(tape.media, id, at, iov[i].iov_base, iov[i].iov_len);
}

static void note(struct io_uring_sqe *sqe)
{
	switch (sqe->opcode) {
	case IORING_OP_WRITEV:
	case IORING_OP_WRITE:
		note_write(sqe);
		break;
	case IORING_OP_FSYNC:
		tape.flushes++;
		remember(sqe->user_data, false, media_flush_begin(tape.media));
		break;
	case IORING_OP_FALLOCATE:
		tape.fallocates++;
		if (!tape.fallocate_error) {
			media_put(tape.media, remember(sqe->user_data, false, 0), sqe->off, NULL,
				  sqe->addr);
			break;
		}
		/* The kernel is to say it itself: nothing to do, or a mode that there is not. */
		sqe->addr = tape.fallocate_error == -EINVAL ? 0 : sqe->addr;
		sqe->len = tape.fallocate_error == -EINVAL ? sqe->len : 0x8000;
		break;
	}
}

int __wrap_io_uring_submit(struct io_uring *ring)
{
	struct io_uring_sq *sq = &ring->sq;
	unsigned int at;

	if (!tape.media)
		return __real_io_uring_submit(ring);
	if (tape.ring != ring) {
		tape.ring = ring;
		tape.seen = *ring->cq.khead;
	}
	tape_look();
	for (at = sq->sqe_head; at != sq->sqe_tail; at++)
		note(&sq->sqes[at & *sq->kring_mask]);
	return __real_io_uring_submit(ring);
}
