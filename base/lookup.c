// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// See lookup.h. Nobody joins the resolver's thread; what it shares with who
// asked belongs to both, and goes with the last of them. An eventfd says that
// it is done, so that whoever waits for other things too waits for all of them
// in one poll.
#include "base/lookup.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/thread.h"

struct lookup {
	_Atomic int owners;
	_Atomic bool done;
	int done_fd;
	struct address address;
	/* The thread's, until it is done. */
	struct addrinfo *list;
	int result;
};

static void lookup_put(struct lookup *l)
{
	if (atomic_fetch_sub(&l->owners, 1) != 1)
		return;
	if (l->list)
		freeaddrinfo(l->list);
	if (l->done_fd >= 0)
		close(l->done_fd);
	free(l);
}

static void *lookup_main(void *arg)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV };
	struct lookup *l = arg;

	pthread_setname_np(pthread_self(), "lookup");
	l->result = getaddrinfo(l->address.host, l->address.port, &hints, &l->list);
	atomic_store(&l->done, true);
	eventfd_write(l->done_fd, 1);
	lookup_put(l);
	return NULL;
}

int lookup_new(struct lookup **out, const struct address *address, struct err *err)
{
	struct lookup *l = calloc(1, sizeof(*l));
	pthread_t thread;
	int r;

	if (!l)
		return err_set(err, -ENOMEM, "%s: no memory to look it up", address->host);
	atomic_store(&l->owners, 2);
	l->address = *address;
	l->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r = l->done_fd < 0 ? -errno : thread_start(&thread, lookup_main, l);
	if (r < 0) {
		lookup_put(l);
		lookup_put(l);
		return err_errno(err, r, "%s: a thread to look it up", address->host);
	}
	pthread_detach(thread);
	*out = l;
	return 0;
}

int lookup_fd(const struct lookup *lookup)
{
	return lookup->done_fd;
}

int lookup_result(struct lookup *l, struct addresses *found, struct err *err)
{
	if (!atomic_load(&l->done))
		return -EAGAIN;
	if (l->result)
		return err_set(err, -EHOSTUNREACH, "%s: %s", l->address.host,
			       gai_strerror(l->result));
	addresses_take(found, l->list);
	return found->n ? 0 : err_set(err, -EHOSTUNREACH, "%s: it has no address", l->address.host);
}

void lookup_free(struct lookup *lookup)
{
	if (lookup)
		lookup_put(lookup);
}

/* 0: it is done. */
static int lookup_wait_done(const struct lookup *l, int64_t deadline_ns, int interrupt_fd,
			    struct err *err)
{
	struct pollfd fds[] = {
		{ .fd = l->done_fd, .events = POLLIN },
		{ .fd = interrupt_fd, .events = POLLIN },
	};
	struct timespec left;
	int64_t ns;
	int n;

	for (;;) {
		ns = deadline_ns == INT64_MAX ? 0 : deadline_ns - clock_now_ns();
		left = clock_to_timespec(ns > 0 ? ns : 0);
		n = ppoll(fds, 2, deadline_ns == INT64_MAX ? NULL : &left, NULL);
		if (n < 0 && errno == EINTR && interrupt_fd < 0)
			return err_set(err, -EINTR, "interrupted by a signal");
		if (n < 0 && errno != EINTR)
			return err_errno(err, -errno, "%s", l->address.host);
		if (n > 0)
			return fds[0].revents ? 0 : err_set(err, -EINTR, "interrupted");
		if (n == 0)
			return err_set(err, -ETIMEDOUT, "%s: its address was not found in time",
				       l->address.host);
	}
}

int lookup_wait(struct addresses *found, const struct address *address, int64_t deadline_ns,
		int interrupt_fd, struct err *err)
{
	struct lookup *l;
	int r;

	if (addresses_known(found, address))
		return 0;
	r = lookup_new(&l, address, err);
	if (r < 0)
		return r;
	r = lookup_wait_done(l, deadline_ns, interrupt_fd, err);
	if (!r)
		r = lookup_result(l, found, err);
	lookup_free(l);
	return r;
}
