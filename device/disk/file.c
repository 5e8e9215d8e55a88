// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * file.c - a disk's data in a file or on a block device, as raw bytes, by
 * io_uring on the main loop.
 *
 * Two descriptors of the same file: one with O_DIRECT, where the file system
 * has that, for what is aligned as that wants it in memory and on the disk, so
 * that the data is in the host's memory once; one without for the rest. The
 * kernel keeps the two coherent as long as they are not at work at the same
 * time. Where they are, a page of the cache that a small write has made dirty
 * is written over what went past it meanwhile, and the kernel, which may
 * notice, lets the next fdatasync fail. So they take turns: direct requests, or
 * those that go by the cache, fallocate among them.
 *
 * What is to be stable when it is done: a write has RWF_DSYNC, whatever goes by
 * fallocate an fdatasync behind it. fallocate of a block device takes whole
 * sectors of it alone, which may be larger than the guest's: the edges of a
 * range to be zeroed are written, those of a discard, which is a hint, left as
 * they are.
 *
 * What the kernel does not take at once stays queued, here or in the ring, and
 * is offered again: at the next submission, the next completion, or, when
 * nothing is under way, the loop's next turn.
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/loop.h"
#include "device/disk/disk.h"
#include "device/disk/lock.h"

#define CLOSE_PATIENCE_NS NS_PER_SEC
#define ZEROS_BYTES 65536
/* Of what a block device says of itself. */
#define LIMIT_MAX (UINT32_C(32) << 20)
/*
 * What goes through the host's cache is copied in the submitting thread, which
 * is the main one: larger jobs go to the kernel's own.
 */
#define COPY_BYTES (128 << 10)

/* For file systems that cannot zero a range themselves. */
static const uint8_t zeros[ZEROS_BYTES];

/* The completions' eventfd in the loop. */
struct file_watch {
	uv_poll_t poll;
	struct file *file;
};

/* What a request goes by: for those that are kept apart. */
enum way { WAY_DIRECT, WAY_CACHE, WAY_NONE, WAYS };

struct file {
	struct disk disk;
	struct io_uring ring;
	int fd, direct_fd;		/* direct_fd -1: none */
	bool direct_works;
	uint32_t direct_align;		/* in memory and on the disk, bytes */
	uint32_t sector;		/* what fallocate takes: bytes, a power of two */
	int event_fd;
	bool claimed;
	struct disk_job *queue, **queue_last;	/* the ring had no room for them, or it is not their turn */
	unsigned int flying[WAYS];		/* under way, by the way that they go */
	struct file_watch *watch;
	char *path;
};

static struct file *file_of(struct disk *disk)
{
	return (struct file *)disk;
}

/* ---- jobs ---- */

static bool is_direct(const struct file *file, const struct disk_job *job)
{
	unsigned int i;

	if (!file->direct_works || (job->offset + job->moved) % file->direct_align)
		return false;
	for (i = 0; i < job->iovs; i++)
		if ((uintptr_t)job->iov[i].iov_base % file->direct_align ||
		    job->iov[i].iov_len % file->direct_align)
			return false;
	return true;
}

/* What is next of a range to be zeroed: so many bytes; *by_hand: by writing them. */
static uint64_t zero_step(const struct file *file, const struct disk_job *job, bool *by_hand)
{
	uint64_t at = job->offset + job->moved, left = job->len - job->moved;
	uint64_t most = file->sector - at % file->sector;

	*by_hand = job->by_hand || most < file->sector || left < file->sector;
	if (!*by_hand)
		return left - left % file->sector;
	if (job->by_hand)
		most = ZEROS_BYTES;
	return left < most ? left : most;
}

static void prepare_zero(struct file *file, struct io_uring_sqe *sqe, struct disk_job *job)
{
	uint64_t at = job->offset + job->moved;
	int mode = job->unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE;
	bool by_hand;
	uint64_t n = zero_step(file, job, &by_hand);

	if (by_hand)
		io_uring_prep_write(sqe, file->fd, zeros, (unsigned int)n, at);
	else
		io_uring_prep_fallocate(sqe, file->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)at,
					(off_t)n);
}

