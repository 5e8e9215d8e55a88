// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Who is the keeper is decided by the lock: whoever finds nobody at the socket tries
// to have it, and if he gets it, makes the socket, and a keeper to whom he hands
// both. Everybody else finds the socket some milliseconds later. A keeper that ends
// in order removes the lock's file while it has it; so who gets a lock looks whether
// its file still has its name, or else there could be two.
#include "control/share.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "control/rundir.h"
#include "control/share_keeper.h"

#define JOIN_NS (5 * NS_PER_SEC)
#define JOIN_PAUSE_US 2000
#define REJOIN_MS 200

struct share {
	char path[RUNDIR_PATH_MAX], lock_path[RUNDIR_PATH_MAX];
	uint8_t image[SHARE_IMAGE_BYTES];
	uint64_t len_bytes;
	int sock;		/* -1: there is no keeper */
	int memfd;
	int wake;		/* an eventfd: this process leaves */
	const struct memory *mem;	/* once it is guarded; sock is the thread's then */
	bool guarded;
	pthread_t thread;
};

/* ---- the keeper is started ---- */

static int share_listen(const struct share *s, struct err *err)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), r = 0;

	if (sock < 0)
		return err_errno(err, -errno, "share");
	memcpy(address.sun_path, s->path, strlen(s->path) + 1);
	/* A dead keeper's: the lock is ours. */
	unlink(s->path);
	if (bind(sock, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(sock, 1024) < 0)
		r = err_errno(err, -errno, "%s", s->path);
	if (r < 0) {
		close(sock);
		return r;
	}
	return sock;
}

/*
 * In the child. Descriptors are put where the keeper looks for them, and all others
 * closed; after the last fork, since libuv closes some of its own in each child, by
 * the numbers that they had.
 */
static void keeper_exec(const int fds[SHARE_FDS_END], char **argv)
{
	int high[SHARE_FDS_END], i;

	setsid();
	/* A grandchild, so that nobody has to wait for it. */
	if (fork())
		_exit(0);
	for (i = SHARE_FD_LOCK; i < SHARE_FDS_END; i++)
		high[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, SHARE_FDS_END);
	for (i = SHARE_FD_LOCK; i < SHARE_FDS_END; i++)
		if (high[i] < 0 || dup2(high[i], i) < 0)
			_exit(127);
	/* What was not opened to be closed, by whomever. */
	close_range(SHARE_FDS_END, ~0u, 0);
	execv("/proc/self/exe", argv);
	_exit(127);
}

static int keeper_spawn(const struct share *s, int lock, int listener)
{
	const int fds[SHARE_FDS_END] = {
		[SHARE_FD_LOCK] = lock, [SHARE_FD_LISTENER] = listener, [SHARE_FD_MEMFD] = s->memfd,
	};
	char image[2 * SHARE_IMAGE_BYTES + 1], len[24];
	char *argv[] = { "postern", SHARE_KEEPER_COMMAND, (char *)s->path, image, len, NULL };
	unsigned int i;
	pid_t pid;

	for (i = 0; i < SHARE_IMAGE_BYTES; i++)
		snprintf(image + 2 * i, 3, "%02x", s->image[i]);
	snprintf(len, sizeof(len), "%" PRIu64, s->len_bytes);
	pid = fork();
	if (!pid)
		keeper_exec(fds, argv);
	if (pid < 0)
		return -errno;
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return 0;
}

