// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "device/virtio/disk.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

#define CLOSE_PATIENCE_NS NS_PER_SEC
#define ZEROS_BYTES 65536

/* For file systems that cannot zero a range themselves. */
static const uint8_t zeros[ZEROS_BYTES];

/* The completions' eventfd in the loop. */
struct disk_watch {
	uv_poll_t poll;
	struct disk *disk;
};

struct disk {
	struct io_uring ring;
	int fd, direct_fd;		/* direct_fd -1: none */
	int event_fd;
	uint64_t bytes;
	unsigned int jobs;
	struct disk_watch *watch;
};

uint64_t disk_bytes(const struct disk *disk)
{
	return disk->bytes;
}

unsigned int disk_jobs(const struct disk *disk)
{
	return disk->jobs;
}

/* ---- jobs ---- */

static bool is_direct(const struct disk *disk, const struct disk_job *job)
{
	unsigned int i;

	if (disk->direct_fd < 0 || (job->offset + job->moved) % DISK_DIRECT_BYTES)
		return false;
	for (i = 0; i < job->iovs; i++)
		if ((uintptr_t)job->iov[i].iov_base % DISK_DIRECT_BYTES || job->iov[i].iov_len % DISK_DIRECT_BYTES)
			return false;
	return true;
}

static void prepare(struct disk *disk, struct io_uring_sqe *sqe, struct disk_job *job)
{
	uint64_t at = job->offset + job->moved, left = job->len - job->moved;

	switch (job->op) {
	case DISK_READ:
		io_uring_prep_readv(sqe, job->direct ? disk->direct_fd : disk->fd, job->iov, job->iovs, at);
		break;
	case DISK_WRITE:
		io_uring_prep_writev(sqe, job->direct ? disk->direct_fd : disk->fd, job->iov, job->iovs, at);
		break;
	case DISK_FLUSH:
		io_uring_prep_fsync(sqe, disk->fd, IORING_FSYNC_DATASYNC);
		break;
	case DISK_DISCARD:
		io_uring_prep_fallocate(sqe, disk->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)left);
		break;
	case DISK_ZERO:
		if (job->by_hand)
			io_uring_prep_write(sqe, disk->fd, zeros, left < ZEROS_BYTES ? (unsigned int)left : ZEROS_BYTES, at);
		else
			io_uring_prep_fallocate(sqe, disk->fd,
						(job->unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE) | FALLOC_FL_KEEP_SIZE,
						(off_t)at, (off_t)left);
		break;
	}
}

static void enter(struct disk *disk, struct disk_job *job)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&disk->ring);

	/* As many entries as jobs: after a submission there is always room. */
	if (!sqe) {
		io_uring_submit(&disk->ring);
		sqe = io_uring_get_sqe(&disk->ring);
	}
	assert(sqe);
	job->direct = (job->op == DISK_READ || job->op == DISK_WRITE) && is_direct(disk, job);
	prepare(disk, sqe, job);
	io_uring_sqe_set_data(sqe, job);
}

void disk_add(struct disk *disk, struct disk_job *job)
{
	assert(disk->jobs < DISK_JOBS_MAX);
	job->moved = 0;
	job->by_hand = false;
	disk->jobs++;
	enter(disk, job);
}

void disk_submit(struct disk *disk)
{
	io_uring_submit(&disk->ring);
}

static void iov_advance(struct disk_job *job, uint64_t n)
{
	while (n && job->iovs) {
		if (n < job->iov->iov_len) {
			job->iov->iov_base = (uint8_t *)job->iov->iov_base + n;
			job->iov->iov_len -= n;
			return;
		}
		n -= job->iov->iov_len;
		job->iov++;
		job->iovs--;
	}
}

/* Bytes went over: is there more to do? A negative errno: it will not go on. */
static int job_moved(struct disk_job *job, int n)
{
	if (!n)
		return -EIO;
	job->moved += (uint64_t)n;
	if (job->op != DISK_ZERO)
		iov_advance(job, (uint64_t)n);
	return job->moved < job->len;
}

/* What a completion means: 1 go on with it, 0 done, or a negative errno. */
static int job_result(struct disk *disk, struct disk_job *job, int r)
{
	if (r == -EINTR || r == -EAGAIN)
		return 1;
	/* A file system that takes O_DIRECT when it opens, and refuses it afterwards. */
	if (r == -EINVAL && job->direct) {
		log_info("disk: no direct I/O here after all");
		close(disk->direct_fd);
		disk->direct_fd = -1;
		return 1;
	}
	if (r == -EOPNOTSUPP && job->op == DISK_DISCARD)
		return 0;	/* a hint */
	if (r == -EOPNOTSUPP && job->op == DISK_ZERO && !job->by_hand) {
		job->by_hand = true;
		return 1;
	}
	if (r < 0 || job->op == DISK_FLUSH || job->op == DISK_DISCARD || (job->op == DISK_ZERO && !job->by_hand))
		return r < 0 ? r : 0;
	return job_moved(job, r);
}

static void reap(struct disk *disk)
{
	struct io_uring_cqe *cqe;
	struct disk_job *job;
	bool again = false;
	int r;

	while (io_uring_peek_cqe(&disk->ring, &cqe) == 0) {
		job = io_uring_cqe_get_data(cqe);
		r = cqe->res;
		io_uring_cqe_seen(&disk->ring, cqe);
		r = job_result(disk, job, r);
		if (r > 0) {
			enter(disk, job);
			again = true;
			continue;
		}
		disk->jobs--;
		job->done(job, r);
	}
	if (again)
		io_uring_submit(&disk->ring);
}