/* The whole sectors of the range; there may be none. */
static void prepare_discard(struct file *file, struct io_uring_sqe *sqe, struct disk_job *job)
{
	uint64_t mask = file->sector - 1;
	uint64_t from = (job->offset + mask) & ~mask, end = (job->offset + job->len) & ~mask;

	if (from < end)
		io_uring_prep_fallocate(sqe, file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					(off_t)from, (off_t)(end - from));
	else
		io_uring_prep_nop(sqe);
}

static void file_prepare(struct file *file, struct io_uring_sqe *sqe, struct disk_job *job)
{
	uint64_t at = job->offset + job->moved, left = job->len - job->moved;
	int fd = job->direct ? file->direct_fd : file->fd;

	switch (job->syncing ? DISK_FLUSH : job->op) {
	case DISK_READ:
		io_uring_prep_readv(sqe, fd, job->iov, job->iovs, at);
		break;
	case DISK_WRITE:
		io_uring_prep_writev(sqe, fd, job->iov, job->iovs, at);
		sqe->rw_flags = job->stable ? RWF_DSYNC : 0;
		break;
	case DISK_FLUSH:
		io_uring_prep_fsync(sqe, file->fd, IORING_FSYNC_DATASYNC);
		break;
	case DISK_DISCARD:
		prepare_discard(file, sqe, job);
		break;
	case DISK_ZERO:
		prepare_zero(file, sqe, job);
		break;
	}
	if (!job->direct && left > COPY_BYTES)
		io_uring_sqe_set_flags(sqe, IOSQE_ASYNC);
}

static enum way way_of(const struct disk_job *job)
{
	if (job->op == DISK_FLUSH || job->syncing)
		return WAY_NONE;
	return job->direct ? WAY_DIRECT : WAY_CACHE;
}

static bool ring_put(struct file *file, struct disk_job *job)
{
	struct io_uring_sqe *sqe;
	enum way way;

	job->direct = (job->op == DISK_READ || job->op == DISK_WRITE) && is_direct(file, job);
	way = way_of(job);
	if (way != WAY_NONE && file->flying[way == WAY_DIRECT ? WAY_CACHE : WAY_DIRECT])
		return false;
	sqe = io_uring_get_sqe(&file->ring);
	if (!sqe)
		return false;
	file->flying[way]++;
	file_prepare(file, sqe, job);
	io_uring_sqe_set_data(sqe, job);
	return true;
}

static void enter(struct file *file, struct disk_job *job)
{
	if (!file->queue && ring_put(file, job))
		return;
	job->next = NULL;
	*file->queue_last = job;
	file->queue_last = &job->next;
}

/*
 * To the kernel. It may take fewer than there are: one that fails right away
 * ends a submission where IORING_SETUP_SUBMIT_ALL is not known; and none when
 * it is short of memory (-EAGAIN) or has completions for us (-EBUSY).
 */
static void file_ring_submit(struct file *file)
{
	struct disk_job *job;
	int r;

	do {
		while ((job = file->queue) && ring_put(file, job)) {
			file->queue = job->next;
			if (!file->queue)
				file->queue_last = &file->queue;
		}
		r = io_uring_sq_ready(&file->ring) ? io_uring_submit(&file->ring) : 0;
	} while (r > 0 && (file->queue || io_uring_sq_ready(&file->ring)));
	if (io_uring_sq_ready(&file->ring))
		eventfd_write(file->event_fd, 1);
}

static void file_add(struct disk *disk, struct disk_job *job)
{
	enter(file_of(disk), job);
}

