// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * nbd.c - a disk behind an NBD server, by libnbd's asynchronous interface on the main loop.
 *
 * A job becomes one request or several, its parts: a run of guest memory that is long enough is sent and received in place, shorter ones
 * through a buffer of our own. At most PARTS_MAX are under way; that bounds memory as well.
 *
 *   away --the timer: connect--> connecting --the handshake is done, the export is the one we know--> ready
 *    ^                              |                                                                  |
 *    +------- dead, or too slow ----+------------------- the connection ends --------------------------+
 *
 * When the connection ends, every job that is not done starts over on the next one: reading, writing, zeroing and flushing again does no
 * harm. What the server acknowledged and was not asked to flush is the server's to lose, as the write cache of a disk that loses its
 * power; that may have been the case is logged.
 *
 * Jobs wait for a server that has gone for as long as the disk's reconnect says, and fail with -EIO from then until it is back.
 */
#include <errno.h>
#include <libnbd.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "device/disk/nbd.h"

#define PARTS_MAX 64
/* Sent as one, from or to guest memory; every server takes that much. */
#define PART_BYTES (UINT64_C(4) << 20)
/* Through a buffer of ours; runs of guest memory that are at least RUN_BYTES are not. */
#define BUFFER_BYTES (UINT64_C(256) << 10)
#define RUN_BYTES (UINT64_C(64) << 10)
/* For connecting and the handshake. */
#define HANDSHAKE_NS (10 * NS_PER_SEC)
#define PAUSE_MIN_MS 100
#define PAUSE_MAX_MS 5000
#define CLOSE_PATIENCE_NS NS_PER_SEC
#define ZEROS_BYTES 65536

static const uint8_t zeros[ZEROS_BYTES];

struct nbd_part {
	struct disk_job *job;		/* NULL: this one is free */
	uint64_t at, len;		/* of the job */
	uint8_t *buffer;		/* NULL: in place */
	bool finished;
	int error;
};

/* What the loop has of us; freed when it has let go of both. */
struct nbd_timers {
	uv_timer_t retry, soon;
	unsigned int open;
};

struct nbd_watch {
	uv_poll_t poll;
	struct nbd *nbd;
};

struct nbd {
	struct disk disk;
	struct nbd_origin origin;
	struct nbd_handle *h;		/* NULL: no connection */
	bool ready;			/* the handshake is done */
	bool held;			/* an origin of ours is claimed */
	bool unflushed;			/* acknowledged, and not flushed since */
	int reconnect_s;
	int64_t lost_ns, ready_ns, handshake_end_ns;
	unsigned int pause_ms;
	struct nbd_watch *watch;
	struct nbd_timers *timers;
	struct disk_job *first, **last;	/* all jobs, in order */
	struct nbd_part part[PARTS_MAX];
	char *path;
};

static struct nbd *nbd_of(struct disk *disk)
{
	return (struct nbd *)disk;
}

static void on_poll(uv_poll_t *poll, int status, int events);
static void on_retry(uv_timer_t *timer);
static void on_soon(uv_timer_t *timer);

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

static void copy(const struct nbd_part *part, bool in)
{
	uint64_t done = 0, offset, n;

	while (done < part->len) {
		const struct iovec *iov = iov_at(part->job, part->at + done, &offset);
		uint8_t *memory = (uint8_t *)iov->iov_base + offset;

		n = iov->iov_len - offset < part->len - done ? iov->iov_len - offset : part->len - done;
		if (in)
			memcpy(memory, part->buffer + done, n);
		else
			memcpy(part->buffer + done, memory, n);
		done += n;
	}
}

