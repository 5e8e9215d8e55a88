// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// One thread, one poll. Only this user's processes come in, and they trust each
// other with the memfd; what they say is checked all the same, and none can hold
// up the others: the sockets never block, and what does not fit them ends the
// connection.
//
// A member is a process, not its connection. When it has ended without a BYE,
// others may still wait for its pages, KVM's workers or somebody's debugger; it is
// retired (memory_retire) before its userfaultfd is closed. That must not be done
// to one that lives, so the process is asked for, by its pidfd and by what /proc
// says of its memory: that is gone early. The end of its process alone would be
// too late: it closes its KVM before, which waits for its workers, which wait for
// us. So members are looked at when their connection ends, and now and then.
#include "control/share_keeper.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"

#define LOOK_MS 500

struct member {
	int sock;		/* -1: its connection has ended */
	int uffd;		/* -1 until GUARD, and after BYE */
	int pidfd;
	pid_t pid;
	bool welcome;
	unsigned int n;
	struct memory_region region[MEMORY_REGIONS_MAX];
};

struct keeper {
	const struct share_keeper_config *config;
	struct member *member;
	struct pollfd *poll;	/* of the listener, then of each member */
	unsigned int n, room;
};

/* ---- members ---- */

static int keeper_grow(struct keeper *k)
{
	unsigned int room = k->room ? 2 * k->room : 16;
	struct member *member = realloc(k->member, room * sizeof(*member));
	struct pollfd *polled;

	if (!member)
		return -ENOMEM;
	k->member = member;
	polled = realloc(k->poll, (room + 1) * sizeof(*polled));
	if (!polled)
		return -ENOMEM;
	k->poll = polled;
	k->room = room;
	return 0;
}

/* Who is at the other end, if it is this user's. */
static int member_open(struct member *m, int sock)
{
	socklen_t len = sizeof(struct ucred);
	struct ucred cred;

	if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0 || cred.uid != geteuid())
		return -EPERM;
	*m = (struct member){ .sock = sock, .uffd = -1, .pid = cred.pid };
	m->pidfd = (int)syscall(SYS_pidfd_open, cred.pid, 0);
	return m->pidfd < 0 ? -errno : 0;
}

static void keeper_accept(struct keeper *k)
{
	int sock = accept4(k->config->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), r = 0;

	if (sock < 0)
		return;
	if (k->n == SHARE_MEMBERS_MAX)
		r = -EMFILE;
	else if (k->n == k->room)
		r = keeper_grow(k);
	if (!r)
		r = member_open(&k->member[k->n], sock);
	if (!r) {
		k->n++;
		return;
	}
	log_warn("share: a member is turned away: errno %d; %u are there", -r, k->n);
	close(sock);
}

static void member_hang_up(struct member *m)
{
	if (m->sock >= 0)
		close(m->sock);
	m->sock = -1;
}

static void member_unguard(struct member *m)
{
	if (m->uffd >= 0)
		close(m->uffd);
	m->uffd = -1;
}

/* Has the process ended, or given up its memory on its way there? */
static bool member_is_dead(const struct member *m)
{
	struct pollfd p = { .fd = m->pidfd, .events = POLLIN };
	unsigned long pages = 1;
	char path[40];
	FILE *statm;

	if (poll(&p, 1, 0) == 1)
		return true;
	/* It is not reaped yet, so that its number is nobody else's. */
	snprintf(path, sizeof(path), "/proc/%d/statm", (int)m->pid);
	statm = fopen(path, "re");
	if (!statm)
		return false;
	if (fscanf(statm, "%lu", &pages) != 1)
		pages = 1;
	fclose(statm);
	return !pages;
}

/* True: nothing is left of it. */
static bool member_end(struct member *m)
{
	int r;

	if (m->uffd >= 0) {
		if (!member_is_dead(m))
			return false;
		r = memory_retire(m->uffd, m->region, m->n);
		if (r < 0) {
			/*
			 * Rather an open descriptor for as long as this lives
			 * than zeros where the image has data.
			 */
			log_error("share: waits for a member's pages cannot be ended: errno %d",
				  -r);
			m->uffd = -1;
		}
	} else if (m->sock >= 0) {
		return false;
	}
	member_unguard(m);
	member_hang_up(m);
	close(m->pidfd);
	return true;
}