static void file_submit(struct disk *disk)
{
	file_ring_submit(file_of(disk));
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

/* Of a storage that cannot do it, or not there: no failure of the guest's request. */
static bool is_no_way(int r)
{
	return r == -EOPNOTSUPP || r == -EINVAL;
}

static int zero_result(struct file *file, struct disk_job *job, int r)
{
	bool by_hand;
	uint64_t n = zero_step(file, job, &by_hand);

	if (by_hand)
		return r < 0 ? r : job_moved(job, r);
	if (is_no_way(r)) {
		job->by_hand = true;
		return 1;
	}
	if (r < 0)
		return r;
	job->moved += n;
	return job->moved < job->len;
}

/*
 * It wants a coarser alignment than it said, or than was assumed; or it takes
 * O_DIRECT when it is opened and refuses it afterwards. The descriptor stays:
 * others may be using it.
 */
static void direct_refused(struct file *file)
{
	if (file->direct_align < DISK_DIRECT_BYTES) {
		file->direct_align = DISK_DIRECT_BYTES;
		return;
	}
	if (file->direct_works)
		log_info("disk %s: no direct I/O here after all", file->path);
	file->direct_works = false;
}

static int op_result(struct file *file, struct disk_job *job, int r)
{
	if (r == -EINVAL && job->direct) {
		direct_refused(file);
		return 1;
	}
	if (job->op == DISK_ZERO)
		return zero_result(file, job, r);
	if (is_no_way(r) && job->op == DISK_DISCARD)
		return 0;	/* a hint */
	if (r < 0 || job->op == DISK_FLUSH || job->op == DISK_DISCARD)
		return r < 0 ? r : 0;
	return job_moved(job, r);
}

/*
 * What a completion means: 1 go on with it, 0 done, or a negative errno. What is done again here
 * cannot meet an earlier attempt of itself: that one has completed.
 */
static int job_result(struct file *file, struct disk_job *job, int r)
{
	if (r == -EINTR || r == -EAGAIN)
		return 1;
	if (job->syncing)
		return r < 0 ? r : 0;
	r = op_result(file, job, r);
	if (r || !job->stable || job->op == DISK_WRITE)
		return r;
	job->syncing = true;
	return 1;
}

static void reap(struct file *file)
{
	struct io_uring_cqe *cqe;
	struct disk_job *job;
	int r;

	while (io_uring_peek_cqe(&file->ring, &cqe) == 0) {
		job = io_uring_cqe_get_data(cqe);
		r = cqe->res;
		io_uring_cqe_seen(&file->ring, cqe);
		/* A wait's own timeout has none. */
		if (!job)
			continue;
		file->flying[way_of(job)]--;
		r = job_result(file, job, r);
		if (r > 0)
			enter(file, job);
		else
			disk_done(&file->disk, job, r);
	}
	file_ring_submit(file);
}

static void file_wait(struct disk *disk, int64_t deadline_ns)
{
	int64_t left = deadline_ns - clock_now_ns();
	struct file *file = file_of(disk);
	struct pollfd event = { .fd = file->event_fd, .events = POLLIN };
	eventfd_t value;

	file_ring_submit(file);
	/*
	 * Not at the ring itself: that would need an entry of it for the
	 * timeout, on kernels before 5.11.
	 */
	if (left > 0)
		poll(&event, 1, (int)(left / NS_PER_MS) + 1);
	eventfd_read(file->event_fd, &value);
	reap(file);
}

static void file_on_event(uv_poll_t *poll, int status, int events)
{
	struct file_watch *watch = poll->data;
	eventfd_t value;

	(void)status;
	(void)events;
	eventfd_read(watch->file->event_fd, &value);
	reap(watch->file);
}

/* ---- who holds it ---- */

static int file_claim(struct disk *disk, struct err *err)
{
	struct file *file = file_of(disk);
	int r;

	if (file->claimed)
		return 0;
	r = lock_take(file->fd, file->direct_fd, file->path, disk->readonly, err);
	if (r < 0)
		return r;
	/*
	 * Another host may have written since, and this one's cache does not
	 * know. What is dirty, which is nothing, would stay.
	 */
	if (disk->env.elsewhere)
		posix_fadvise(file->fd, 0, 0, POSIX_FADV_DONTNEED);
	file->claimed = true;
	return 0;
}

static void file_release(struct disk *disk)
{
	struct file *file = file_of(disk);

	if (file->claimed)
		lock_release(file->fd, file->direct_fd);
	file->claimed = false;
}

/* ---- life ---- */

static int size_find(struct file *file, struct err *err)
{
	uint64_t *bytes = &file->disk.bytes;
	struct stat st;

	if (fstat(file->fd, &st) < 0)
		return err_errno(err, -errno, "its size");
	if (S_ISREG(st.st_mode)) {
		*bytes = (uint64_t)st.st_size;
	} else if (S_ISBLK(st.st_mode)) {
		if (ioctl(file->fd, BLKGETSIZE64, bytes) < 0)
			return err_errno(err, -errno, "its size");
	} else {
		return err_set(err, -EINVAL, "neither a file nor a block device");
	}
	if (*bytes < DISK_SECTOR_BYTES)
		return err_set(err, -EINVAL, "smaller than a sector of %d bytes",
			       DISK_SECTOR_BYTES);
	if (*bytes % DISK_SECTOR_BYTES)
		log_warn(
			"disk %s: its last %u bytes are no whole sector, the guest does not see them",
			file->path, (unsigned int)(*bytes % DISK_SECTOR_BYTES));
	*bytes -= *bytes % DISK_SECTOR_BYTES;
	return 0;
}

static uint32_t power_of_two(uint64_t value, uint32_t otherwise)
{
	bool good = value >= DISK_SECTOR_BYTES && value <= LIMIT_MAX && !(value & (value - 1));

	return good ? (uint32_t)value : otherwise;
}

/* A number of the block device's queue; a partition's is its disk's. 0: none. */
static uint64_t queue_read(dev_t dev, const char *name)
{
	static const char *const dirs[] = { "queue", "../queue" };
	unsigned long long value = 0;
	char path[96];
	unsigned int i;
	FILE *from;

	for (i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s/%s", major(dev), minor(dev),
			 dirs[i], name);
		from = fopen(path, "re");
		if (!from)
			continue;
		if (fscanf(from, "%llu", &value) != 1)
			value = 0;
		fclose(from);
		break;
	}
	return value;
}