/* A descriptor; -EAGAIN: somebody else has it, or had it until now. */
static int keeper_lock(const struct share *s, struct err *err)
{
	int lock = open(s->lock_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	struct stat file;

	if (lock < 0)
		return err_errno(err, -errno, "%s", s->lock_path);
	if (!flock(lock, LOCK_EX | LOCK_NB) && !fstat(lock, &file) && file.st_nlink)
		return lock;
	close(lock);
	return -EAGAIN;
}

/* There is nobody at the socket. 0: there may be now; -EAGAIN: somebody else is at it. */
static int keeper_start(struct share *s, struct err *err)
{
	int lock = keeper_lock(s, err), listener, r = 0;

	if (lock < 0)
		return lock;
	listener = share_listen(s, err);
	if (listener >= 0 && s->memfd < 0) {
		s->memfd = memory_backing_new(s->len_bytes, err);
		r = s->memfd < 0 ? s->memfd : 0;
	}
	if (listener >= 0 && !r) {
		r = keeper_spawn(s, lock, listener);
		if (r < 0)
			err_errno(err, r, "share: its keeper");
	}
	if (listener >= 0)
		close(listener);
	close(lock);
	return listener < 0 ? listener : r;
}

/* ---- joining ---- */

/* One message, of this kind, until `end`. */
static int share_await(const struct share *s, enum share_kind kind, int64_t end, int *fd,
		       struct err *err)
{
	struct pollfd p[] = { { .fd = s->sock, .events = POLLIN }, { .fd = s->wake, .events = POLLIN } };
	int64_t left = end - clock_now_ns();
	struct share_message msg;
	int r;

	*fd = -1;
	do
		r = poll(p, 2, left > 0 ? (int)(left / NS_PER_MS) : 0);
	while (r < 0 && errno == EINTR);
	if (r <= 0)
		return err_set(err, -ETIMEDOUT, "share: its keeper does not answer");
	if (p[1].revents)
		return err_set(err, -ECANCELED, "share: this process leaves");
	r = share_message_receive(s->sock, &msg, fd, err);
	if (!r && msg.kind == SHARE_REFUSED)
		r = err_set(err, msg.error < 0 && msg.error > -4096 ? msg.error : -EBADMSG,
			    "share: %s", msg.text);
	else if (!r && msg.kind != kind)
		r = err_set(err, -EBADMSG, "share: its keeper answers something else");
	if (r < 0 && *fd >= 0) {
		close(*fd);
		*fd = -1;
	}
	return r;
}

/* Is it the memfd that this one has? Another would be another share, which has begun anew. */
static int memfd_take(struct share *s, int fd, struct err *err)
{
	struct stat now, had;

	if (fd < 0)
		return err_set(err, -EBADMSG, "share: its keeper has no memory for it");
	if (s->memfd < 0) {
		s->memfd = fd;
		return 0;
	}
	if (fstat(fd, &now) < 0 || fstat(s->memfd, &had) < 0 || now.st_ino != had.st_ino ||
	    now.st_dev != had.st_dev) {
		close(fd);
		return err_set(err, -ESTALE, "share: it was begun anew by others");
	}
	close(fd);
	return 0;
}

/* 0; -ECONNREFUSED and the like: nobody is there. */
static int share_connect(struct share *s, int64_t end, struct err *err)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct share_message hello;
	int fd = -1, r = 0;

	memcpy(address.sun_path, s->path, strlen(s->path) + 1);
	s->sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (s->sock < 0)
		return err_errno(err, -errno, "share");
	if (connect(s->sock, (struct sockaddr *)&address, sizeof(address)) < 0)
		r = err_errno(err, -errno, "%s", s->path);
	share_message_init(&hello, SHARE_HELLO);
	memcpy(hello.image, s->image, sizeof(hello.image));
	hello.len_bytes = s->len_bytes;
	if (!r)
		r = share_message_send(s->sock, &hello, -1);
	if (!r)
		r = share_await(s, SHARE_WELCOME, end, &fd, err);
	if (!r)
		r = memfd_take(s, fd, err);
	if (r < 0) {
		close(s->sock);
		s->sock = -1;
	}
	return r;
}

/* Nobody is there, or is about to go. */
static bool keeper_is_away(int r)
{
	return r == -ECONNREFUSED || r == -ENOENT || r == -EPIPE || r == -ECONNRESET ||
	       r == -EAGAIN;
}

static int share_enter(struct share *s, int64_t end, struct err *err)
{
	int r;

	for (;;) {
		r = share_connect(s, end, err);
		if (!keeper_is_away(r))
			return r;
		if (clock_now_ns() > end)
			return err_set(err, -ETIMEDOUT, "share: nobody answers at %s", s->path);
		r = keeper_start(s, err);
		if (r < 0 && r != -EAGAIN)
			return r;
		if (r == -EAGAIN)
			usleep(JOIN_PAUSE_US);
	}
}

int share_join(struct share **out, const char *name, const uint8_t image[SHARE_IMAGE_BYTES],
	       uint64_t len_bytes, struct err *err)
{
	struct share *s = calloc(1, sizeof(*s));
	int n, r;

	if (!s)
		return err_set(err, -ENOMEM, "no memory for a share");
	s->sock = s->memfd = -1;
	s->wake = eventfd(0, EFD_CLOEXEC);
	s->len_bytes = len_bytes;
	memcpy(s->image, image, sizeof(s->image));
	r = s->wake < 0 ? err_errno(err, -errno, "eventfd") : rundir_share_path(s->path, name, err);
	n = snprintf(s->lock_path, sizeof(s->lock_path), "%s.lock", s->path);
	if (!r && (n < 0 || (size_t)n >= sizeof(s->lock_path)))
		r = err_set(err, -ENAMETOOLONG, "%s: too long", s->path);
	if (!r)
		r = share_enter(s, clock_now_ns() + JOIN_NS, err);
	if (r < 0) {
		share_leave(s);
		return r;
	}
	*out = s;
	return 0;
}

int share_memfd(const struct share *s)
{
	return s->memfd;
}

/* ---- guarding ---- */

