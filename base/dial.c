// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * See dial.h. The descriptor is an epoll instance's: in it are the look-up's,
 * those of all sockets that are on their way, and a timer for whatever comes
 * next. A step looks at everything, rather than at what epoll says: there are
 * few, and it cannot miss anything.
 */
#include "base/dial.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/lookup.h"

/* RFC 8305, 8: Connection Attempt Delay, and its minimum. */
#define STAGGER_NS (250 * NS_PER_MS)
#define STAGGER_MIN_NS (10 * NS_PER_MS)
/* A unix socket whose queue is full cannot be waited for. */
#define AGAIN_NS (10 * NS_PER_MS)

struct attempt {
	int fd;			/* -1: over */
	bool again;		/* connect(2) has not taken it up yet */
	int error;		/* a negative errno, once it is over */
};

struct dial {
	struct address address;
	bool at_one;		/* found is given, and address of no meaning */
	struct lookup *lookup;	/* under way */
	struct addresses found, known;
	struct addresses last;		/* not more than one */
	struct attempt attempt[ADDRESSES_MAX];
	unsigned int started;
	int timeout_ms;
	int64_t begin_ns, end_ns;	/* INT64_MAX: never */
	int64_t next_ns;		/* the next attempt, while there is one to come */
	int epoll, timer;
};

/* ---- what became of it ---- */

static void reason_print(const struct dial *d, const struct attempt *a, char *out, size_t room)
{
	if (a->fd >= 0)
		snprintf(out, room, "no answer within %d ms", d->timeout_ms);
	else
		snprintf(out, room, "%s", strerror(-a->error));
}

static bool same_reason(const struct attempt *a, const struct attempt *b)
{
	return a->fd >= 0 ? b->fd >= 0 : b->fd < 0 && a->error == b->error;
}

/* One more at the end, or how many more there are: false. */
static bool dial_say(struct err *err, const char *before, const char *what, unsigned int left)
{
	size_t used = strlen(err->text), room = sizeof(err->text) - used;

	/* Room is kept for the words about the rest, and for what a caller puts in front. */
	if (strlen(before) + strlen(what) + 120 < room) {
		snprintf(err->text + used, room, "%s%s", before, what);
		return true;
	}
	snprintf(err->text + used, room, "; and %u more", left);
	return false;
}

/* "NAME port P: ", unless it is an address in numbers already: then nothing. */
static void dial_name_print(const struct dial *d, char *out, size_t room)
{
	char text[SOCKADDR_TEXT_BYTES];

	*out = 0;
	if (d->at_one || d->address.type == ADDRESS_UNIX)
		return;
	sockaddr_print(&d->found.at[0], d->found.len[0], false, text);
	if (d->found.n > 1 || strcmp(text, d->address.host) != 0)
		snprintf(out, room,
			 "%s port %s: ", *d->address.host ? d->address.host : "localhost",
			 d->address.port);
}

/* Every address, those with the same reason together. */
static int dial_failed(const struct dial *d, int code, struct err *err)
{
	char text[SOCKADDR_TEXT_BYTES], reason[128];
	struct err said = { .code = code };
	bool told[ADDRESSES_MAX] = { false }, room = true, named;
	unsigned int i, k, left = d->started;

	dial_name_print(d, said.text, sizeof(said.text));
	named = *said.text;
	for (i = 0; i < d->started && room; i++) {
		if (told[i])
			continue;
		for (k = i; k < d->started && room; k++) {
			if (told[k] || !same_reason(&d->attempt[i], &d->attempt[k]))
				continue;
			sockaddr_print(&d->found.at[k], d->found.len[k], !named, text);
			room = dial_say(&said, k > i ? ", " : left < d->started ? "; " : "",
					text, left);
			told[k] = true;
			left--;
		}
		reason_print(d, &d->attempt[i], reason, sizeof(reason));
		room = room && dial_say(&said, ": ", reason, left);
	}
	return err_set(err, code, "%s", said.text);
}

/* ---- attempts ---- */