void disk_wait(struct disk *disk, int64_t deadline_ns)
{
	int64_t left = deadline_ns - clock_now_ns();
	struct __kernel_timespec ts = { .tv_sec = left / NS_PER_SEC, .tv_nsec = left % NS_PER_SEC };
	struct io_uring_cqe *cqe;

	io_uring_submit(&disk->ring);
	if (left > 0)
		io_uring_wait_cqe_timeout(&disk->ring, &cqe, &ts);
	reap(disk);
}

static void on_event(uv_poll_t *poll, int status, int events)
{
	struct disk_watch *watch = poll->data;
	eventfd_t value;

	(void)status;
	(void)events;
	eventfd_read(watch->disk->event_fd, &value);
	reap(watch->disk);
}

/* ---- life ---- */

static int size_find(struct disk *disk, const char *path, struct err *err)
{
	struct stat st;

	if (fstat(disk->fd, &st) < 0)
		return err_errno(err, -errno, "disk %s", path);
	if (S_ISREG(st.st_mode)) {
		disk->bytes = (uint64_t)st.st_size;
	} else if (S_ISBLK(st.st_mode)) {
		if (ioctl(disk->fd, BLKGETSIZE64, &disk->bytes) < 0)
			return err_errno(err, -errno, "disk %s: its size", path);
	} else {
		return err_set(err, -EINVAL, "disk %s: neither a file nor a block device", path);
	}
	if (disk->bytes < 512)
		return err_set(err, -EINVAL, "disk %s: smaller than a sector of 512 bytes", path);
	if (disk->bytes % 512)
		log_warn("disk %s: its last %u bytes are no whole sector, the guest does not see them", path,
			 (unsigned int)(disk->bytes % 512));
	disk->bytes &= ~UINT64_C(511);
	return 0;
}

static int files_open(struct disk *disk, const char *path, bool readonly, struct err *err)
{
	/* O_NONBLOCK: a FIFO is an error and not a wait. */
	int flags = (readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK;

	disk->fd = open(path, flags);
	if (disk->fd < 0)
		return err_errno(err, -errno, "disk %s", path);
	disk->direct_fd = open(path, flags | O_DIRECT);
	/* Not while it is used: io_uring would refuse what it cannot do at once. */
	fcntl(disk->fd, F_SETFL, flags & ~O_NONBLOCK);
	if (disk->direct_fd >= 0)
		fcntl(disk->direct_fd, F_SETFL, (flags | O_DIRECT) & ~O_NONBLOCK);
	return size_find(disk, path, err);
}

static int watch_new(struct disk *disk, struct loop *loop, struct err *err)
{
	struct disk_watch *watch = calloc(1, sizeof(*watch));
	int r;

	if (!watch)
		return err_set(err, -ENOMEM, "no memory for a disk");
	r = uv_poll_init(loop_uv(loop), &watch->poll, disk->event_fd);
	if (r < 0) {
		free(watch);
		return err_errno(err, r, "event loop");
	}
	watch->disk = disk;
	watch->poll.data = watch;
	uv_poll_start(&watch->poll, UV_READABLE, on_event);
	disk->watch = watch;
	return 0;
}

static int ring_open(struct disk *disk, struct err *err)
{
	int r = io_uring_queue_init(DISK_JOBS_MAX, &disk->ring, 0);

	if (r < 0) {
		disk->ring.ring_fd = -1;
		return err_errno(err, r, "disk: io_uring (a container's seccomp profile may forbid it, or sysctl "
				 "kernel.io_uring_disabled)");
	}
	disk->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (disk->event_fd < 0)
		return err_errno(err, -errno, "disk: event");
	r = io_uring_register_eventfd(&disk->ring, disk->event_fd);
	return r < 0 ? err_errno(err, r, "disk: io_uring's event") : 0;
}

int disk_open(struct disk **out, struct loop *loop, const char *path, bool readonly, struct err *err)
{
	struct disk *disk = calloc(1, sizeof(*disk));
	int r;

	if (!disk)
		return err_set(err, -ENOMEM, "no memory for a disk");
	disk->fd = disk->direct_fd = disk->event_fd = disk->ring.ring_fd = -1;
	r = files_open(disk, path, readonly, err);
	if (!r)
		r = ring_open(disk, err);
	if (!r && loop)
		r = watch_new(disk, loop, err);
	if (r < 0) {
		disk_close(disk);
		return r;
	}
	*out = disk;
	return 0;
}

static void on_watch_closed(uv_handle_t *handle)
{
	free(handle->data);
}

void disk_close(struct disk *disk)
{
	int64_t deadline = clock_now_ns() + CLOSE_PATIENCE_NS;

	if (!disk)
		return;
	while (disk->jobs && clock_now_ns() < deadline)
		disk_wait(disk, deadline);
	if (disk->jobs)
		log_warn("a disk has not answered %u requests; they are left to the kernel", disk->jobs);
	if (disk->watch)
		uv_close((uv_handle_t *)&disk->watch->poll, on_watch_closed);
	if (disk->ring.ring_fd >= 0)
		io_uring_queue_exit(&disk->ring);
	if (disk->event_fd >= 0)
		close(disk->event_fd);
	if (disk->direct_fd >= 0)
		close(disk->direct_fd);
	if (disk->fd >= 0)
		close(disk->fd);
	free(disk);
}
