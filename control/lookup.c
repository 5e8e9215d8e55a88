// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// See lookup.h. The resolver runs on a thread of its own, which nobody joins; what they share belongs to both, and goes with the last of
// them. An eventfd says that it is done, so that the wait is one poll.
#include "control/lookup.h"

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
	int done_fd;
	char *host, *port;
	/* The thread's, until done_fd counts. */
	struct addrinfo *found;
	int result;
};

static int ask(struct addrinfo **found, const char *host, const char *port, int flags)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV | flags };

	return getaddrinfo(host, port, &hints, found);
}

static void lookup_put(struct lookup *l)
{
	if (atomic_fetch_sub(&l->owners, 1) != 1)
		return;
	if (l->found)
		freeaddrinfo(l->found);
	if (l->done_fd >= 0)
		close(l->done_fd);
	free(l->host);
	free(l->port);
	free(l);
}

static void *lookup_main(void *arg)
{
	struct lookup *l = arg;

	pthread_setname_np(pthread_self(), "lookup");
	l->result = ask(&l->found, l->host, l->port, 0);
	eventfd_write(l->done_fd, 1);
	lookup_put(l);
	return NULL;
}

static struct lookup *lookup_new(const char *host, const char *port)
{
	struct lookup *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	atomic_store(&l->owners, 1);
	l->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	l->host = strdup(host);
	l->port = strdup(port);
	if (l->done_fd >= 0 && l->host && l->port)
		return l;
	lookup_put(l);
	return NULL;
}

/* 0: it is done. */
static int lookup_wait(const struct lookup *l, int64_t deadline_ns, int interrupt_fd, struct err *err)
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
		if (n < 0 && errno != EINTR)
			return err_errno(err, -errno, "%s", l->host);
		if (n > 0)
			return fds[0].revents ? 0 : err_set(err, -EINTR, "interrupted");
		if (n == 0)
			return err_set(err, -ETIMEDOUT, "%s: its address was not found in time", l->host);
	}
}

int lookup(struct addrinfo **out, const char *host, const char *port, int64_t deadline_ns, int interrupt_fd, struct err *err)
{
	struct lookup *l;
	pthread_t thread;
	int r = ask(out, host, port, AI_NUMERICHOST);

	if (!r)
		return 0;
	if (r != EAI_NONAME)
		return err_set(err, -EHOSTUNREACH, "%s: %s", host, gai_strerror(r));
	l = lookup_new(host, port);
	if (!l)
		return err_set(err, -ENOMEM, "%s: no memory to look it up", host);
	atomic_store(&l->owners, 2);
	r = thread_start(&thread, lookup_main, l);
	if (r < 0) {
		lookup_put(l);
		lookup_put(l);
		return err_errno(err, r, "%s: a thread to look it up", host);
	}
	pthread_detach(thread);
	r = lookup_wait(l, deadline_ns, interrupt_fd, err);
	if (!r && l->result)
		r = err_set(err, -EHOSTUNREACH, "%s: %s", host, gai_strerror(l->result));
	if (!r) {
		*out = l->found;
		l->found = NULL;
	}
	lookup_put(l);
	return r;
}
