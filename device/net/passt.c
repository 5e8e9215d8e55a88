// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * passt.c - passt (user-mode networking without privileges): frames over a
 * stream socket, each with its length in front, 4 bytes big-endian. Either one
 * that runs already, at a unix socket, or a helper of our own on one end of a
 * socket pair. passt ends when that is closed, and so with this process,
 * however it ends.
 *
 * By itself passt takes connections to its gateway's address to the host's
 * loopback, where QMP and much else listens that trusts whoever can reach it:
 * ours is told not to, unless the user has asked for it. (Frames that name the
 * loopback itself: frame.h.)
 *
 * What passt cannot do, a port that is taken for one, it says and ends. So a
 * start waits until it has answered a frame: by then it has bound its ports and
 * given up its rights.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/helper.h"
#include "base/log.h"
#include "device/net/backend.h"
#include "device/net/frame.h"

#define END_PATIENCE_NS (1 * NS_PER_SEC)
#define START_PATIENCE_NS (10 * NS_PER_SEC)
#define WORDS_MAX (16 + 2 * NET_FORWARDS_MAX)

static ssize_t passt_stream_write(struct net_backend *b, const struct iovec *iov, unsigned int n)
{
	const struct msghdr msg = { .msg_iov = (struct iovec *)iov, .msg_iovlen = n };
	ssize_t r = sendmsg(b->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);

	return r < 0 ? -errno : r;
}

static ssize_t passt_stream_read(struct net_backend *b, void *to, size_t room)
{
	ssize_t r = recv(b->fd, to, room, MSG_DONTWAIT);

	return r < 0 ? -errno : r;
}

static const struct net_backend_ops stream_ops = {
	.write = passt_stream_write, .read = passt_stream_read,
};

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

/* ---- our own ---- */

/*
 * Its complaint on one line: without what is no error, and without the help
 * that follows what it does not know.
 */
static void said_copy(const struct helper *h, char *to, size_t room)
{
	static const char *const noise[] = { "Failed to send ", "Don't run as root" };
	char *all = helper_said(h), *at = all, *line;
	size_t n = 0;

	*to = '\0';
	while (at && (line = strsep(&at, "\n"))) {
		if (!strncmp(line, "Usage:", 6))
			break;
		if (!*line || !strncmp(line, noise[0], strlen(noise[0])) ||
		    !strncmp(line, noise[1], strlen(noise[1])))
			continue;
		n += (size_t)snprintf(to + n, room - n, "%s%.200s", n ? "; " : "", line);
		if (n >= room)
			break;
	}
	free(all);
}

static void own_gone(struct net_backend *b)
{
	log_warn("passt has ended: the guest's link is down");
	(void)b;
}

static void own_close(struct net_backend *b)
{
	helper_free(b->helper, END_PATIENCE_NS);
}

static const struct net_backend_ops own_ops = {
	.write = passt_stream_write, .read = passt_stream_read,
	.gone = own_gone, .close = own_close,
};

/* From the loop. */
static void own_ended(void *arg)
{
	struct net_backend *b = arg;
	char how[64], said[320];

	helper_describe_end(b->helper, how, sizeof(how));
	said_copy(b->helper, said, sizeof(said));
	log_info("passt %s%s%s", how, *said ? ": " : "", said);
}

/* Sends what passt answers, whichever of IPv4 and IPv6 it has. */
static int passt_ask(struct net_backend *b, const uint8_t mac[NET_MAC_BYTES])
{
	uint8_t frame[2][NET_FRAME_ASK_MAX];
	size_t len[2] = { net_frame_ask_ipv4(frame[0], mac), net_frame_ask_ipv6(frame[1], mac) };
	unsigned int i;

	for (i = 0; i < 2; i++) {
		uint32_t length = htonl((uint32_t)len[i]);
		const struct iovec iov[2] = { { &length, sizeof(length) }, { frame[i], len[i] } };
		ssize_t r = passt_stream_write(b, iov, 2);

		if (r < 0)
			return (int)r;
	}
	return 0;
}

