/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What `--net` says: which back end, and how.
 *
 *     tap=NAME | passt[=SOCKET] | fd=N   [,mac=XX:XX:XX:XX:XX:XX]
 *
 * and with a passt of our own also
 *
 *     [,forward=tcp|udp:[ADDRESS/]HOSTPORT[:GUESTPORT]]... [,dns=ADDRESS] [,host-loopback]
 *
 * ADDRESS is the host's that connections come to: 127.0.0.1 unless it is said, * for every one.
 */
#ifndef POSTERN_DEVICE_NET_CONFIG_H
#define POSTERN_DEVICE_NET_CONFIG_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/un.h>

#include "base/err.h"

#define NET_FORWARDS_MAX 8
#define NET_FORWARD_BYTES 72
#define NET_MAC_BYTES 6

enum net_type { NET_TAP, NET_PASST, NET_FD };

struct net_forward {
	bool udp, any;			/* any: every address of the host */
	uint16_t port;			/* the host's */
	char spec[NET_FORWARD_BYTES];	/* [ADDRESS/]HOSTPORT[:GUESTPORT], as passt takes it: without ADDRESS, it is every one */
};

struct net_config {
	enum net_type type;
	char where[sizeof(((struct sockaddr_un *)0)->sun_path)];	/* the tap's name, or passt's socket; "": our own passt */
	int fd;				/* NET_FD */
	bool has_mac;
	uint8_t mac[NET_MAC_BYTES];
	bool host_loopback;		/* the gateway's address is the host's loopback to the guest */
	char dns[INET6_ADDRSTRLEN];	/* the name server that the guest is told of; "": the host's */
	unsigned int forwards;
	struct net_forward forward[NET_FORWARDS_MAX];
};

/* 0, or -EINVAL with what is allowed. */
int net_config_parse(struct net_config *config, const char *text, struct err *err);
/* "xx:xx:xx:xx:xx:xx" of one station: not of a group, not all zero. */
bool net_mac_parse(uint8_t mac[NET_MAC_BYTES], const char *text);
bool net_mac_is_valid(const uint8_t mac[NET_MAC_BYTES]);
/*
 * A locally administered address for the device of that number: always the same
 * for a machine's name; without one, for this host and this option's text.
 */
void net_mac_make(uint8_t mac[NET_MAC_BYTES], const char *machine, const char *text,
		  unsigned int number);

#endif