/* What the next part of a job that moves data is: its length, and where it is sent from; NULL: no memory. */
static uint8_t *data_place(struct nbd_part *part)
{
	uint64_t left = part->job->len - part->at, offset, run;
	const struct iovec *iov = iov_at(part->job, part->at, &offset);

	run = iov->iov_len - offset;
	if (run > left)
		run = left;
	if (run == left || run >= RUN_BYTES) {
		part->len = run < PART_BYTES ? run : PART_BYTES;
		part->len -= part->len % DISK_SECTOR_BYTES;
		if (part->len)
			return (uint8_t *)iov->iov_base + offset;
	}
	part->len = left < BUFFER_BYTES ? left : BUFFER_BYTES;
	/* Cleared: what a server leaves out never is what this memory had before. */
	part->buffer = calloc(1, part->len);
	if (part->buffer && part->job->op == DISK_WRITE)
		copy(part, false);
	return part->buffer;
}

/* ---- parts ---- */

/* From within libnbd, which must not be called from here: only noted. */
static int on_complete(void *arg, int *error)
{
	struct nbd_part *part = arg;

	part->finished = true;
	part->error = *error;
	return 1;
}

static void part_free(struct nbd_part *part)
{
	free(part->buffer);
	*part = (struct nbd_part){ .job = NULL };
}

/* Sends one. 0, or -1: libnbd does not take it. 1: there is nothing to send, it is done. */
static int part_send(struct nbd *nbd, struct nbd_part *part)
{
	const nbd_completion_callback done = { .callback = on_complete, .user_data = part };
	struct disk_job *job = part->job;
	uint64_t at = job->offset + part->at;
	uint32_t fua = job->stable && nbd_can_fua(nbd->h) > 0 ? LIBNBD_CMD_FLAG_FUA : 0;
	uint8_t *place;
	int64_t r;

	part->len = job->len - part->at;
	switch (job->syncing ? DISK_FLUSH : job->op) {
	case DISK_READ:
	case DISK_WRITE:
		place = data_place(part);
		if (!place) {
			job->error = -ENOMEM;
			return 1;
		}
		r = job->op == DISK_READ ? nbd_aio_pread(nbd->h, place, part->len, at, done, 0) :
					   nbd_aio_pwrite(nbd->h, place, part->len, at, done, fua);
		break;
	case DISK_FLUSH:
		if (nbd_can_flush(nbd->h) <= 0)
			return 1;
		r = nbd_aio_flush(nbd->h, done, 0);
		break;
	case DISK_DISCARD:
		/* A hint. */
		if (nbd_can_trim(nbd->h) <= 0)
			return 1;
		r = nbd_aio_trim(nbd->h, part->len, at, done, fua);
		break;
	default:
		if (nbd_can_zero(nbd->h) > 0) {
			r = nbd_aio_zero(nbd->h, part->len, at, done,
					 fua | (job->unmap ? 0 : LIBNBD_CMD_FLAG_NO_HOLE));
			break;
		}
		if (part->len > ZEROS_BYTES)
			part->len = ZEROS_BYTES;
		r = nbd_aio_pwrite(nbd->h, zeros, part->len, at, done, fua);
	}
	return r < 0 ? -1 : 0;
}

static struct nbd_part *part_find(struct nbd *nbd)
{
	unsigned int i;

	for (i = 0; i < PARTS_MAX; i++)
		if (!nbd->part[i].job)
			return &nbd->part[i];
	return NULL;
}

static bool is_over(const struct nbd *nbd)
{
	return nbd_aio_is_dead(nbd->h) || nbd_aio_is_closed(nbd->h);
}

/* As much of a job as there is room for. False: no more room. */
static bool job_send(struct nbd *nbd, struct disk_job *job)
{
	struct nbd_part *part;
	int r;

	while (!job->sent && !job->error) {
		part = part_find(nbd);
		if (!part)
			return false;
		part->job = job;
		part->at = job->moved;
		r = part_send(nbd, part);
		/* One that was not taken because the connection has just died keeps its place. */
		if (r < 0 && is_over(nbd)) {
			part_free(part);
			return false;
		}
		job->moved += part->len;
		job->sent = job->moved >= job->len;
		if (r < 0) {
			job->error = nbd_get_errno() ? -nbd_get_errno() : -EIO;
			log_debug("disk %s: %s", nbd->path, nbd_get_error());
		}
		if (r)
			part_free(part);
		else
			job->parts++;
	}
	return true;
}

