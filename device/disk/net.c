// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * net.c - NBD by URI: sockets for nbd.c, to a host or to a unix socket.
 *
 * A host's name is looked up when the disk is opened, and again, on libuv's threads, whenever a connection is lost: the server may have
 * moved. Each attempt takes the next address. A peer whose link is cut says nothing: TCP itself is told to find out.
 */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "device/disk/nbd.h"

#define ADDRESSES_MAX 8
#define LOOKUP_S 10
/* Without an answer for so long a link is cut. */
#define KEEPALIVE_S 5
#define KEEPALIVE_PROBES 3
#define UNACKNOWLEDGED_MS 20000

struct net_lookup {
	uv_getaddrinfo_t request;
	struct net *net;		/* NULL: nobody waits for it any more */
};

struct net {
	struct nbd_address address;
	struct sockaddr_storage at[ADDRESSES_MAX];
	socklen_t at_len[ADDRESSES_MAX];
	unsigned int n, next;
	bool numeric;
	uv_loop_t *uv;
	struct net_lookup *lookup;
};

/* ---- names ---- */

static void addresses_take(struct net *net, const struct addrinfo *list)
{
	unsigned int n = 0;

	for (; list && n < ADDRESSES_MAX; list = list->ai_next) {
		if (list->ai_addrlen > sizeof(net->at[0]))
			continue;
		memcpy(&net->at[n], list->ai_addr, list->ai_addrlen);
		net->at_len[n++] = list->ai_addrlen;
	}
	/* None: those that we had may still do. */
	if (n)
		net->n = n;
}

static void on_lookup(uv_getaddrinfo_t *request, int status, struct addrinfo *list)
{
	struct net_lookup *lookup = request->data;

	if (lookup->net) {
		if (!status)
			addresses_take(lookup->net, list);
		lookup->net->lookup = NULL;
	}
	uv_freeaddrinfo(list);
	free(lookup);
}

static const struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM };

static void lookup_again(struct net *net)
{
	struct net_lookup *lookup;

	if (net->numeric || net->lookup || !(lookup = calloc(1, sizeof(*lookup))))
		return;
	lookup->net = net;
	lookup->request.data = lookup;
	if (uv_getaddrinfo(net->uv, &lookup->request, on_lookup, net->address.host, net->address.port, &hints) < 0)
		free(lookup);
	else
		net->lookup = lookup;
}

/* The first look-up. One that does not end in time is left to end when it likes, with what it writes to. */
static int lookup_first(struct net *net, struct err *err)
{
	const struct timespec patience = { .tv_sec = LOOKUP_S };
	struct addrinfo numeric = hints, *list = NULL;
	struct gaicb *ask = calloc(1, sizeof(*ask));
	const struct gaicb *const asks[] = { ask };
	char *host = strdup(net->address.host), *port = strdup(net->address.port);
	int r;

	if (!ask || !host || !port) {
		free(ask);
		free(host);
		free(port);
		return err_set(err, -ENOMEM, "no memory for a disk");
	}
	numeric.ai_flags = AI_NUMERICHOST;
	net->numeric = !getaddrinfo(host, port, &numeric, &list);
	if (!net->numeric) {
		*ask = (struct gaicb){ .ar_name = host, .ar_service = port, .ar_request = &hints };
		r = getaddrinfo_a(GAI_NOWAIT, &ask, 1, NULL);
		if (!r) {
			r = gai_suspend(asks, 1, &patience);
			if (r == EAI_INTR)
				return err_set(err, -EINTR, "interrupted by a signal");
			if (r == EAI_AGAIN)
				return err_set(err, -ETIMEDOUT, "the host's name is not found in %d s", LOOKUP_S);
			r = gai_error(ask);
		}
		if (r)
			err_set(err, -EHOSTUNREACH, "host %s: %s", host, gai_strerror(r));
		else
			list = ask->ar_result;
	}
	addresses_take(net, list);
	if (list)
		freeaddrinfo(list);
	free(ask);
	free(host);
	free(port);
	return net->n ? 0 : -EHOSTUNREACH;
}

/* ---- sockets ---- */

static void socket_set_up(int fd)
{
	const int on = 1, idle = KEEPALIVE_S, probes = KEEPALIVE_PROBES, unacknowledged = UNACKNOWLEDGED_MS;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &idle, sizeof(idle));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unacknowledged, sizeof(unacknowledged));
}

static int net_connect(void *arg, struct err *err)
{
	struct net *net = arg;
	unsigned int i = net->next++ % net->n;
	int family = net->at[i].ss_family;
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), r;

	if (fd < 0)
		return err_errno(err, -errno, "socket");
	if (family != AF_UNIX)
		socket_set_up(fd);
	if (connect(fd, (struct sockaddr *)&net->at[i], net->at_len[i]) < 0 && errno != EINPROGRESS) {
		r = err_errno(err, -errno, "connecting to the server");
		close(fd);
		return r;
	}
	return fd;
}

static void net_lost(void *arg, char *why, size_t room)
{
	struct net *net = arg;

	(void)room;
	if (why)
		lookup_again(net);
}

static void net_free(void *arg)
{
	struct net *net = arg;

	if (net->lookup) {
		net->lookup->net = NULL;
		uv_cancel((uv_req_t *)&net->lookup->request);
	}
	free(net);
}

/* The port was checked, the path fits. */
static int address_find(struct net *net, struct err *err)
{
	struct sockaddr_un *local = (struct sockaddr_un *)&net->at[0];

	if (*net->address.host)
		return lookup_first(net, err);
	local->sun_family = AF_UNIX;
	strcpy(local->sun_path, net->address.socket);
	net->at_len[0] = sizeof(*local);
	net->n = 1;
	net->numeric = true;
	return 0;
}

int nbd_open(struct disk **out, const struct disk_config *config, const struct disk_env *env, struct err *err)
{
	struct net *net = calloc(1, sizeof(*net));
	struct nbd_origin origin = { .connect = net_connect, .lost = net_lost, .free = net_free, .arg = net };
	int r;

	if (!net)
		return err_set(err, -ENOMEM, "no memory for a disk");
	net->uv = loop_uv(env->loop);
	r = nbd_address_parse(&net->address, config->path, err);
	if (!r)
		r = address_find(net, err);
	if (r < 0) {
		net_free(net);
		return r;
	}
	origin.export_name = net->address.export_name;
	origin.choices = net->n;
	return nbd_open_at(out, config, env, &origin, err);
}
