// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// The folder's reads by io_uring: many at a time, with one thread for what
// comes of them. A read is OPEN, STAT, READ of chunks one after the other, and
// a close that nobody waits for. On file systems of which it is not known that
// they never wait for a server all of it goes to the kernel's own threads:
// neither whoever begins a request nor the ring's thread can be held up.
//
// Where there is no io_uring (containers, old kernels,
// kernel.io_uring_disabled) or too much is under way, dir.c's threads read.
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/thread.h"
#include "store/dir_internal.h"

#define RING_ENTRIES 256
/* The kernel's work for which nobody waits here: closes, cancels, the wake-up. */
#define NOBODY 0
#define SUBMIT_TRIES 1000

enum ring_stage { RING_OPEN, RING_STAT, RING_READ };

struct dir_ring {
	struct io_uring ring;
	pthread_mutex_t lock;		/* the submission queue */
};

/* What a job has while it is the ring's. */
struct dir_read {
	enum ring_stage stage;
	int fd;
	uint8_t *chunk;
	struct open_how how;
	struct statx stat;
};

int dir_ring_start(struct dir *dir)
{
	struct dir_ring *ring = calloc(1, sizeof(*ring));
	int r;

	if (!ring)
		return -ENOMEM;
	r = io_uring_queue_init(RING_ENTRIES, &ring->ring, 0);
	if (r < 0) {
		free(ring);
		return r;
	}
	io_uring_ring_dontfork(&ring->ring);
	pthread_mutex_init(&ring->lock, NULL);
	dir->ring = ring;
	return 0;
}

void dir_ring_free(struct dir *dir)
{
	if (!dir->ring)
		return;
	io_uring_queue_exit(&dir->ring->ring);
	pthread_mutex_destroy(&dir->ring->lock);
	free(dir->ring);
}

/* Room for one more. With the ring's lock held; each is submitted before it is given up. */
static struct io_uring_sqe *sqe_new(struct dir_ring *ring)
{
	struct io_uring_sqe *sqe;

	while (!(sqe = io_uring_get_sqe(&ring->ring)))
		io_uring_submit(&ring->ring);
	return sqe;
}

/*
 * The kernel refuses for want of memory, and for a moment; what it did not take
 * goes with the next.
 */
static void ring_submit(struct dir_ring *ring)
{
	unsigned int tries;
	int r = -EAGAIN;

	for (tries = 0; r < 0 && tries < SUBMIT_TRIES; tries++) {
		r = io_uring_submit(&ring->ring);
		if (r < 0)
			sched_yield();
	}
}

static void ring_prepare(const struct dir *dir, struct io_uring_sqe *sqe, struct dir_job *job)
{
	struct dir_read *read = job->read;
	size_t n = job->len - job->got;

	switch (read->stage) {
	case RING_OPEN:
		io_uring_prep_openat2(sqe, dir->fd, job->object, &read->how);
		break;
	case RING_STAT:
		io_uring_prep_statx(sqe, read->fd, "", AT_EMPTY_PATH, STATX_TYPE | STATX_SIZE,
				    &read->stat);
		break;
	case RING_READ:
		io_uring_prep_read(sqe, read->fd, read->chunk,
				   (unsigned int)(n < DIR_CHUNK_BYTES ? n : DIR_CHUNK_BYTES),
				   job->offset + job->got);
		break;
	}
	if (!dir->local)
		io_uring_sqe_set_flags(sqe, IOSQE_ASYNC);
	io_uring_sqe_set_data(sqe, job);
}

static void begin_stage(struct dir_job *job, enum ring_stage stage)
{
	struct dir_ring *ring = job->dir->ring;

	job->read->stage = stage;
	pthread_mutex_lock(&ring->lock);
	ring_prepare(job->dir, sqe_new(ring), job);
	ring_submit(ring);
	pthread_mutex_unlock(&ring->lock);
}

int dir_ring_get(struct dir_job *job)
{
	struct dir_read *read = calloc(1, sizeof(*read));

	if (!read)
		return -ENOMEM;
	read->chunk = malloc(job->len < DIR_CHUNK_BYTES ? job->len + !job->len : DIR_CHUNK_BYTES);
	if (!read->chunk) {
		free(read);
		return -ENOMEM;
	}
	read->fd = -1;
	read->how = dir_how(O_RDONLY, 0);
	job->read = read;
	begin_stage(job, RING_OPEN);
	return 0;
}

