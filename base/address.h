/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Where to listen and where to connect to, as users write it: one grammar and
 * one meaning for everything that has an address.
 *
 *     tcp:HOST:PORT    tcp:[IPV6]:PORT    unix:PATH
 *
 * HOST is a name or a number. Empty, and "localhost": the loopback, of both
 * families (RFC 6761, 6.3: no resolver is asked). "*": every address of this
 * host, of both families; only to listen at. PORT is a number; 0, to listen at,
 * is any that is free, the same at each address. Pure functions; any thread.
 */
#ifndef POSTERN_BASE_ADDRESS_H
#define POSTERN_BASE_ADDRESS_H

#include <netdb.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/err.h"

#define ADDRESS_HOST_BYTES 256
#define ADDRESS_PORT_BYTES 6
#define ADDRESS_PATH_BYTES sizeof(((struct sockaddr_un *)0)->sun_path)
/* Room for every address_print. */
#define ADDRESS_TEXT_BYTES (ADDRESS_HOST_BYTES + 16)
/* Of one name; what is more is left out. */
#define ADDRESSES_MAX 16
/* Room for every sockaddr_print. */
#define SOCKADDR_TEXT_BYTES (ADDRESS_PATH_BYTES + 16)

enum address_type {
	ADDRESS_TCP,
	ADDRESS_UNIX,
};

struct address {
	enum address_type type;
	char host[ADDRESS_HOST_BYTES];	/* TCP: without brackets */
	char port[ADDRESS_PORT_BYTES];	/* TCP: decimal, 0 to 65535, no leading zeros */
	char path[ADDRESS_PATH_BYTES];	/* UNIX: not empty */
};

/* What an address stands for. */
struct addresses {
	unsigned int n;
	struct sockaddr_storage at[ADDRESSES_MAX];
	socklen_t len[ADDRESSES_MAX];
};

/* 0, or -EINVAL that says what is expected where. */
int address_parse(struct address *address, const char *text, struct err *err);
/* As it was written; out has ADDRESS_TEXT_BYTES. */
void address_print(const struct address *address, char *out);
bool address_is_loopback(const struct address *address);
/* "*" */
bool address_is_any(const struct address *address);

/*
 * Those that need no resolver: numbers, the loopback, "*", unix sockets. False:
 * it is a name, nothing was found.
 */
bool addresses_known(struct addresses *found, const struct address *address);
/*
 * Those of a resolver's answer in the order in which to try them: its own, but
 * for the families taking turns (RFC 8305, 4). What is there twice is taken
 * once.
 */
void addresses_take(struct addresses *to, const struct addrinfo *list);

/*
 * "127.0.0.1 port 80", "::1 port 80", "unix:PATH"; `with_port` false: without
 * it. out has SOCKADDR_TEXT_BYTES.
 */
void sockaddr_print(const struct sockaddr_storage *at, socklen_t len, bool with_port, char *out);

#endif