/* Waits for so many bytes. -ECONNRESET: it has gone. */
static int passt_take(struct net_backend *b, void *to, size_t len, int64_t end, struct err *err)
{
	struct pollfd events[2] = {
		{ .fd = b->fd, .events = POLLIN },
		{ .fd = helper_end_fd(b->helper), .events = POLLIN },
	};
	ssize_t n;

	while (len) {
		int64_t left = (end - clock_now_ns()) / NS_PER_MS;

		if (left <= 0)
			return err_set(err, -ETIMEDOUT, "passt does not answer");
		if (poll(events, 2, (int)left) < 0 && errno == EINTR)
			return err_set(err, -EINTR, "interrupted by a signal");
		n = passt_stream_read(b, to, len);
		if (n == -EAGAIN && helper_runs(b->helper))
			continue;
		if (n <= 0)
			return -ECONNRESET;
		to = (uint8_t *)to + n;
		len -= (size_t)n;
	}
	return 0;
}

/* Its first frame, which is nobody's. */
static int answer_take(struct net_backend *b, int64_t end, struct err *err)
{
	uint8_t part[2048];
	uint32_t len = 0;
	int r = passt_take(b, &len, sizeof(len), end, err);
	size_t n;

	len = ntohl(len);
	if (!r && len > NET_FRAME_MAX)
		return err_set(err, -EPROTO, "passt: a frame of %u bytes, at most %u are possible",
			       len, NET_FRAME_MAX);
	for (; !r && len; len -= (uint32_t)n) {
		n = len < sizeof(part) ? len : sizeof(part);
		r = passt_take(b, part, n, end, err);
	}
	return r;
}

/* 0: it runs. -ENOTSUP: it has ended, since it does not know `option`. */
static int own_wait(struct net_backend *b, const struct net_config *config, const char *option,
		    struct err *err)
{
	int64_t end = clock_now_ns() + START_PATIENCE_NS;
	char how[64], said[320];
	int r = passt_ask(b, config->mac);

	if (!r)
		r = answer_take(b, end, err);
	if (!r) {
		said_copy(b->helper, said, sizeof(said));
		if (*said)
			log_info("passt: %s", said);
		/*
		 * Debian 12's says so of an IPv4 --dns as well, which it tells
		 * the guest all the same.
		 */
		if (!*config->dns && strstr(said, "nameserver"))
			log_warn("the guest is told of no name server, as the host's is at its "
				 "loopback: --net passt,dns=ADDRESS names one");
		return 0;
	}
	if (r != -ECONNRESET && r != -EPIPE)
		return r;
	/* Its socket closes a moment before it has ended. */
	if (!helper_wait(b->helper, END_PATIENCE_NS))
		return err_set(err, -EIO, "passt has closed its socket");
	said_copy(b->helper, said, sizeof(said));
	if (*option && strstr(said, "unrecognized option") && strstr(said, option))
		return -ENOTSUP;
	helper_describe_end(b->helper, how, sizeof(how));
	return err_set(err, -EIO, "passt %s%s%s", how, *said ? ": " : "", said);
}

/*
 * An address that is nobody's is each of the host's: passt is content if it
 * gets one of them. A port is what was asked for if it is all.
 */
