// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * nbd_link.c - the connection to the server, on the main loop.
 *
 *   away --the timer: connect--> connecting --the handshake is done, the export is the one we know--> ready
 *    ^                              |                                                                  |
 *    +------- dead, or too slow ----+------------------- the connection ends --------------------------+
 *
 * One that is lost is aborted: what our kernel has of it and has not sent yet is not to reach the
 * server after the next connection was made. What has reached it is nbd_doubt.h's matter.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/address.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/loop.h"
#include "device/disk/nbd_internal.h"

/* Connecting has a time of its own. */
#define HANDSHAKE_NS (10 * NS_PER_SEC)
#define PAUSE_MIN_MS 100
/* Why there is no connection: as much as an error has. */
#define WHY_BYTES sizeof(((struct err *)NULL)->text)
#define PAUSE_MAX_MS 5000
#define ENDED "the server has ended the connection"
/* What the protocol lets a client assume of a server that does not say. */
#define MOST_DEFAULT (UINT32_C(32) << 20)

static void on_poll(uv_poll_t *poll, int status, int events);
static void on_retry(uv_timer_t *timer);
static void on_soon(uv_timer_t *timer);

static const char *lib_says(const struct nbd *nbd)
{
	const char *text = nbd->lib.nbd_get_error();

	return text ? text : ENDED;
}

static int lib_errno(const struct nbd *nbd)
{
	int error = nbd->lib.nbd_get_errno();

	return error ? -error : -EIO;
}

bool nbd_link_is_over(const struct nbd *nbd)
{
	return nbd->lib.nbd_aio_is_dead(nbd->h) || nbd->lib.nbd_aio_is_closed(nbd->h);
}

/* What libnbd says is of this thread's last call that failed, whichever connection that was of. */
void nbd_link_note_end(struct nbd *nbd)
{
	if (*nbd->died || !nbd->lib.nbd_aio_is_dead(nbd->h))
		return;
	nbd->died_errno = nbd->lib.nbd_get_errno();
	snprintf(nbd->died, sizeof(nbd->died), "%s", lib_says(nbd));
}

static const char *why_over(const struct nbd *nbd)
{
	return *nbd->died ? nbd->died : ENDED;
}

/* ---- its end ---- */

static void watch_close(struct nbd *nbd)
{
	if (nbd->watch)
		loop_close((uv_handle_t *)&nbd->watch->poll, nbd->watch);
	nbd->watch = NULL;
}

/* TCP's: a reset instead of whatever waits to be sent. A unix socket has none of that. */
static void link_abort(const struct nbd *nbd)
{
	const struct linger at_once = { .l_onoff = 1 };
	int fd = nbd->lib.nbd_aio_get_fd(nbd->h);

	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
}

/* Has it ended without a word of the server, or of its host? */
static bool fell_silent(const struct nbd *nbd)
{
	int error = nbd->h ? nbd->died_errno : 0;

	return error == ETIMEDOUT || error == EHOSTUNREACH || error == ENETUNREACH || error == EHOSTDOWN || error == ENETDOWN;
}

void nbd_link_close(struct nbd *nbd, bool in_order)
{
	bool silent = fell_silent(nbd);

	watch_close(nbd);
	nbd->dialing = -1;
	if (nbd->h && nbd->ready && in_order)
		nbd->lib.nbd_aio_disconnect(nbd->h, 0);
	else if (nbd->h)
		link_abort(nbd);
	if (nbd->h)
		nbd->lib.nbd_close(nbd->h);
	nbd->h = NULL;
	nbd->ready = false;
	nbd_jobs_restart(nbd, silent);
}

bool nbd_link_waited_enough(const struct nbd *nbd)
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
	nbd_link_retry(nbd, ms);
	nbd->pause_ms = nbd->pause_ms * 2 < PAUSE_MAX_MS ? nbd->pause_ms * 2 : PAUSE_MAX_MS;
}

