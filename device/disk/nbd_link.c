// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * nbd_link.c - the connection to the server, on the main loop.
 *
 *   away --the timer: connect--> connecting --the handshake is done, the export
 *   is the one we know--> ready
 *    ^                              |                                                                  |
 *    +------- dead, or too slow ----+------------------- the connection ends --------------------------+
 *
 * What is said here of the loop, nbd_wait.c says where it does not turn;
 * nbd_export.c knows the export, nbd_timers.c what comes later.
 *
 * One that is lost is aborted: what our kernel has of it and has not sent yet
 * is not to reach the server after the next connection was made. What has
 * reached it is nbd_doubt.h's matter.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

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

static void nbd_link_on_poll(uv_poll_t *poll, int status, int events);

const char *nbd_link_says(const struct nbd *nbd)
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
	snprintf(nbd->died, sizeof(nbd->died), "%s", nbd_link_says(nbd));
}

const char *nbd_link_why_over(const struct nbd *nbd)
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

	return error == ETIMEDOUT || error == EHOSTUNREACH || error == ENETUNREACH ||
	       error == EHOSTDOWN || error == ENETDOWN;
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
	return nbd->reconnect_s >= 0 && *nbd->disk.away &&
	       clock_now_ns() - nbd->lost_ns >= nbd->reconnect_s * NS_PER_SEC;
}

static void retry_later(struct nbd *nbd)
{
	unsigned int ms = nbd->pause_ms;
	int64_t left;

	if (nbd->reconnect_s >= 0) {
		left = (nbd->lost_ns + nbd->reconnect_s * NS_PER_SEC - clock_now_ns()) / NS_PER_MS +
		       1;
		if (left > 0 && left < ms)
			ms = (unsigned int)left;
	}
	nbd_link_retry(nbd, ms);
	nbd->pause_ms = nbd->pause_ms * 2 < PAUSE_MAX_MS ? nbd->pause_ms * 2 : PAUSE_MAX_MS;
}

void nbd_link_lost(struct nbd *nbd, const char *reason)
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
		log_warn("disk %s is away: %s; %u requests wait for it", nbd->path, why,
			 nbd->disk.jobs);
	} else {
		log_debug("disk %s is still away: %s", nbd->path, why);
	}
	disk_set_away(&nbd->disk, why);
	if (nbd_link_waited_enough(nbd))
		nbd_jobs_fail(nbd, -EIO);
	retry_later(nbd);
}

/* ---- ready ---- */

void nbd_link_is_up(struct nbd *nbd)
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

	if (nbd_export_check(nbd, &err) < 0) {
		snprintf(why, sizeof(why), "%.150s", err.text);
		nbd_link_lost(nbd, why);
		return;
	}
	nbd_link_is_up(nbd);
	uv_timer_stop(&nbd->timers->retry);
	if (!*nbd->disk.away)
		return;
	held = nbd_jobs_held(nbd);
	log_warn(
		"disk %s is back after %lld ms%s", nbd->path,
		(long long)((nbd->ready_ns - nbd->lost_ns) / NS_PER_MS),
		nbd->doubts.n ?
			"; what overlaps requests that had no answer waits until the server has dropped those" :
			"");
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
		uv_poll_start(&nbd->watch->poll, events, nbd_link_on_poll);
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
		nbd_link_lost(nbd, nbd_link_why_over(nbd));
	else
		nbd_link_watch(nbd);
}

void nbd_link_notify(struct nbd *nbd, bool readable, bool writable)
{
	unsigned int direction = nbd->lib.nbd_aio_get_direction(nbd->h);

	/* One of them: the first may change what it waits for. An error shows as dead. */
	if (readable && direction & LIBNBD_AIO_DIRECTION_READ)
		nbd->lib.nbd_aio_notify_read(nbd->h);
	else if (writable && direction & LIBNBD_AIO_DIRECTION_WRITE)
		nbd->lib.nbd_aio_notify_write(nbd->h);
	nbd_link_note_end(nbd);
}

static void nbd_link_on_poll(uv_poll_t *poll, int status, int events)
{
	struct nbd_watch *watch = poll->data;
	struct nbd *nbd = watch->nbd;

	if (nbd->h)
		nbd_link_notify(nbd, status < 0 || events & UV_READABLE,
				status < 0 || events & UV_WRITABLE);
	else
		nbd_link_start(nbd);
	nbd_link_look(nbd);
}

int nbd_link_watch_new(struct nbd *nbd, struct err *err)
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
		uv_poll_start(&watch->poll, UV_READABLE, nbd_link_on_poll);
	return 0;
}

/* ---- its beginning ---- */

int nbd_link_handle_new(struct nbd *nbd, struct err *err)
{
	int wait = -1, fd = nbd->origin.connect(nbd->origin.arg, &wait, err);

	nbd->dialing = fd == -EINPROGRESS ? wait : -1;
	if (fd < 0)
		return fd;
	nbd->h = nbd->lib.nbd_create();
	nbd->died_errno = 0;
	*nbd->died = '\0';
	/*
	 * Simple replies alone: one that is no error brings exactly the bytes
	 * that were asked for. A structured one may leave some out, which
	 * libnbd lets pass when it was told by a callback; what the memory had
	 * before would be taken for the disk's. With simple ones guest memory
	 * need not be cleared before each read either.
	 */
	if (!nbd->h || nbd->lib.nbd_set_request_structured_replies(nbd->h, false) < 0 ||
	    nbd->lib.nbd_set_pread_initialize(nbd->h, false) < 0 ||
	    nbd->lib.nbd_set_export_name(nbd->h, nbd->origin.export_name) < 0) {
		close(fd);
		return err_set(err, -ENOMEM, "%s", nbd_link_says(nbd));
	}
	nbd->handshake_end_ns = clock_now_ns() + HANDSHAKE_NS;
	/* It owns the socket from here on, also when this fails. */
	if (nbd->lib.nbd_aio_connect_socket(nbd->h, fd) < 0)
		return err_set(err, lib_errno(nbd), "%s", nbd_link_says(nbd));
	return 0;
}

void nbd_link_start(struct nbd *nbd)
{
	struct err err = { 0 };
	int r;

	/* Of the step before. */
	watch_close(nbd);
	uv_timer_stop(&nbd->timers->retry);
	r = nbd_link_handle_new(nbd, &err);
	if (!r || r == -EINPROGRESS)
		r = nbd_link_watch_new(nbd, &err);
	if (r < 0) {
		nbd_link_lost(nbd, err.text);
		return;
	}
	if (!nbd->h)
		return;
	nbd_link_retry(nbd, HANDSHAKE_NS / NS_PER_MS);
	nbd_link_look(nbd);
}