static bool job_ended(const struct disk_job *job)
{
	return !job->parts && (job->sent || job->error);
}

static void pump(struct nbd *nbd)
{
	struct disk_job *job;
	bool ended = false;

	if (!nbd->ready)
		return;
	for (job = nbd->first; job && job_send(nbd, job); job = job->next)
		ended |= job_ended(job);
	/* Its `done` is not called from within an addition. */
	if (ended)
		uv_timer_start(&nbd->timers->soon, on_soon, 0, 0);
}

/* ---- the end of jobs ---- */

/* Those that have ended, or all with this result. Out of the list first: whoever is told may add others. */
static void jobs_end(struct nbd *nbd, bool all, int result)
{
	struct disk_job **at = &nbd->first, *job, *ended = NULL, **last = &ended;

	while ((job = *at)) {
		if (!all && !job_ended(job)) {
			at = &job->next;
			continue;
		}
		*at = job->next;
		job->next = NULL;
		*last = job;
		last = &job->next;
	}
	nbd->last = at;
	while ((job = ended)) {
		ended = job->next;
		if (!job->error && !all && job->op != DISK_READ && !job->stable)
			nbd->unflushed = job->op != DISK_FLUSH;
		disk_done(&nbd->disk, job, all ? result : job->error);
	}
}

/*
 * Of one that is to be stable, when the server has done it: a flush behind it where the server has
 * no FUA. One that has neither says that it keeps what it acknowledges.
 */
static void job_sync(struct nbd *nbd, struct disk_job *job)
{
	if (!job->stable || job->syncing || !job_ended(job) || job->error ||
	    nbd_can_fua(nbd->h) > 0 || nbd_can_flush(nbd->h) <= 0)
		return;
	job->syncing = true;
	job->sent = false;
	job->moved = 0;
}

/* What has been answered. False: by a server that is about to go. */
static bool collect(struct nbd *nbd)
{
	bool stays = true;
	unsigned int i;

	for (i = 0; i < PARTS_MAX; i++) {
		struct nbd_part *part = &nbd->part[i];

		if (!part->job || !part->finished)
			continue;
		if (part->error == ENOTCONN || part->error == ESHUTDOWN) {
			stays = false;
			continue;
		}
		if (part->error)
			part->job->error = -part->error;
		else if (part->buffer && part->job->op == DISK_READ)
			copy(part, true);
		part->job->parts--;
		job_sync(nbd, part->job);
		part_free(part);
	}
	jobs_end(nbd, false, 0);
	return stays;
}

/* ---- the connection ---- */

static void on_watch_closed(uv_handle_t *handle)
{
	free(handle->data);
}

static void connection_close(struct nbd *nbd)
{
	struct disk_job *job;
	unsigned int i;

	if (nbd->watch)
		uv_close((uv_handle_t *)&nbd->watch->poll, on_watch_closed);
	nbd->watch = NULL;
	if (nbd->h)
		nbd_close(nbd->h);
	nbd->h = NULL;
	nbd->ready = false;
	for (i = 0; i < PARTS_MAX; i++)
		part_free(&nbd->part[i]);
	for (job = nbd->first; job; job = job->next) {
		job->moved = 0;
		job->parts = 0;
		job->error = 0;
		job->sent = job->syncing = false;
	}
}

static bool waited_enough(const struct nbd *nbd)
{
	return nbd->reconnect_s >= 0 && *nbd->disk.away && clock_now_ns() - nbd->lost_ns >= nbd->reconnect_s * NS_PER_SEC;
}

static void retry_later(struct nbd *nbd)
{
	unsigned int ms = nbd->pause_ms;
	int64_t left;

	if (nbd->reconnect_s >= 0) {
		left = (nbd->lost_ns + nbd->reconnect_s * NS_PER_SEC - clock_now_ns()) / NS_PER_MS + 1;
		if (left > 0 && left < ms)
			ms = (unsigned int)left;
	}
	uv_timer_start(&nbd->timers->retry, on_retry, ms, 0);
	nbd->pause_ms = nbd->pause_ms * 2 < PAUSE_MAX_MS ? nbd->pause_ms * 2 : PAUSE_MAX_MS;
}