/* Not called from within disk_add or disk_submit: jobs may end. */
static void lost(struct nbd *nbd, const char *reason)
{
	bool first = !*nbd->disk.away;
	char why[WHY_BYTES];

	snprintf(why, sizeof(why), "%s", reason);
	nbd_link_close(nbd, false);
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
	if (nbd_link_waited_enough(nbd))
		nbd_jobs_fail(nbd, -EIO);
	retry_later(nbd);
}

/* ---- the export ---- */

/* What requests the server takes. */
static int blocks_check(struct nbd *nbd, struct err *err)
{
	int64_t block = nbd->lib.nbd_get_block_size(nbd->h, LIBNBD_SIZE_MINIMUM);
	int64_t likes = nbd->lib.nbd_get_block_size(nbd->h, LIBNBD_SIZE_PREFERRED);
	int64_t most = nbd->lib.nbd_get_block_size(nbd->h, LIBNBD_SIZE_MAXIMUM);

	if (block < 0 || likes < 0 || most < 0)
		return err_set(err, -EIO, "%s", lib_says(nbd));
	if (block < DISK_SECTOR_BYTES)
		block = DISK_SECTOR_BYTES;
	if (!most || most > MOST_DEFAULT)
		most = MOST_DEFAULT;
	if (block > NBD_BLOCK_MAX || block & (block - 1) || most < block)
		return err_set(err, -EPROTO, "the server wants blocks of %lld to %lld bytes: powers of two up to %d are possible",
			       (long long)block, (long long)most, NBD_BLOCK_MAX);
	nbd->block = (uint32_t)block;
	nbd->most = (uint32_t)(most - most % block);
	if (likes < block || likes > MOST_DEFAULT || likes & (likes - 1))
		likes = block > DISK_DIRECT_BYTES ? block : DISK_DIRECT_BYTES;
	/* The guest is told once. */
	if (!nbd->disk.limits.physical)
		nbd->disk.limits = (struct disk_limits){ .physical = (uint32_t)likes, .discard = (uint32_t)likes };
	return 0;
}

/* Is it the export that we know? Sets its size when it is new. */
static int export_check(struct nbd *nbd, struct err *err)
{
	int64_t bytes = nbd->lib.nbd_get_size(nbd->h);
	uint64_t whole;
	int r;

	if (bytes < 0)
		return err_set(err, -EIO, "%s", lib_says(nbd));
	r = blocks_check(nbd, err);
	if (r < 0)
		return r;
	if (bytes < nbd->block)
		return err_set(err, -EINVAL, "smaller than a block of %u bytes", nbd->block);
	whole = (uint64_t)bytes - (uint64_t)bytes % nbd->block;
	if (nbd->disk.bytes && whole != nbd->disk.bytes)
		return err_set(err, -EINVAL, "it has %llu bytes now, and had %llu", (unsigned long long)whole,
			       (unsigned long long)nbd->disk.bytes);
	if (!nbd->disk.readonly && nbd->lib.nbd_is_read_only(nbd->h) != 0)
		return err_set(err, -EROFS, "the server has it for reading only: say readonly");
	nbd->disk.bytes = whole;
	nbd->flushes = nbd->lib.nbd_can_flush(nbd->h) > 0;
	nbd->fua = nbd->lib.nbd_can_fua(nbd->h) > 0;
	return 0;
}

static void is_ready(struct nbd *nbd)
{
	nbd->ready = true;
	nbd->ready_ns = clock_now_ns();
	nbd_jobs_again(nbd);
}

static void ready(struct nbd *nbd)
{
	unsigned int held;
	struct err err;
	char why[160];

	if (export_check(nbd, &err) < 0) {
		snprintf(why, sizeof(why), "%.150s", err.text);
		lost(nbd, why);
		return;
	}
	is_ready(nbd);
	uv_timer_stop(&nbd->timers->retry);
	if (!*nbd->disk.away)
		return;
	held = nbd_jobs_held(nbd);
	log_warn("disk %s is back after %lld ms%s", nbd->path, (long long)((nbd->ready_ns - nbd->lost_ns) / NS_PER_MS),
		 nbd->doubts.n ? "; what overlaps requests that had no answer waits until the server has dropped those" : "");
	if (held)
		log_info("disk %s: %u requests wait for that", nbd->path, held);
	disk_set_away(&nbd->disk, NULL);
}