static int dial_watch(const struct dial *d, int fd, uint32_t events)
{
	struct epoll_event event = { .events = events };

	return epoll_ctl(d->epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

static void attempt_end(struct attempt *a, int error)
{
	if (a->fd >= 0)
		close(a->fd);
	a->fd = -1;
	a->again = false;
	a->error = error;
}

/* Connected: true. */
static bool attempt_connect(struct dial *d, unsigned int i)
{
	struct attempt *a = &d->attempt[i];
	int r = 0;

	a->again = false;
	if (!connect(a->fd, (const struct sockaddr *)&d->found.at[i], d->found.len[i]))
		return true;
	if (errno == EAGAIN && d->found.at[i].ss_family == AF_UNIX)
		a->again = true;
	else if (errno == EINPROGRESS || errno == EINTR)
		r = dial_watch(d, a->fd, EPOLLOUT);
	else
		r = -errno;
	if (r < 0)
		attempt_end(a, r);
	return false;
}

/* The next address. Connected: true. */
static bool attempt_start(struct dial *d)
{
	struct attempt *a = &d->attempt[d->started];

	a->fd = socket(d->found.at[d->started].ss_family,
		       SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (a->fd < 0)
		attempt_end(a, -errno);
	d->started++;
	return a->fd >= 0 && attempt_connect(d, d->started - 1);
}

/* Has it come to an end? Connected: true. */
static bool attempt_look(struct dial *d, unsigned int i)
{
	struct attempt *a = &d->attempt[i];
	struct pollfd fd = { .fd = a->fd, .events = POLLOUT };
	int error = 0;
	socklen_t len = sizeof(error);

	if (a->again)
		return attempt_connect(d, i);
	if (a->fd < 0 || poll(&fd, 1, 0) <= 0)
		return false;
	if (getsockopt(a->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		error = errno;
	if (!error && fd.revents & (POLLERR | POLLNVAL))
		error = EIO;
	if (error)
		attempt_end(a, -error);
	return !error;
}

int dial_time_out(const struct dial *d, struct err *err)
{
	if (!d->started)
		return err_set(err, -ETIMEDOUT, "%s: its address was not found within %d ms",
			       d->address.host, d->timeout_ms);
	return dial_failed(d, -ETIMEDOUT, err);
}

/* ---- steps ---- */

static int64_t stagger_ns(const struct dial *d)
{
	int64_t share;

	if (d->end_ns == INT64_MAX)
		return STAGGER_NS;
	share = (d->end_ns - clock_now_ns()) / (2 * (int64_t)d->found.n);
	return share < STAGGER_MIN_NS ? STAGGER_MIN_NS : share < STAGGER_NS ? share : STAGGER_NS;
}

/* When the look-up is to be done: later is too late for those that are known already. */
static int64_t lookup_end_ns(const struct dial *d)
{
	return d->known.n && d->end_ns != INT64_MAX ? d->begin_ns + (d->end_ns - d->begin_ns) / 2 :
						      d->end_ns;
}

static void put_last(struct dial *d)
{
	struct addresses *a = &d->found;
	unsigned int i;

	for (i = 0; i < a->n; i++)
		if (d->last.n && a->len[i] == d->last.len[0] &&
		    !memcmp(&a->at[i], &d->last.at[0], a->len[i]))
			break;
	for (; i + 1 < a->n; i++) {
		a->at[i] = a->at[i + 1];
		a->len[i] = a->len[i + 1];
		a->at[i + 1] = d->last.at[0];
		a->len[i + 1] = d->last.len[0];
	}
}

/* The addresses: 0, -EINPROGRESS, or the end. */
static int step_lookup(struct dial *d, struct err *err)
{
	int r;

	if (d->found.n)
		return 0;
	if (!d->lookup) {
		if (addresses_known(&d->found, &d->address)) {
			put_last(d);
			return 0;
		}
		r = lookup_new(&d->lookup, &d->address, err);
		if (!r)
			r = dial_watch(d, lookup_fd(d->lookup), EPOLLIN);
		if (r < 0)
			return r;
	}
	r = lookup_result(d->lookup, &d->found, err);
	if (r == -EAGAIN && clock_now_ns() < lookup_end_ns(d))
		return -EINPROGRESS;
	if (r < 0 && d->known.n)
		d->found = d->known;
	else if (r == -EAGAIN)
		return dial_time_out(d, err);
	else if (r < 0)
		return r;
	/* Its thread may have it open for longer: closing alone would not take it out. */
	epoll_ctl(d->epoll, EPOLL_CTL_DEL, lookup_fd(d->lookup), NULL);
	lookup_free(d->lookup);
	d->lookup = NULL;
	put_last(d);
	return 0;
}

static int dial_timer_set(struct dial *d)
{
	struct itimerspec at = { 0 };
	int64_t ns = d->end_ns, now = clock_now_ns();
	unsigned int i;

	if (d->lookup)
		ns = lookup_end_ns(d);
	else if (d->started < d->found.n && d->next_ns < ns)
		ns = d->next_ns;
	for (i = 0; i < d->started; i++)
		if (d->attempt[i].again && now + AGAIN_NS < ns)
			ns = now + AGAIN_NS;
	if (ns != INT64_MAX)
		at.it_value = clock_to_timespec(ns > 0 ? ns : 1);
	return timerfd_settime(d->timer, TFD_TIMER_ABSTIME, &at, NULL) < 0 ? -errno : -EINPROGRESS;
}

/* The one that has connected is the caller's, and no longer ours to close. */
static int winner(struct dial *d, unsigned int i)
{
	int fd = d->attempt[i].fd;

	epoll_ctl(d->epoll, EPOLL_CTL_DEL, fd, NULL);
	d->attempt[i].fd = -1;
	for (i = 0; i < d->started; i++)
		attempt_end(&d->attempt[i], -ECANCELED);
	d->started = d->found.n;
	return fd;
}

int dial_step(struct dial *d, struct err *err)
{
	unsigned int i, pending = 0;
	int last = -EHOSTUNREACH, r = step_lookup(d, err);

	if (r < 0)
		return r == -EINPROGRESS ? dial_timer_set(d) : r;
	for (i = 0; i < d->started; i++) {
		if (attempt_look(d, i))
			return winner(d, i);
		pending += d->attempt[i].fd >= 0;
	}
	while (d->started < d->found.n && (!pending || clock_now_ns() >= d->next_ns)) {
		d->next_ns = clock_now_ns() + stagger_ns(d);
		if (attempt_start(d))
			return winner(d, d->started - 1);
		pending += d->attempt[d->started - 1].fd >= 0;
	}
	for (i = 0; i < d->started; i++)
		if (d->attempt[i].fd < 0)
			last = d->attempt[i].error;
	if (!pending)
		return dial_failed(d, last, err);
	if (clock_now_ns() >= d->end_ns)
		return dial_time_out(d, err);
	r = dial_timer_set(d);
	return r == -EINPROGRESS ? r : err_errno(err, r, "a timer to connect");
}

int dial_wait(struct dial *d, int interrupt_fd, struct err *err)
{
	struct pollfd fds[] = {
		{ .fd = d->epoll, .events = POLLIN },
		{ .fd = interrupt_fd, .events = POLLIN },
	};
	int r;

	while ((r = dial_step(d, err)) == -EINPROGRESS) {
		if (poll(fds, 2, -1) < 0) {
			if (errno != EINTR)
				return err_errno(err, -errno, "poll");
			if (interrupt_fd < 0)
				return err_set(err, -EINTR, "interrupted by a signal");
		} else if (fds[1].revents) {
			return err_set(err, -EINTR, "interrupted");
		}
	}
	return r;
}

/* ---- life ---- */

static int dial_make(struct dial **out, int timeout_ms, struct err *err)
{
	const struct itimerspec now = { .it_value = { .tv_nsec = 1 } };
	struct dial *d = calloc(1, sizeof(*d));
	int r = 0;

	if (!d)
		return err_set(err, -ENOMEM, "no memory to connect");
	d->timeout_ms = timeout_ms;
	d->begin_ns = clock_now_ns();
	d->end_ns = timeout_ms < 0 ? INT64_MAX : d->begin_ns + timeout_ms * NS_PER_MS;
	d->epoll = epoll_create1(EPOLL_CLOEXEC);
	d->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (d->epoll < 0 || d->timer < 0 ||
	    timerfd_settime(d->timer, TFD_TIMER_ABSTIME, &now, NULL) < 0)
		r = -errno;
	if (!r)
		r = dial_watch(d, d->timer, EPOLLIN);
	if (r < 0) {
		dial_free(d);
		return err_errno(err, r, "to connect");
	}
	*out = d;
	return 0;
}

int dial_check(const struct address *address, struct err *err)
{
	if (address_is_any(address))
		return err_set(
			err, -EINVAL,
			"tcp:*:%s stands for all addresses, to listen at: to connect takes one",
			address->port);
	if (address->type == ADDRESS_TCP && !strcmp(address->port, "0"))
		return err_set(err, -EINVAL, "port 0 cannot be connected to");
	return 0;
}

int dial_new(struct dial **out, const struct address *address, const struct addresses *known,
	     int timeout_ms, struct err *err)
{
	int r;

	r = dial_check(address, err);
	if (!r)
		r = dial_make(out, timeout_ms, err);
	if (r < 0)
		return r;
	(*out)->address = *address;
	if (known)
		(*out)->known = *known;
	return 0;
}

int dial_new_at(struct dial **out, const struct sockaddr_storage *at, socklen_t len, int timeout_ms,
		struct err *err)
{
	int r = dial_make(out, timeout_ms, err);

	if (r < 0)
		return r;
	(*out)->at_one = true;
	(*out)->found.n = 1;
	(*out)->found.at[0] = *at;
	(*out)->found.len[0] = len;
	return 0;
}

void dial_put_last(struct dial *dial, const struct sockaddr_storage *at, socklen_t len)
{
	dial->last.n = 1;
	dial->last.at[0] = *at;
	dial->last.len[0] = len;
}

int dial_fd(const struct dial *dial)
{
	return dial->epoll;
}

const struct addresses *dial_found(const struct dial *dial)
{
	return &dial->found;
}

void dial_free(struct dial *d)
{
	unsigned int i;

	if (!d)
		return;
	for (i = 0; i < d->started; i++)
		attempt_end(&d->attempt[i], -ECANCELED);
	lookup_free(d->lookup);
	if (d->timer >= 0)
		close(d->timer);
	if (d->epoll >= 0)
		close(d->epoll);
	free(d);
}