/* Not called from within disk_add or disk_submit: jobs may end. */
static void lost(struct nbd *nbd, const char *reason)
{
	bool first = !*nbd->disk.away;
	char why[160];

	snprintf(why, sizeof(why), "%s", reason);
	connection_close(nbd);
	nbd->origin.lost(nbd->origin.arg, why, sizeof(why));
	if (first) {
		nbd->lost_ns = clock_now_ns();
		/* One that comes and goes is not asked, and not told of, more and more often. */
		if (nbd->lost_ns - nbd->ready_ns > PAUSE_MAX_MS * NS_PER_MS)
			nbd->pause_ms = PAUSE_MIN_MS;
		log_warn("disk %s is away: %s; %u requests wait for it", nbd->path, why, nbd->disk.jobs);
	} else {
		log_debug("disk %s is still away: %s", nbd->path, why);
	}
	disk_set_away(&nbd->disk, why);
	if (waited_enough(nbd))
		jobs_end(nbd, true, -EIO);
	retry_later(nbd);
}

/* Is it the export that we know? Sets its size when it is new. */
static int export_check(struct nbd *nbd, struct err *err)
{
	int64_t bytes = nbd_get_size(nbd->h);
	uint64_t whole;

	if (bytes < 0)
		return err_set(err, -EIO, "%s", nbd_get_error());
	if (bytes < DISK_SECTOR_BYTES)
		return err_set(err, -EINVAL, "smaller than a sector of %d bytes", DISK_SECTOR_BYTES);
	whole = (uint64_t)bytes - (uint64_t)bytes % DISK_SECTOR_BYTES;
	if (nbd->disk.bytes && whole != nbd->disk.bytes)
		return err_set(err, -EINVAL, "it has %llu bytes now, and had %llu", (unsigned long long)whole,
			       (unsigned long long)nbd->disk.bytes);
	if (!nbd->disk.readonly && nbd_is_read_only(nbd->h) != 0)
		return err_set(err, -EROFS, "the server has it for reading only: say readonly");
	nbd->disk.bytes = whole;
	return 0;
}

static void ready(struct nbd *nbd)
{
	struct err err;
	char why[160];

	if (export_check(nbd, &err) < 0) {
		snprintf(why, sizeof(why), "%.150s", err.text);
		lost(nbd, why);
		return;
	}
	nbd->ready = true;
	nbd->ready_ns = clock_now_ns();
	uv_timer_stop(&nbd->timers->retry);
	if (!*nbd->disk.away)
		return;
	log_warn("disk %s is back after %lld ms%s", nbd->path, (long long)((clock_now_ns() - nbd->lost_ns) / NS_PER_MS),
		 nbd->unflushed ? "; what the guest wrote and had not flushed is there if the server kept it" : "");
	disk_set_away(&nbd->disk, NULL);
}

/* The loop is to look for what libnbd waits for. */
static void watch_update(struct nbd *nbd)
{
	unsigned int direction = nbd_aio_get_direction(nbd->h);
	int events = (direction & LIBNBD_AIO_DIRECTION_READ ? UV_READABLE : 0) |
		     (direction & LIBNBD_AIO_DIRECTION_WRITE ? UV_WRITABLE : 0);

	if (!nbd->watch)
		return;
	if (events)
		uv_poll_start(&nbd->watch->poll, events, on_poll);
	else
		uv_poll_stop(&nbd->watch->poll);
}

/* After anything has happened to the connection. */
static void look(struct nbd *nbd)
{
	bool stays = collect(nbd);
	const char *error;

	if (!nbd->h)
		return;
	if (!nbd->ready && nbd_aio_is_ready(nbd->h))
		ready(nbd);
	pump(nbd);
	if (!nbd->h)
		return;
	if (!stays || is_over(nbd)) {
		error = nbd_get_error();
		lost(nbd, !stays || !error ? "the server has ended the connection" : error);
		return;
	}
	watch_update(nbd);
}

