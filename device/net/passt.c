// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * passt.c - passt (user-mode networking without privileges): frames over a stream socket, each with its length in front, 4 bytes
 * big-endian. Either one that runs already, at a unix socket, or a child of our own on one end of a socket pair. passt ends when that
 * is closed, and so with this process, however it ends.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "device/net/backend.h"

#define CHILD_FD 3
#define CHILD_END_NS (1 * NS_PER_SEC)
#define CHILD_WORDS (8 + 2 * NET_FORWARDS_MAX)

extern char **environ;

static ssize_t stream_write(struct net_backend *b, const struct iovec *iov, unsigned int n)
{
	const struct msghdr msg = { .msg_iov = (struct iovec *)iov, .msg_iovlen = n };
	ssize_t r = sendmsg(b->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);

	return r < 0 ? -errno : r;
}

static ssize_t stream_read(struct net_backend *b, void *to, size_t room)
{
	ssize_t r = recv(b->fd, to, room, MSG_DONTWAIT);

	return r < 0 ? -errno : r;
}

static const struct net_backend_ops stream_ops = { .write = stream_write, .read = stream_read };

int net_stream_open(struct net_backend *b, int fd, struct err *err)
{
	(void)err;
	b->fd = fd;
	b->stream = true;
	if (!b->ops)
		b->ops = &stream_ops;
	return 0;
}

static int stream_connect(struct net_backend *b, const char *path, struct err *err)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	snprintf(b->name, sizeof(b->name), "passt at %.36s", path);
	memcpy(addr.sun_path, path, strlen(path) + 1);
	b->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (b->fd < 0)
		return err_errno(err, -errno, "socket");
	/* To a unix socket one is connected at once or not at all. */
	if (connect(b->fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return err_errno(err, -errno, "passt at %s", path);
	return net_stream_open(b, b->fd, err);
}

/* ---- a child ---- */

/* Its end, if it has one already; what it was is said in the log. */
static bool child_reap(struct net_backend *b)
{
	int status;

	if (waitpid(b->child, &status, WNOHANG) != b->child)
		return false;
	b->child = 0;
	if (WIFEXITED(status))
		log_debug("passt has ended with %d", WEXITSTATUS(status));
	return true;
}

static void child_gone(struct net_backend *b)
{
	log_warn("passt has ended: the guest's link is down");
	if (b->child)
		child_reap(b);
}

static void child_close(struct net_backend *b)
{
	const struct timespec moment = { .tv_nsec = NS_PER_MS };
	int64_t end = clock_now_ns() + CHILD_END_NS;

	if (!b->child || child_reap(b))
		return;
	kill(b->child, SIGTERM);
	while (!child_reap(b)) {
		if (clock_now_ns() >= end) {
			kill(b->child, SIGKILL);
			waitpid(b->child, NULL, 0);
			b->child = 0;
			return;
		}
		nanosleep(&moment, NULL);
	}
}

static const struct net_backend_ops child_ops = {
	.write = stream_write, .read = stream_read, .gone = child_gone, .close = child_close,
};

/* Not fork: the guest's memory would be copied, page table by page table. The child has no descriptor of ours but its socket. */
static int child_spawn(pid_t *pid, int fd, char **words)
{
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attributes;
	sigset_t none, all;
	int r;

	sigemptyset(&none);
	sigfillset(&all);
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_adddup2(&files, fd, CHILD_FD);
	/* Standard output is the guest's serial port, perhaps. */
	posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&files, STDERR_FILENO, STDOUT_FILENO);
	posix_spawn_file_actions_addclosefrom_np(&files, CHILD_FD + 1);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setsigdefault(&attributes, &all);
	/* A group of its own: a terminal's Ctrl-C is for us. */
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
	r = posix_spawnp(pid, words[0], &files, &attributes, words, environ);
	posix_spawnattr_destroy(&attributes);
	posix_spawn_file_actions_destroy(&files);
	return -r;
}

static int child_start(struct net_backend *b, const struct net_config *config, struct err *err)
{
	char number[] = "3", *words[CHILD_WORDS] = { "passt", "--foreground", "--quiet", "--fd", number };
	struct net_forward forward[NET_FORWARDS_MAX];
	unsigned int i, n = 5;
	int fds[2], r;

	_Static_assert(CHILD_FD == 3, "as `number` says");
	memcpy(forward, config->forward, sizeof(forward));
	for (i = 0; i < config->forwards; i++) {
		words[n++] = forward[i].udp ? "-u" : "-t";
		words[n++] = forward[i].spec;
	}
	snprintf(b->name, sizeof(b->name), "passt");
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return err_errno(err, -errno, "socket pair for passt");
	b->fd = fds[0];
	b->ops = &child_ops;
	r = child_spawn(&b->child, fds[1], words);
	close(fds[1]);
	if (r < 0)
		b->child = 0;
	if (r == -ENOENT)
		return err_set(err, r, "the program passt is missing: apt install passt");
	if (r < 0)
		return err_errno(err, r, "passt");
	return net_stream_open(b, fds[0], err);
}

int net_passt_open(struct net_backend *b, const struct net_config *config, struct err *err)
{
	return *config->where ? stream_connect(b, config->where, err) : child_start(b, config, err);
}