/* ---- what they say ---- */

static int member_refuse(const struct member *m, int error, const char *text)
{
	struct share_message answer;

	share_message_init(&answer, SHARE_REFUSED);
	answer.error = error;
	strncpy(answer.text, text, sizeof(answer.text) - 1);
	share_message_send(m->sock, &answer, -1);
	return error;
}

static int member_hello(const struct keeper *k, struct member *m, const struct share_message *msg)
{
	struct share_message answer;

	if (memcmp(msg->image, k->config->image, sizeof(msg->image)) ||
	    msg->len_bytes != k->config->len_bytes)
		return member_refuse(m, -ESTALE,
				     "it is of another image: use another name for this one");
	share_message_init(&answer, SHARE_WELCOME);
	m->welcome = true;
	return share_message_send(m->sock, &answer, k->config->memfd);
}

/* *fd is the member's from now on, and -1, if it is taken. */
static int member_guard(const struct keeper *k, struct member *m, const struct share_message *msg,
			int *fd)
{
	struct share_message answer;

	if (!m->welcome || m->uffd >= 0 || *fd < 0)
		return -EBADMSG;
	if (share_message_regions(msg, m->region) != k->config->len_bytes / PAGE_BYTES)
		return member_refuse(m, -EBADMSG, "its memory is not of the share's size");
	m->n = msg->n;
	m->uffd = *fd;
	*fd = -1;
	share_message_init(&answer, SHARE_GUARDED);
	return share_message_send(m->sock, &answer, -1);
}

static int member_hear(const struct keeper *k, struct member *m, const struct share_message *msg,
		       int *fd)
{
	switch (msg->kind) {
	case SHARE_HELLO:
		return member_hello(k, m, msg);
	case SHARE_GUARD:
		return member_guard(k, m, msg, fd);
	case SHARE_BYE:
		/* Nobody waits any more. */
		member_unguard(m);
		return -EPIPE;
	default:
		return -EBADMSG;
	}
}

static void member_serve(const struct keeper *k, struct member *m)
{
	struct share_message msg;
	struct err err;
	int fd, r = share_message_receive(m->sock, &msg, &fd, &err);

	if (r == -EAGAIN)
		return;
	if (!r)
		r = member_hear(k, m, &msg, &fd);
	if (fd >= 0)
		close(fd);
	if (r < 0 && r != -EPIPE && r != -ECONNRESET)
		log_warn("share: the connection of process %d is ended: errno %d", (int)m->pid, -r);
	if (r < 0)
		member_hang_up(m);
}

/* ---- life ---- */

/* 0, or what poll(2) fails with. */
static int keeper_turn(struct keeper *k, int timeout_ms)
{
	unsigned int i, n = k->n;
	int r;

	k->poll[0] = (struct pollfd){ .fd = k->config->listener, .events = POLLIN };
	for (i = 0; i < n; i++)
		k->poll[i + 1] = (struct pollfd){ .fd = k->member[i].sock, .events = POLLIN };
	r = poll(k->poll, n + 1, timeout_ms);
	if (r < 0 && errno != EINTR)
		return -errno;
	if (r > 0 && k->poll[0].revents & ~POLLIN)
		return -EBADF;
	for (i = 0; i < n && r > 0; i++)
		if (k->poll[i + 1].revents)
			member_serve(k, &k->member[i]);
	/* From the last one on: who takes another's place has had its turn. */
	for (i = n; i-- > 0;)
		if ((r <= 0 || k->member[i].sock < 0) && member_end(&k->member[i]))
			k->member[i] = k->member[--k->n];
	if (r > 0 && k->poll[0].revents)
		keeper_accept(k);
	return r > 0;
}

int share_keeper_run(const struct share_keeper_config *config, struct err *err)
{
	struct keeper k = { .config = config };
	int r = keeper_grow(&k);

	do
		r = r < 0 ? r : keeper_turn(&k, k.n ? LOOK_MS : config->linger_ms);
	while (r > 0 || (!r && k.n));
	/* Who has connected meanwhile finds nobody, and begins anew. */
	unlink(config->path);
	free(k.member);
	free(k.poll);
	return r < 0 ? err_errno(err, r, "share") : 0;
}