static void notify(struct nbd *nbd, bool readable, bool writable)
{
	unsigned int direction = nbd_aio_get_direction(nbd->h);

	/* One of them: the first may change what it waits for. An error shows as dead. */
	if (readable && direction & LIBNBD_AIO_DIRECTION_READ)
		nbd_aio_notify_read(nbd->h);
	else if (writable && direction & LIBNBD_AIO_DIRECTION_WRITE)
		nbd_aio_notify_write(nbd->h);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
	struct nbd_watch *watch = poll->data;
	struct nbd *nbd = watch->nbd;

	notify(nbd, status < 0 || events & UV_READABLE, status < 0 || events & UV_WRITABLE);
	look(nbd);
}

static int handle_new(struct nbd *nbd, struct err *err)
{
	int fd = nbd->origin.connect(nbd->origin.arg, err);

	if (fd < 0)
		return fd;
	nbd->h = nbd_create();
	/*
	 * Any alignment is the server's to deal with. Simple replies alone: one that is no error brings exactly the bytes that were asked
	 * for. A structured one may leave some out, which libnbd lets pass when it was told by a callback; what the memory had before would be
	 * taken for the disk's. With simple ones guest memory need not be cleared before each read either.
	 */
	if (!nbd->h || nbd_set_request_structured_replies(nbd->h, false) < 0 || nbd_set_request_block_size(nbd->h, false) < 0 ||
	    nbd_set_pread_initialize(nbd->h, false) < 0 ||
	    nbd_set_export_name(nbd->h, nbd->origin.export_name) < 0) {
		close(fd);
		return err_set(err, -ENOMEM, "%s", nbd_get_error());
	}
	nbd->handshake_end_ns = clock_now_ns() + HANDSHAKE_NS;
	/* It owns the socket from here on, also when this fails. */
	if (nbd_aio_connect_socket(nbd->h, fd) < 0)
		return err_set(err, nbd_get_errno() ? -nbd_get_errno() : -EIO, "%s", nbd_get_error());
	return 0;
}

static int watch_new(struct nbd *nbd, struct err *err)
{
	struct nbd_watch *watch = calloc(1, sizeof(*watch));
	int r;

	if (!watch)
		return err_set(err, -ENOMEM, "no memory for a disk");
	r = uv_poll_init(loop_uv(nbd->disk.env.loop), &watch->poll, nbd_aio_get_fd(nbd->h));
	if (r < 0) {
		free(watch);
		return err_errno(err, r, "event loop");
	}
	watch->nbd = nbd;
	watch->poll.data = watch;
	nbd->watch = watch;
	watch_update(nbd);
	return 0;
}

static void connect_start(struct nbd *nbd)
{
	struct err err = { 0 };
	char why[160];

	if (handle_new(nbd, &err) < 0 || watch_new(nbd, &err) < 0) {
		snprintf(why, sizeof(why), "%.150s", err.text);
		lost(nbd, why);
		return;
	}
	uv_timer_start(&nbd->timers->retry, on_retry, HANDSHAKE_NS / NS_PER_MS, 0);
	look(nbd);
}

static void on_retry(uv_timer_t *timer)
{
	struct nbd *nbd = timer->data;

	if (waited_enough(nbd))
		jobs_end(nbd, true, -EIO);
	if (nbd->h)
		lost(nbd, "the server does not answer");
	else if (!nbd->origin.ours || nbd->held)
		connect_start(nbd);
}

static void on_soon(uv_timer_t *timer)
{
	struct nbd *nbd = timer->data;

	if (waited_enough(nbd))
		jobs_end(nbd, true, -EIO);
	look(nbd);
}

/* ---- the interface ---- */

static void nbd_disk_add(struct disk *disk, struct disk_job *job)
{
	struct nbd *nbd = nbd_of(disk);

	*nbd->last = job;
	nbd->last = &job->next;
}

