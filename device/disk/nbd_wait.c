// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * nbd_wait.c - the connection where the loop does not turn: the first attempts,
 * before it begins, and a drain, which waits for the server.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/address.h"
#include "base/clock.h"
#include "base/loop.h"
#include "device/disk/nbd_internal.h"

/* Why there is no connection: as much as an error has. */
#define WHY_BYTES sizeof(((struct err *)NULL)->text)

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
	nbd_link_notify(nbd, fd->revents & (POLLIN | POLLERR | POLLHUP),
			fd->revents & (POLLOUT | POLLERR | POLLHUP));
}

static int handshake_first(struct nbd *nbd, struct err *err)
{
	struct pollfd fd;
	int64_t left;

	while (!nbd->lib.nbd_aio_is_ready(nbd->h)) {
		if (nbd_link_is_over(nbd))
			return err_set(err, nbd->died_errno ? -nbd->died_errno : -EIO, "%s",
				       nbd_link_why_over(nbd));
		left = (nbd->handshake_end_ns - clock_now_ns()) / NS_PER_MS;
		if (left <= 0)
			return err_set(
				err, -ETIMEDOUT,
				"the server does not answer (one that serves a single client at a time does not "
				"while it has another)");
		fd = poll_for(nbd);
		if (poll(&fd, 1, (int)left) < 0 && errno == EINTR)
			return err_set(err, -EINTR, "interrupted by a signal");
		polled(nbd, &fd);
	}
	return nbd_export_check(nbd, err);
}

/* Connecting ends by itself. */
static int first_try(struct nbd *nbd, struct err *err)
{
	struct pollfd fd;
	int r;

	while ((r = nbd_link_handle_new(nbd, err)) == -EINPROGRESS) {
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

	if (nbd->h && nbd->origin.addresses &&
	    !getpeername(nbd->lib.nbd_aio_get_fd(nbd->h), (struct sockaddr *)&at, &len) &&
	    at.ss_family != AF_UNIX)
		sockaddr_print(&at, len, true, name);
	/* What has no room is left out. */
	if (snprintf(all + used, WHY_BYTES - used, "%s%s%s%s", used ? "; " : "", name,
		     *name ? ": " : "", why) < 0)
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
			nbd_link_is_up(nbd);
			return nbd_link_watch_new(nbd, err);
		}
		reached = nbd->h;
		note(nbd, all, err ? err->text : "");
		nbd_link_close(nbd, false);
		snprintf(why, sizeof(why), "%s", all);
		nbd->origin.lost(nbd->origin.arg, why, sizeof(why));
		if (r == -EINTR)
			return r;
	} while (reached && nbd->origin.addresses &&
		 ++tried < nbd->origin.addresses(nbd->origin.arg));
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
	/*
	 * What is done already needs nobody's answer, and what the timer is for
	 * is done below: the loop does not turn.
	 */
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