/* ---- the loop ---- */

void nbd_link_watch(struct nbd *nbd)
{
	unsigned int direction;
	int events;

	if (!nbd->watch)
		return;
	direction = nbd->lib.nbd_aio_get_direction(nbd->h);
	events = (direction & LIBNBD_AIO_DIRECTION_READ ? UV_READABLE : 0) |
		 (direction & LIBNBD_AIO_DIRECTION_WRITE ? UV_WRITABLE : 0);
	if (events)
		uv_poll_start(&nbd->watch->poll, events, on_poll);
	else
		uv_poll_stop(&nbd->watch->poll);
}

void nbd_link_look(struct nbd *nbd)
{
	bool stays = nbd_collect(nbd);

	if (!nbd->h)
		return;
	if (!nbd->ready && nbd->lib.nbd_aio_is_ready(nbd->h))
		ready(nbd);
	nbd_pump(nbd);
	if (!nbd->h)
		return;
	if (!stays || nbd_link_is_over(nbd))
		lost(nbd, why_over(nbd));
	else
		nbd_link_watch(nbd);
}

static void notify(struct nbd *nbd, bool readable, bool writable)
{
	unsigned int direction = nbd->lib.nbd_aio_get_direction(nbd->h);

	/* One of them: the first may change what it waits for. An error shows as dead. */
	if (readable && direction & LIBNBD_AIO_DIRECTION_READ)
		nbd->lib.nbd_aio_notify_read(nbd->h);
	else if (writable && direction & LIBNBD_AIO_DIRECTION_WRITE)
		nbd->lib.nbd_aio_notify_write(nbd->h);
	nbd_link_note_end(nbd);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
	struct nbd_watch *watch = poll->data;
	struct nbd *nbd = watch->nbd;

	if (nbd->h)
		notify(nbd, status < 0 || events & UV_READABLE, status < 0 || events & UV_WRITABLE);
	else
		nbd_link_start(nbd);
	nbd_link_look(nbd);
}

/* Of the connection, or of what makes one. */
static int watch_new(struct nbd *nbd, struct err *err)
{
	int fd = nbd->h ? nbd->lib.nbd_aio_get_fd(nbd->h) : nbd->dialing;
	struct nbd_watch *watch = calloc(1, sizeof(*watch));
	int r;

	if (!watch)
		return err_set(err, -ENOMEM, "no memory for a disk");
	r = uv_poll_init(loop_uv(nbd->disk.env.loop), &watch->poll, fd);
	if (r < 0) {
		free(watch);
		return err_errno(err, r, "event loop");
	}
	watch->nbd = nbd;
	watch->poll.data = watch;
	nbd->watch = watch;
	if (nbd->h)
		nbd_link_watch(nbd);
	else
		uv_poll_start(&watch->poll, UV_READABLE, on_poll);
	return 0;
}

/* ---- its beginning ---- */

/* The next step: 0, there is a handle; -EINPROGRESS, when nbd->dialing is readable there is another one; or the end. */
static int handle_new(struct nbd *nbd, struct err *err)
{
	int wait = -1, fd = nbd->origin.connect(nbd->origin.arg, &wait, err);

	nbd->dialing = fd == -EINPROGRESS ? wait : -1;
	if (fd < 0)
		return fd;
	nbd->h = nbd->lib.nbd_create();
	nbd->died_errno = 0;
	*nbd->died = '\0';
	/*
	 * Simple replies alone: one that is no error brings exactly the bytes that were asked for. A structured one may leave some out, which
	 * libnbd lets pass when it was told by a callback; what the memory had before would be taken for the disk's. With simple ones guest
	 * memory need not be cleared before each read either.
	 */
	if (!nbd->h || nbd->lib.nbd_set_request_structured_replies(nbd->h, false) < 0 ||
	    nbd->lib.nbd_set_pread_initialize(nbd->h, false) < 0 ||
	    nbd->lib.nbd_set_export_name(nbd->h, nbd->origin.export_name) < 0) {
		close(fd);
		return err_set(err, -ENOMEM, "%s", lib_says(nbd));
	}
	nbd->handshake_end_ns = clock_now_ns() + HANDSHAKE_NS;
	/* It owns the socket from here on, also when this fails. */
	if (nbd->lib.nbd_aio_connect_socket(nbd->h, fd) < 0)
		return err_set(err, lib_errno(nbd), "%s", lib_says(nbd));
	return 0;
}