static int guard_send(const struct share *s, int64_t end, struct err *err)
{
	const struct memory_region *region;
	struct share_message msg;
	unsigned int i, n;
	int fd, r;

	region = memory_regions(s->mem, &n);
	share_message_init(&msg, SHARE_GUARD);
	msg.n = n;
	for (i = 0; i < n; i++) {
		msg.region[i].host = (uintptr_t)region[i].host;
		msg.region[i].pages = region[i].pages;
	}
	r = share_message_send(s->sock, &msg, memory_watch_fd(s->mem));
	if (r < 0)
		return err_errno(err, r, "share");
	r = share_await(s, SHARE_GUARDED, end, &fd, err);
	if (fd >= 0)
		close(fd);
	return r;
}

/* ---- a keeper that dies ---- */

/* False: this process leaves. */
static bool share_rest(const struct share *s, int ms)
{
	struct pollfd p = { .fd = s->wake, .events = POLLIN };

	return poll(&p, 1, ms) <= 0;
}

static void share_hang_up(struct share *s)
{
	if (s->sock >= 0)
		close(s->sock);
	s->sock = -1;
}

/* False: this process leaves, or there is nobody to come back to. */
static bool share_return(struct share *s)
{
	struct err err;
	bool told = false;
	int r;

	log_warn("share: the keeper of %s has gone, another one is started", s->path);
	while (share_rest(s, told ? REJOIN_MS : 0)) {
		r = share_enter(s, clock_now_ns() + JOIN_NS, &err);
		if (!r)
			r = guard_send(s, clock_now_ns() + JOIN_NS, &err);
		if (!r)
			return true;
		share_hang_up(s);
		if (!told && r != -ECANCELED)
			log_error("%s: this machine goes on without a keeper", err.text);
		told = true;
		if (r == -ESTALE)
			return false;
	}
	return false;
}

static void *share_main(void *arg)
{
	struct share *s = arg;
	struct pollfd p[2];

	pthread_setname_np(pthread_self(), "share");
	do {
		p[0] = (struct pollfd){ .fd = s->sock, .events = POLLIN };
		p[1] = (struct pollfd){ .fd = s->wake, .events = POLLIN };
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			break;
		if (!p[1].revents && p[0].revents)
			share_hang_up(s);
	} while (!p[1].revents && (s->sock >= 0 || share_return(s)));
	return NULL;
}

int share_guard(struct share *s, const struct memory *mem, struct err *err)
{
	int r;

	s->mem = mem;
	r = guard_send(s, clock_now_ns() + JOIN_NS, err);
	if (r < 0)
		return r;
	r = thread_start(&s->thread, share_main, s);
	s->guarded = !r;
	return r < 0 ? err_errno(err, r, "share thread") : 0;
}

void share_stop(struct share *s)
{
	uint64_t one = 1;

	if (!s || !s->guarded)
		return;
	if (write(s->wake, &one, sizeof(one)) < 0)
		log_error("share: its thread cannot be told to end: errno %d", errno);
	pthread_join(s->thread, NULL);
	s->guarded = false;
}

void share_leave(struct share *s)
{
	struct share_message bye;

	if (!s)
		return;
	share_stop(s);
	if (s->sock >= 0) {
		share_message_init(&bye, SHARE_BYE);
		share_message_send(s->sock, &bye, -1);
	}
	share_hang_up(s);
	if (s->memfd >= 0)
		close(s->memfd);
	if (s->wake >= 0)
		close(s->wake);
	free(s);
}

/* ---- the keeper's side ---- */

static int share_image_parse(uint8_t image[SHARE_IMAGE_BYTES], const char *text)
{
	unsigned int i, byte;
	int n;

	for (i = 0; i < SHARE_IMAGE_BYTES; i++, text += 2) {
		if (sscanf(text, "%2x%n", &byte, &n) != 1 || n != 2)
			return -EINVAL;
		image[i] = (uint8_t)byte;
	}
	return *text ? -EINVAL : 0;
}

/* The socket is gone already: who finds neither begins anew. */
static void remove_lock(const char *path)
{
	char lock[RUNDIR_PATH_MAX];
	int n = snprintf(lock, sizeof(lock), "%s.lock", path);

	if (n > 0 && (size_t)n < sizeof(lock))
		unlink(lock);
}

int share_keep_main(int argc, char **argv, struct err *err)
{
	struct share_keeper_config config = {
		.listener = SHARE_FD_LISTENER, .memfd = SHARE_FD_MEMFD, .linger_ms = SHARE_LINGER_MS,
	};
	int listens = 0, r;
	socklen_t len = sizeof(listens);
	char *end;

	if (argc != 4 || share_image_parse(config.image, argv[2]) < 0 ||
	    getsockopt(SHARE_FD_LISTENER, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) < 0 ||
	    !listens || fcntl(SHARE_FD_LOCK, F_GETFD) < 0 || fcntl(SHARE_FD_MEMFD, F_GET_SEALS) < 0)
		return err_set(err, -EINVAL, "this is started by the members of a share");
	config.path = argv[1];
	config.len_bytes = strtoull(argv[3], &end, 10);
	if (*end)
		return err_set(err, -EINVAL, "this is started by the members of a share");
	r = share_keeper_run(&config, err);
	remove_lock(config.path);
	return r;
}