/*
 * What O_DIRECT wants of a file, where the kernel says it (Linux 6.1); else
 * what most do, which is tried.
 */
static uint32_t direct_alignment(int fd)
{
#ifdef STATX_DIOALIGN
	struct statx stx;

	if (!statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) && stx.stx_mask & STATX_DIOALIGN &&
	    stx.stx_dio_offset_align) {
		uint32_t most = stx.stx_dio_mem_align > stx.stx_dio_offset_align ?
					stx.stx_dio_mem_align :
					stx.stx_dio_offset_align;

		return power_of_two(most, DISK_SECTOR_BYTES);
	}
#endif
	(void)fd;
	return DISK_SECTOR_BYTES;
}

/* What it likes. For a file that is its file system's matter, and pages. */
static void limits_find(struct file *file)
{
	struct disk_limits *limits = &file->disk.limits;
	unsigned int physical = 0, optimal = 0;
	int sector = 0;
	struct stat st;

	*limits = (struct disk_limits){ .physical = DISK_DIRECT_BYTES, .discard = DISK_DIRECT_BYTES };
	file->sector = DISK_SECTOR_BYTES;
	file->direct_align = direct_alignment(file->fd);
	if (fstat(file->fd, &st) < 0 || !S_ISBLK(st.st_mode))
		return;
	ioctl(file->fd, BLKSSZGET, &sector);
	ioctl(file->fd, BLKPBSZGET, &physical);
	ioctl(file->fd, BLKIOOPT, &optimal);
	file->sector = power_of_two((uint64_t)sector, DISK_SECTOR_BYTES);
	file->direct_align = file->sector;
	limits->physical = power_of_two(physical, file->sector);
	limits->discard =
		power_of_two(queue_read(st.st_rdev, "discard_granularity"), limits->physical);
	if (optimal <= LIMIT_MAX && optimal % limits->physical == 0)
		limits->optimal = optimal;
}

/* See config.h. */
static int format_check(struct file *file, enum disk_format format, struct err *err)
{
	char magic[4] = { 0 };

	if (format == DISK_FORMAT_RAW || pread(file->fd, magic, sizeof(magic), 0) < 4 ||
	    memcmp(magic, "QFI\xfb", 4) != 0)
		return 0;
	/* The other format is not offered: who wrote these bytes may be the guest. */
	return err_set(
		err, -EINVAL,
		"it begins as a qcow2 image does, which a guest that had it as a raw disk can have written there: "
		"format=raw, unless somebody whom you trust has made it as an image");
}

