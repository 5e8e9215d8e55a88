// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "base/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* ---- text ---- */

/* A decimal number from 0 to 65535 and nothing else; -1: something else. */
static int port_parse(const char *text)
{
	int value = 0;

	if (!*text)
		return -1;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return -1;
		value = value * 10 + (*text - '0');
		if (value > 65535)
			return -1;
	}
	return value;
}

/* Is it an IPv6 address in numbers, perhaps with %SCOPE? */
static bool is_ipv6(const char *host)
{
	size_t len = strcspn(host, "%");
	char number[INET6_ADDRSTRLEN];
	struct in6_addr in6;

	if (len >= sizeof(number) ||
	    (host[len] && (!host[len + 1] || strlen(host + len + 1) >= IF_NAMESIZE)))
		return false;
	memcpy(number, host, len);
	number[len] = 0;
	return inet_pton(AF_INET6, number, &in6) == 1;
}

/* Where the host ends and the port begins; NULL: err says what is wrong. */
static const char *host_find(const char **host, const char *rest, const char *text,
			     const char **port, struct err *err)
{
	const char *end;

	*host = rest + (*rest == '[');
	end = strchr(*host, *rest == '[' ? ']' : ':');
	if (*rest == '[' && (!end || end[1] != ':')) {
		err_set(err, -EINVAL, "'%.200s': expected tcp:[IPV6]:PORT", text);
		return NULL;
	}
	if (!end) {
		err_set(err, -EINVAL, "'%.200s': expected tcp:HOST:PORT", text);
		return NULL;
	}
	*port = end + (*rest == '[' ? 2 : 1);
	if (*rest != '[' && strchr(*port, ':')) {
		err_set(err, -EINVAL, "'%.200s': an IPv6 address goes in brackets, tcp:[IPV6]:PORT",
			text);
		return NULL;
	}
	return end;
}

static int parse_tcp(struct address *address, const char *text, const char *rest, struct err *err)
{
	const char *host, *port, *end = host_find(&host, rest, text, &port, err);
	size_t len;
	int number;

	if (!end)
		return -EINVAL;
	number = port_parse(port);
	if (number < 0)
		return err_set(err, -EINVAL, "'%.200s': the port must be a number from 0 to 65535",
			       text);
	len = (size_t)(end - host);
	if (len >= sizeof(address->host))
		return err_set(err, -EINVAL, "'%.40s...': the host name is longer than %zu bytes",
			       text, sizeof(address->host) - 1);
	memcpy(address->host, host, len);
	address->host[len] = 0;
	if (*rest == '[' && !is_ipv6(address->host))
		return err_set(err, -EINVAL, "'%.200s': '%.100s' is no IPv6 address", text,
			       address->host);
	address->type = ADDRESS_TCP;
	snprintf(address->port, sizeof(address->port), "%hu", (unsigned short)number);
	return 0;
}

static int parse_unix(struct address *address, const char *text, const char *path, struct err *err)
{
	size_t len = strlen(path);

	if (!len)
		return err_set(err, -EINVAL, "'%s': expected unix:PATH", text);
	if (len >= sizeof(address->path))
		return err_set(err, -EINVAL, "'%.40s...': a socket's path has at most %zu bytes",
			       text, sizeof(address->path) - 1);
	address->type = ADDRESS_UNIX;
	memcpy(address->path, path, len + 1);
	return 0;
}

int address_parse(struct address *address, const char *text, struct err *err)
{
	memset(address, 0, sizeof(*address));
	if (!strncmp(text, "tcp:", 4))
		return parse_tcp(address, text, text + 4, err);
	if (!strncmp(text, "unix:", 5))
		return parse_unix(address, text, text + 5, err);
	return err_set(err, -EINVAL, "'%.200s': expected tcp:HOST:PORT or unix:PATH", text);
}