static void nbd_disk_submit(struct disk *disk)
{
	struct nbd *nbd = nbd_of(disk);

	pump(nbd);
	if (nbd->h)
		watch_update(nbd);
	/* Died while it was sent to, or has long been. */
	if ((nbd->h && is_over(nbd)) || waited_enough(nbd))
		uv_timer_start(&nbd->timers->soon, on_soon, 0, 0);
}

static void nbd_disk_wait(struct disk *disk, int64_t deadline_ns)
{
	int64_t left = (deadline_ns - clock_now_ns()) / NS_PER_MS + 1;
	struct nbd *nbd = nbd_of(disk);
	struct pollfd fd = { .fd = -1 };
	unsigned int direction;

	if (!nbd->h && (!nbd->origin.ours || nbd->held))
		connect_start(nbd);
	if (nbd->h) {
		pump(nbd);
		direction = nbd_aio_get_direction(nbd->h);
		fd.fd = nbd_aio_get_fd(nbd->h);
		fd.events = (short)((direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
				    (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
	}
	/* What is done already needs nobody's answer, and what the timer is for is done below: the loop does not turn. */
	if (uv_is_active((uv_handle_t *)&nbd->timers->soon)) {
		uv_timer_stop(&nbd->timers->soon);
		left = 0;
	}
	if (left > 0 || fd.fd >= 0)
		poll(&fd, 1, left > 0 ? (int)left : 0);
	if (nbd->h)
		notify(nbd, fd.revents & (POLLIN | POLLERR | POLLHUP), fd.revents & (POLLOUT | POLLERR | POLLHUP));
	look(nbd);
}

static int nbd_disk_claim(struct disk *disk, struct err *err)
{
	struct nbd *nbd = nbd_of(disk);

	(void)err;
	if (!nbd->origin.ours || nbd->held)
		return 0;
	nbd->held = true;
	nbd->pause_ms = PAUSE_MIN_MS;
	/* What the guest asks for until then waits. */
	uv_timer_start(&nbd->timers->retry, on_retry, 0, 0);
	return 0;
}

static void nbd_disk_release(struct disk *disk)
{
	struct nbd *nbd = nbd_of(disk);

	if (!nbd->origin.ours || !nbd->held)
		return;
	nbd->held = false;
	uv_timer_stop(&nbd->timers->retry);
	if (nbd->ready)
		nbd_aio_disconnect(nbd->h, 0);
	connection_close(nbd);
	nbd->origin.lost(nbd->origin.arg, NULL, 0);
}

/* ---- life ---- */

static void on_timer_closed(uv_handle_t *handle)
{
	struct nbd_timers *timers = (struct nbd_timers *)uv_handle_get_data(handle);

	if (!--timers->open)
		free(timers);
}

static void timers_close(struct nbd_timers *timers)
{
	timers->retry.data = timers->soon.data = timers;
	uv_close((uv_handle_t *)&timers->retry, on_timer_closed);
	uv_close((uv_handle_t *)&timers->soon, on_timer_closed);
}

static int timers_new(struct nbd *nbd, struct err *err)
{
	uv_loop_t *uv = loop_uv(nbd->disk.env.loop);
	struct nbd_timers *timers = calloc(1, sizeof(*timers));

	if (!timers)
		return err_set(err, -ENOMEM, "no memory for a disk");
	uv_timer_init(uv, &timers->retry);
	uv_timer_init(uv, &timers->soon);
	timers->open = 2;
	timers->retry.data = timers->soon.data = nbd;
	nbd->timers = timers;
	return 0;
}

static void nbd_disk_close(struct disk *disk)
{
	int64_t deadline = clock_now_ns() + CLOSE_PATIENCE_NS;
	struct nbd *nbd = nbd_of(disk);

	while (disk->jobs && nbd->h && !*disk->away && clock_now_ns() < deadline)
		nbd_disk_wait(disk, deadline);
	if (disk->jobs)
		log_warn("disk %s: %u requests have no answer", nbd->path, disk->jobs);
	if (nbd->ready && nbd->h)
		nbd_aio_disconnect(nbd->h, 0);
	connection_close(nbd);
	/* Nobody writes to their memory any more. */
	jobs_end(nbd, true, -ECANCELED);
	if (nbd->timers)
		timers_close(nbd->timers);
	nbd->origin.lost(nbd->origin.arg, NULL, 0);
	nbd->origin.free(nbd->origin.arg);
	free(nbd->path);
	free(nbd);
}

static const struct disk_ops nbd_ops = {
	.driver = "nbd",
	.close = nbd_disk_close,
	.add = nbd_disk_add,
	.submit = nbd_disk_submit,
	.wait = nbd_disk_wait,
	.claim = nbd_disk_claim,
	.release = nbd_disk_release,
};

/* One attempt at a first connection, to its end. */
static int first_try(struct nbd *nbd, struct err *err)
{
	struct pollfd fd = { 0 };
	unsigned int direction;
	int64_t left;
	int r = handle_new(nbd, err);

	if (r < 0)
		return r;
	while (!nbd_aio_is_ready(nbd->h)) {
		if (is_over(nbd))
			return err_set(err, nbd_get_errno() ? -nbd_get_errno() : -EIO, "%s",
				       nbd_get_error() ? nbd_get_error() : "the server has ended the connection");
		left = (nbd->handshake_end_ns - clock_now_ns()) / NS_PER_MS;
		if (left <= 0)
			return err_set(err, -ETIMEDOUT, "the server does not answer (one that serves a single client at a time does not "
				       "while it has another)");
		direction = nbd_aio_get_direction(nbd->h);
		fd.fd = nbd_aio_get_fd(nbd->h);
		fd.events = (short)((direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
				    (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
		fd.revents = 0;
		if (poll(&fd, 1, (int)left) < 0 && errno == EINTR)
			return err_set(err, -EINTR, "interrupted by a signal");
		notify(nbd, fd.revents & (POLLIN | POLLERR | POLLHUP), fd.revents & (POLLOUT | POLLERR | POLLHUP));
	}
	return export_check(nbd, err);
}

static int first_connect(struct nbd *nbd, struct err *err)
{
	unsigned int i;
	char why[160];
	int r = -EIO;

	for (i = 0; i < nbd->origin.choices && r < 0 && r != -EINTR && r != -ETIMEDOUT; i++) {
		r = first_try(nbd, err);
		if (!r)
			break;
		snprintf(why, sizeof(why), "%.150s", err ? err->text : "");
		connection_close(nbd);
		nbd->origin.lost(nbd->origin.arg, why, sizeof(why));
		if (r != -EINTR)
			err_set(err, r, "%s", why);
	}
	if (r < 0)
		return r;
	nbd->ready = true;
	nbd->ready_ns = clock_now_ns();
	return watch_new(nbd, err);
}

int nbd_open_at(struct disk **out, const struct disk_config *config, const struct disk_env *env,
		const struct nbd_origin *origin, struct err *err)
{
	struct nbd *nbd = calloc(1, sizeof(*nbd));
	int r;

	if (!nbd) {
		origin->free(origin->arg);
		return err_set(err, -ENOMEM, "no memory for a disk");
	}
	nbd->disk = (struct disk){
		.ops = &nbd_ops, .env = *env, .readonly = config->readonly, .bytes = origin->bytes,
		.limits = { .physical = DISK_DIRECT_BYTES, .discard = DISK_DIRECT_BYTES },
	};
	nbd->origin = *origin;
	nbd->last = &nbd->first;
	nbd->pause_ms = PAUSE_MIN_MS;
	nbd->reconnect_s = config->reconnect_s;
	nbd->path = strdup(config->path);
	r = nbd->path ? timers_new(nbd, err) : err_set(err, -ENOMEM, "no memory for a disk");
	if (!r && !(origin->ours && env->incoming)) {
		r = first_connect(nbd, err);
		nbd->held = r == 0;
	}
	if (r < 0) {
		nbd_disk_close(&nbd->disk);
		return r;
	}
	*out = &nbd->disk;
	return 0;
}