static int port_check(const struct net_forward *forward, struct err *err)
{
	struct sockaddr_in any4 = { .sin_family = AF_INET, .sin_port = htons(forward->port) };
	struct sockaddr_in6 any6 = { .sin6_family = AF_INET6, .sin6_port = htons(forward->port) };
	const struct { const void *addr; socklen_t len; int family; } all[] = {
		{ &any4, sizeof(any4), AF_INET }, { &any6, sizeof(any6), AF_INET6 },
	};
	unsigned int i;
	int one = 1, fd, r;

	for (i = 0; i < 2; i++) {
		fd = socket(all[i].family, (forward->udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC,
			    0);
		if (fd < 0)
			continue;
		if (all[i].family == AF_INET6)
			setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
		/* As passt: a port of connections that have ended is free. */
		if (!forward->udp)
			setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		r = bind(fd, all[i].addr, all[i].len) < 0 ? -errno : 0;
		close(fd);
		if (r == -EADDRINUSE)
			return err_errno(err, r, "forward: %s port %u of every %s address",
					 forward->udp ? "UDP" : "TCP", forward->port,
					 i ? "IPv6" : "IPv4");
	}
	return 0;
}

static unsigned int forwards_add(char **words, struct net_forward *forward, unsigned int forwards)
{
	unsigned int i, n = 0;
	bool some[2] = { false, false };

	for (i = 0; i < forwards; i++) {
		words[n++] = forward[i].udp ? "-u" : "-t";
		words[n++] = forward[i].spec;
		some[forward[i].udp] = true;
	}
	for (i = 0; i < 2; i++) {
		if (some[i])
			continue;
		words[n++] = i ? "-u" : "-t";
		words[n++] = "none";
	}
	return n;
}

/* map: the words that keep it from the host's loopback; NULL: none. */
static int own_start(struct net_backend *b, struct loop *loop, const struct net_config *config,
		     char *const *map, struct err *err)
{
	char number[] = "3", dns[INET6_ADDRSTRLEN];
	char *words[WORDS_MAX] = { "passt", "--foreground", "--quiet", "--fd", number };
	struct net_forward forward[NET_FORWARDS_MAX];
	struct helper_config helper = {
		.program = "passt", .package = "passt", .words = words, .n_fds = 1,
		.ended = own_ended, .arg = b,
	};
	unsigned int i, n = 5;
	int fds[2], r;

	_Static_assert(HELPER_FD == 3, "as `number` says");
	memcpy(forward, config->forward, sizeof(forward));
	memcpy(dns, config->dns, sizeof(dns));
	for (; map && *map; map++)
		words[n++] = *map;
	if (*dns) {
		words[n++] = "--dns";
		words[n++] = dns;
	}
	forwards_add(words + n, forward, config->forwards);
	for (i = 0; i < config->forwards; i++)
		if (forward[i].port < IPPORT_RESERVED)
			helper.flags |= HELPER_LOW_PORTS;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return err_errno(err, -errno, "socket pair for passt");
	helper.fds = &fds[1];
	r = helper_start(&b->helper, loop, &helper, err);
	close(fds[1]);
	if (r < 0) {
		close(fds[0]);
		return r;
	}
	b->fd = fds[0];
	b->ops = &own_ops;
	return net_stream_open(b, fds[0], err);
}

static void passt_own_drop(struct net_backend *b)
{
	close(b->fd);
	b->fd = -1;
	helper_free(b->helper, END_PATIENCE_NS);
	b->helper = NULL;
}

static int own_open(struct net_backend *b, struct loop *loop, const struct net_config *config,
		    struct err *err)
{
	/*
	 * What passt calls it from 2024 on, with the first word still known:
	 * should that go.
	 */
	static char *const no_gateway[] = { "--no-map-gw", NULL },
		*const no_host[] = { "--map-host-loopback", "none", NULL };
	char *const *map = config->host_loopback ? NULL : no_gateway;
	unsigned int i;
	int r;

	snprintf(b->name, sizeof(b->name), "passt");
	for (i = 0; i < config->forwards; i++) {
		r = config->forward[i].any ? port_check(&config->forward[i], err) : 0;
		if (r < 0)
			return r;
	}
	r = own_start(b, loop, config, map, err);
	if (!r)
		r = own_wait(b, config, map ? map[0] : "", err);
	if (r != -ENOTSUP)
		return r;
	passt_own_drop(b);
	r = own_start(b, loop, config, no_host, err);
	if (!r)
		r = own_wait(b, config, no_host[0], err);
	return r == -ENOTSUP ? err_set(err, r,
				       "this passt cannot be kept from the host's loopback: it "
				       "knows neither %s nor %s",
				       no_gateway[0], no_host[0]) : r;
}

int net_passt_open(struct net_backend *b, struct loop *loop, const struct net_config *config,
		   struct err *err)
{
	if (*config->where)
		return stream_connect(b, config->where, err);
	return own_open(b, loop, config, err);
}