void nbd_link_start(struct nbd *nbd)
{
	struct err err = { 0 };
	int r;

	/* Of the step before. */
	watch_close(nbd);
	uv_timer_stop(&nbd->timers->retry);
	r = handle_new(nbd, &err);
	if (!r || r == -EINPROGRESS)
		r = watch_new(nbd, &err);
	if (r < 0) {
		lost(nbd, err.text);
		return;
	}
	if (!nbd->h)
		return;
	nbd_link_retry(nbd, HANDSHAKE_NS / NS_PER_MS);
	nbd_link_look(nbd);
}

static struct pollfd poll_for(const struct nbd *nbd)
{
	unsigned int direction;

	if (!nbd->h)
		return (struct pollfd){ .fd = nbd->dialing, .events = POLLIN };
	direction = nbd->lib.nbd_aio_get_direction(nbd->h);
	return (struct pollfd){
		.fd = nbd->lib.nbd_aio_get_fd(nbd->h),
		.events = (short)((direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
				  (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0)),
	};
}

static void polled(struct nbd *nbd, const struct pollfd *fd)
{
	notify(nbd, fd->revents & (POLLIN | POLLERR | POLLHUP), fd->revents & (POLLOUT | POLLERR | POLLHUP));
}

static int handshake_first(struct nbd *nbd, struct err *err)
{
	struct pollfd fd;
	int64_t left;

	while (!nbd->lib.nbd_aio_is_ready(nbd->h)) {
		if (nbd_link_is_over(nbd))
			return err_set(err, nbd->died_errno ? -nbd->died_errno : -EIO, "%s", why_over(nbd));
		left = (nbd->handshake_end_ns - clock_now_ns()) / NS_PER_MS;
		if (left <= 0)
			return err_set(err, -ETIMEDOUT, "the server does not answer (one that serves a single client at a time does not "
				       "while it has another)");
		fd = poll_for(nbd);
		if (poll(&fd, 1, (int)left) < 0 && errno == EINTR)
			return err_set(err, -EINTR, "interrupted by a signal");
		polled(nbd, &fd);
	}
	return export_check(nbd, err);
}

/* Connecting ends by itself. */
static int first_try(struct nbd *nbd, struct err *err)
{
	struct pollfd fd;
	int r;

	while ((r = handle_new(nbd, err)) == -EINPROGRESS) {
		fd = poll_for(nbd);
		if (poll(&fd, 1, -1) < 0 && errno == EINTR)
			return err_set(err, -EINTR, "interrupted by a signal");
	}
	return r < 0 ? r : handshake_first(nbd, err);
}

/* What became of one that was reached, behind what became of others. */
static void note(const struct nbd *nbd, char *all, const char *why)
{
	struct sockaddr_storage at = { 0 };
	socklen_t len = sizeof(at);
	char name[SOCKADDR_TEXT_BYTES] = "";
	size_t used = strlen(all);

	if (nbd->h && nbd->origin.choices && !getpeername(nbd->lib.nbd_aio_get_fd(nbd->h), (struct sockaddr *)&at, &len) &&
	    at.ss_family != AF_UNIX)
		sockaddr_print(&at, len, true, name);
	/* What has no room is left out. */
	if (snprintf(all + used, WHY_BYTES - used, "%s%s%s%s", used ? "; " : "", name, *name ? ": " : "", why) < 0)
		all[used] = '\0';
}

int nbd_link_first(struct nbd *nbd, struct err *err)
{
	char why[WHY_BYTES], all[WHY_BYTES] = "";
	unsigned int tried = 0;
	bool reached;
	int r;

	do {
		r = first_try(nbd, err);
		if (!r) {
			is_ready(nbd);
			return watch_new(nbd, err);
		}
		reached = nbd->h;
		note(nbd, all, err ? err->text : "");
		nbd_link_close(nbd, false);
		snprintf(why, sizeof(why), "%s", all);
		nbd->origin.lost(nbd->origin.arg, why, sizeof(why));
		if (r == -EINTR)
			return r;
	} while (reached && nbd->origin.choices && ++tried < nbd->origin.choices(nbd->origin.arg));
	return err_set(err, r, "%s", why);
}

void nbd_link_wait(struct nbd *nbd, int64_t deadline_ns)
{
	int64_t left = (deadline_ns - clock_now_ns()) / NS_PER_MS + 1;
	struct pollfd fd = { .fd = -1 };

	if (!nbd->h && (!nbd->origin.ours || nbd->held))
		nbd_link_start(nbd);
	if (nbd->h)
		nbd_pump(nbd);
	if (nbd->h || nbd->dialing >= 0)
		fd = poll_for(nbd);
	/* What is done already needs nobody's answer, and what the timer is for is done below: the loop does not turn. */
	if (uv_is_active((uv_handle_t *)&nbd->timers->soon)) {
		uv_timer_stop(&nbd->timers->soon);
		left = 0;
	}
	if (left > 0 || fd.fd >= 0)
		poll(&fd, 1, left > 0 ? (int)left : 0);
	if (nbd->h)
		polled(nbd, &fd);
	nbd_link_look(nbd);
}

/* ---- timers ---- */

static void on_retry(uv_timer_t *timer)
{
	struct nbd *nbd = timer->data;

	if (nbd_link_waited_enough(nbd))
		nbd_jobs_fail(nbd, -EIO);
	if (nbd->h)
		lost(nbd, "the server does not answer");
	else if (!nbd->origin.ours || nbd->held)
		nbd_link_start(nbd);
}

static void on_soon(uv_timer_t *timer)
{
	struct nbd *nbd = timer->data;

	if (nbd_link_waited_enough(nbd))
		nbd_jobs_fail(nbd, -EIO);
	nbd_link_look(nbd);
}

static void on_doubt(uv_timer_t *timer)
{
	struct nbd *nbd = timer->data;

	nbd_doubt_look(nbd);
	nbd_link_look(nbd);
}

void nbd_link_retry(struct nbd *nbd, unsigned int ms)
{
	uv_timer_start(&nbd->timers->retry, on_retry, ms, 0);
}

void nbd_link_soon(struct nbd *nbd)
{
	uv_timer_start(&nbd->timers->soon, on_soon, 0, 0);
}

void nbd_link_doubt_timer(struct nbd *nbd, int64_t ms)
{
	if (!nbd->timers)
		return;
	if (ms > 0)
		uv_timer_start(&nbd->timers->doubt, on_doubt, (uint64_t)ms, 0);
	else
		uv_timer_stop(&nbd->timers->doubt);
}

int nbd_timers_new(struct nbd *nbd, struct err *err)
{
	uv_loop_t *uv = loop_uv(nbd->disk.env.loop);
	struct nbd_timers *timers = calloc(1, sizeof(*timers));
	uv_timer_t *each[] = { timers ? &timers->retry : NULL, timers ? &timers->soon : NULL, timers ? &timers->doubt : NULL };
	unsigned int i;

	if (!timers)
		return err_set(err, -ENOMEM, "no memory for a disk");
	for (i = 0; i < sizeof(each) / sizeof(each[0]); i++) {
		uv_timer_init(uv, each[i]);
		each[i]->data = nbd;
		timers->handles++;
	}
	nbd->timers = timers;
	return 0;
}

void nbd_timers_close(struct nbd_timers *timers)
{
	loop_close_one_of((uv_handle_t *)&timers->retry, &timers->handles);
	loop_close_one_of((uv_handle_t *)&timers->soon, &timers->handles);
	loop_close_one_of((uv_handle_t *)&timers->doubt, &timers->handles);
}