static int files_open(struct file *file, enum disk_format format, struct err *err)
{
	/* O_NONBLOCK: a FIFO is an error and not a wait. */
	int flags = (file->disk.readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK;
	int r;

	file->fd = open(file->path, flags);
	if (file->fd < 0)
		return err_errno(err, -errno, "opening it");
	file->direct_fd = open(file->path, flags | O_DIRECT);
	file->direct_works = file->direct_fd >= 0;
	/* Not while it is used: io_uring would refuse what it cannot do at once. */
	fcntl(file->fd, F_SETFL, flags & ~O_NONBLOCK);
	if (file->direct_works)
		fcntl(file->direct_fd, F_SETFL, (flags | O_DIRECT) & ~O_NONBLOCK);
	limits_find(file);
	r = size_find(file, err);
	return r < 0 ? r : format_check(file, format, err);
}

static int file_watch_new(struct file *file, struct loop *loop, struct err *err)
{
	struct file_watch *watch = calloc(1, sizeof(*watch));
	int r;

	if (!watch)
		return err_set(err, -ENOMEM, "no memory for a disk");
	r = uv_poll_init(loop_uv(loop), &watch->poll, file->event_fd);
	if (r < 0) {
		free(watch);
		return err_errno(err, r, "event loop");
	}
	watch->file = file;
	watch->poll.data = watch;
	uv_poll_start(&watch->poll, UV_READABLE, file_on_event);
	file->watch = watch;
	return 0;
}

static int ring_open(struct file *file, struct err *err)
{
	int r = io_uring_queue_init(DISK_JOBS_MAX, &file->ring, IORING_SETUP_SUBMIT_ALL);

	/* Before Linux 5.18. */
	if (r == -EINVAL)
		r = io_uring_queue_init(DISK_JOBS_MAX, &file->ring, 0);
	if (r < 0) {
		file->ring.ring_fd = -1;
		return err_errno(err, r,
				 "io_uring (a container's seccomp profile may forbid it, or sysctl "
				 "kernel.io_uring_disabled)");
	}
	file->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (file->event_fd < 0)
		return err_errno(err, -errno, "event");
	r = io_uring_register_eventfd(&file->ring, file->event_fd);
	return r < 0 ? err_errno(err, r, "io_uring's event") : 0;
}

static void file_close(struct disk *disk)
{
	int64_t deadline = clock_now_ns() + CLOSE_PATIENCE_NS;
	struct file *file = file_of(disk);

	while (disk->jobs && clock_now_ns() < deadline)
		file_wait(disk, deadline);
	if (disk->jobs)
		log_warn("disk %s: %u requests have no answer; they are left to the kernel",
			 file->path, disk->jobs);
	if (file->watch)
		loop_close((uv_handle_t *)&file->watch->poll, file->watch);
	if (file->ring.ring_fd >= 0)
		io_uring_queue_exit(&file->ring);
	if (file->event_fd >= 0)
		close(file->event_fd);
	if (file->direct_fd >= 0)
		close(file->direct_fd);
	if (file->fd >= 0)
		close(file->fd);
	free(file->path);
	free(file);
}

static const struct disk_ops file_ops = {
	.driver = "file",
	.close = file_close,
	.add = file_add,
	.submit = file_submit,
	.wait = file_wait,
	.claim = file_claim,
	.release = file_release,
};

int file_open(struct disk **out, const struct disk_config *config, const struct disk_env *env,
	      struct err *err)
{
	struct file *file = calloc(1, sizeof(*file));
	int r;

	if (!file)
		return err_set(err, -ENOMEM, "no memory for a disk");
	file->disk = (struct disk){ .ops = &file_ops, .env = *env, .readonly = config->readonly };
	file->fd = file->direct_fd = file->event_fd = file->ring.ring_fd = -1;
	file->queue_last = &file->queue;
	file->path = strdup(config->path);
	r = file->path ? files_open(file, config->format, err) :
			 err_set(err, -ENOMEM, "no memory for a disk");
	if (!r && !env->elsewhere)
		r = file_claim(&file->disk, err);
	if (!r)
		r = ring_open(file, err);
	if (!r && env->loop)
		r = file_watch_new(file, env->loop, err);
	if (r < 0) {
		file_close(&file->disk);
		return r;
	}
	*out = &file->disk;
	return 0;
}
