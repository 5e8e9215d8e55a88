// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * net.c - NBD by URI: sockets for nbd.c, to a host or to a unix socket.
 *
 * A host's name is looked up for each connection (base/dial.h): the server may
 * have moved. When it cannot be, the addresses that it had do. A peer whose
 * link is cut says nothing: TCP itself is told to find out.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/dial.h"
#include "device/disk/nbd.h"

#define CONNECT_MS 10000
/* Without an answer for so long a link is cut. */
#define KEEPALIVE_S 5
#define KEEPALIVE_PROBES 3
#define UNACKNOWLEDGED_MS 20000

struct net {
	struct nbd_address nbd;
	struct address address;
	struct addresses known;		/* of the last look-up */
	struct addresses last;		/* where the last connection was: not more than one */
	struct dial *dial;		/* under way */
};

static void socket_set_up(int fd)
{
	const int on = 1, idle = KEEPALIVE_S, probes = KEEPALIVE_PROBES,
		  unacknowledged = UNACKNOWLEDGED_MS;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &idle, sizeof(idle));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unacknowledged, sizeof(unacknowledged));
}

static void disk_net_dial_end(struct net *net)
{
	dial_free(net->dial);
	net->dial = NULL;
}

static int disk_net_dial_begin(struct net *net, struct err *err)
{
	int r = dial_new(&net->dial, &net->address, &net->known, CONNECT_MS, err);

	/* It was lost, or was of no use. */
	if (!r && net->last.n)
		dial_put_last(net->dial, &net->last.at[0], net->last.len[0]);
	return r;
}

static void peer_keep(struct net *net, int fd)
{
	net->last.len[0] = sizeof(net->last.at[0]);
	net->last.n = !getpeername(fd, (struct sockaddr *)&net->last.at[0], &net->last.len[0]);
}

static int net_connect(void *arg, int *wait, struct err *err)
{
	struct net *net = arg;
	int r = net->dial ? 0 : disk_net_dial_begin(net, err);

	if (r < 0)
		return r;
	r = dial_step(net->dial, err);
	if (r == -EINPROGRESS) {
		*wait = dial_fd(net->dial);
		return r;
	}
	if (dial_found(net->dial)->n)
		net->known = *dial_found(net->dial);
	disk_net_dial_end(net);
	if (r >= 0 && net->address.type == ADDRESS_TCP) {
		socket_set_up(r);
		peer_keep(net, r);
	}
	return r;
}

static unsigned int net_addresses(void *arg)
{
	const struct net *net = arg;

	return net->known.n;
}

static void net_lost(void *arg, char *why, size_t room)
{
	(void)why;
	(void)room;
	disk_net_dial_end(arg);
}

static void disk_net_free(void *arg)
{
	disk_net_dial_end(arg);
	free(arg);
}

/* The port was checked, the path fits. */
static void address_take(struct net *net)
{
	_Static_assert(sizeof(net->address.host) >= sizeof(net->nbd.host),
		       "one fits into the other");
	_Static_assert(sizeof(net->address.path) >= sizeof(net->nbd.socket), "... so does this");
	net->address.type = *net->nbd.host ? ADDRESS_TCP : ADDRESS_UNIX;
	strcpy(net->address.host, net->nbd.host);
	/* Without leading zeros. */
	snprintf(net->address.port, sizeof(net->address.port), "%hu",
		 (unsigned short)atoi(net->nbd.port));
	strcpy(net->address.path, net->nbd.socket);
}

int nbd_open(struct disk **out, const struct disk_config *config, const struct disk_env *env,
	     struct err *err)
{
	struct net *net = calloc(1, sizeof(*net));
	struct nbd_origin origin = { .connect = net_connect,
				     .lost = net_lost,
				     .free = disk_net_free,
				     .arg = net };
	int r;

	if (!net)
		return err_set(err, -ENOMEM, "no memory for a disk");
	r = nbd_address_parse(&net->nbd, config->path, err);
	if (r < 0) {
		disk_net_free(net);
		return r;
	}
	address_take(net);
	origin.addresses = net_addresses;
	origin.export_name = net->nbd.export_name;
	return nbd_open_at(out, config, env, &origin, err);
}