void address_print(const struct address *address, char *out)
{
	bool brackets = strchr(address->host, ':');

	if (address->type == ADDRESS_UNIX)
		snprintf(out, ADDRESS_TEXT_BYTES, "unix:%s", address->path);
	else
		snprintf(out, ADDRESS_TEXT_BYTES, "tcp:%s%s%s:%s", brackets ? "[" : "",
			 address->host, brackets ? "]" : "", address->port);
}

bool address_is_loopback(const struct address *address)
{
	return address->type == ADDRESS_TCP &&
	       (!*address->host || !strcasecmp(address->host, "localhost"));
}

bool address_is_any(const struct address *address)
{
	return address->type == ADDRESS_TCP && !strcmp(address->host, "*");
}

/* ---- numbers ---- */

static void address_add(struct addresses *to, const struct sockaddr *at, socklen_t len)
{
	unsigned int i;

	if (to->n == ADDRESSES_MAX || len > sizeof(to->at[0]))
		return;
	for (i = 0; i < to->n; i++)
		if (to->len[i] == len && !memcmp(&to->at[i], at, len))
			return;
	memset(&to->at[to->n], 0, sizeof(to->at[0]));
	memcpy(&to->at[to->n], at, len);
	to->len[to->n++] = len;
}

static void add_both(struct addresses *to, const char *port, bool loopback)
{
	in_port_t number = htons((in_port_t)port_parse(port));
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_port = number,
				    .sin6_addr = loopback ? in6addr_loopback : in6addr_any };
	struct sockaddr_in in4 = { .sin_family = AF_INET, .sin_port = number,
				   .sin_addr.s_addr = htonl(loopback ? INADDR_LOOPBACK : INADDR_ANY) };

	address_add(to, (const struct sockaddr *)&in6, sizeof(in6));
	address_add(to, (const struct sockaddr *)&in4, sizeof(in4));
}

bool addresses_known(struct addresses *found, const struct address *address)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM,
					.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV };
	struct sockaddr_un local = { .sun_family = AF_UNIX };
	struct addrinfo *list;

	found->n = 0;
	if (address->type == ADDRESS_UNIX) {
		strcpy(local.sun_path, address->path);
		address_add(found, (const struct sockaddr *)&local, sizeof(local));
	} else if (address_is_loopback(address) || address_is_any(address)) {
		add_both(found, address->port, !address_is_any(address));
	} else if (!getaddrinfo(address->host, address->port, &hints, &list)) {
		addresses_take(found, list);
		freeaddrinfo(list);
	}
	return found->n;
}

/* The next of that family, or of any other (other), from *at on, or NULL. */
static const struct addrinfo *next_of(const struct addrinfo *at, int family, bool other)
{
	while (at && (at->ai_family == family) == other)
		at = at->ai_next;
	return at;
}

void addresses_take(struct addresses *to, const struct addrinfo *list)
{
	int family = list ? list->ai_family : AF_UNSPEC;
	const struct addrinfo *turn[2] = { list, next_of(list, family, true) };
	unsigned int i = 0;

	to->n = 0;
	for (; turn[0] || turn[1]; i ^= 1) {
		if (!turn[i])
			continue;
		address_add(to, turn[i]->ai_addr, turn[i]->ai_addrlen);
		turn[i] = next_of(turn[i]->ai_next, family, i);
	}
}

void sockaddr_print(const struct sockaddr_storage *at, socklen_t len, bool with_port, char *out)
{
	const struct sockaddr_un *local = (const struct sockaddr_un *)at;
	char host[INET6_ADDRSTRLEN + IF_NAMESIZE], port[ADDRESS_PORT_BYTES];

	if (at->ss_family == AF_UNIX)
		snprintf(out, SOCKADDR_TEXT_BYTES, "unix:%.*s", (int)sizeof(local->sun_path),
			 local->sun_path);
	else if (getnameinfo((const struct sockaddr *)at, len, host, sizeof(host), port,
			     sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV))
		snprintf(out, SOCKADDR_TEXT_BYTES, "an address of family %d", at->ss_family);
	else
		snprintf(out, SOCKADDR_TEXT_BYTES, with_port ? "%s port %s" : "%s", host, port);
}