/* For which nobody waits: its result is not looked at. */
static void close_file(struct dir *dir, int fd)
{
	struct io_uring_sqe *sqe;

	if (dir->local) {
		close(fd);
		return;
	}
	pthread_mutex_lock(&dir->ring->lock);
	sqe = sqe_new(dir->ring);
	io_uring_prep_close(sqe, fd);
	io_uring_sqe_set_flags(sqe, IOSQE_ASYNC);
	io_uring_sqe_set_data64(sqe, NOBODY);
	ring_submit(dir->ring);
	pthread_mutex_unlock(&dir->ring->lock);
}

static void end_job(struct dir_job *job, int64_t result)
{
	struct dir *dir = job->dir;

	if (job->read->fd >= 0)
		close_file(dir, job->read->fd);
	free(job->read->chunk);
	free(job->read);
	job->read = NULL;
	dir_job_end(job, result);
}

/* ECANCELED without a cancel of ours: one that came too late, for a job that is over. */
static bool is_to_be_repeated(int result)
{
	return result == -EAGAIN || result == -EINTR || result == -ECANCELED;
}

static void opened(struct dir_job *job, int fd)
{
	/*
	 * EAGAIN: somebody renamed something meanwhile, and the kernel is not
	 * sure that it stayed beneath.
	 */
	if (is_to_be_repeated(fd)) {
		begin_stage(job, RING_OPEN);
		return;
	}
	if (fd < 0) {
		end_job(job, dir_explain(&job->err, fd));
		return;
	}
	job->read->fd = fd;
	begin_stage(job, RING_STAT);
}

static void was_read(struct dir_job *job, int n)
{
	int64_t r;

	if (is_to_be_repeated(n)) {
		begin_stage(job, RING_READ);
		return;
	}
	r = n < 0 ? dir_explain(&job->err, n) : dir_job_deliver(job, job->read->chunk, (size_t)n);
	if (!r && n && job->got < job->len)
		begin_stage(job, RING_READ);
	else
		end_job(job, r ? r : dir_get_end(job));
}

static void on_completion(struct dir_job *job, int result)
{
	int r;

	/* Nobody wants it any more, and the kernel was told so. */
	if (dir_job_is_cancelled(job)) {
		if (job->read->stage == RING_OPEN && result >= 0)
			job->read->fd = result;
		end_job(job, err_set(&job->err, -ECANCELED, "cancelled"));
		return;
	}
	switch (job->read->stage) {
	case RING_OPEN:
		opened(job, result);
		break;
	case RING_STAT:
		r = result < 0 ? dir_explain(&job->err, result) :
				 dir_check_mode(job->read->stat.stx_mode, &job->err);
		/* FUSE's reads would not be waited for. */
		if (!r && fcntl(job->read->fd, F_SETFL, 0) < 0)
			r = dir_explain(&job->err, -errno);
		if (!r && job->len)
			begin_stage(job, RING_READ);
		else
			end_job(job, r);
		break;
	case RING_READ:
		was_read(job, result);
		break;
	}
}

void *dir_ring_main(void *arg)
{
	struct dir *dir = arg;
	struct dir_ring *ring = dir->ring;
	struct io_uring_cqe *cqe;
	struct dir_job *job;
	int result;

	while (!dir_ring_is_over(dir)) {
		/*
		 * A signal: none comes to this thread; whatever it says, there
		 * is nothing else to do.
		 */
		if (io_uring_wait_cqe(&ring->ring, &cqe) < 0)
			continue;
		job = io_uring_cqe_get_data(cqe);
		result = cqe->res;
		io_uring_cqe_seen(&ring->ring, cqe);
		/*
		 * Whoever submitted it had the lock: so all that he wrote
		 * before is seen here. That the kernel handed it over says
		 * nothing of that in C.
		 */
		pthread_mutex_lock(&ring->lock);
		pthread_mutex_unlock(&ring->lock);
		if (job)
			on_completion(job, result);
	}
	dir_put_ref(dir);
	return NULL;
}

static void ring_tell(struct dir_ring *ring, const struct dir_job *cancelled)
{
	struct io_uring_sqe *sqe;

	pthread_mutex_lock(&ring->lock);
	sqe = sqe_new(ring);
	if (cancelled)
		io_uring_prep_cancel64(sqe, (uintptr_t)cancelled, 0);
	else
		io_uring_prep_nop(sqe);
	io_uring_sqe_set_data64(sqe, NOBODY);
	ring_submit(ring);
	pthread_mutex_unlock(&ring->lock);
}

void dir_ring_cancel(struct dir *dir, const struct dir_job *job)
{
	ring_tell(dir->ring, job);
}

void dir_ring_wake(struct dir *dir)
{
	ring_tell(dir->ring, NULL);
}
