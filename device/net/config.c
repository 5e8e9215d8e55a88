// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "device/net/config.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ALLOWED "allowed are tap=NAME, passt[=SOCKET] and fd=N, then ,mac=XX:XX:XX:XX:XX:XX and, with a passt of our own, " \
		",forward=tcp|udp:[ADDRESS/]HOSTPORT[:GUESTPORT], ,dns=ADDRESS and ,host-loopback"

bool net_mac_is_valid(const uint8_t mac[NET_MAC_BYTES])
{
	static const uint8_t zero[NET_MAC_BYTES];

	return !(mac[0] & 1) && memcmp(mac, zero, NET_MAC_BYTES);
}

static int net_config_hex(char c)
{
	return isdigit((unsigned char)c)  ? c - '0' :
	       isxdigit((unsigned char)c) ? tolower((unsigned char)c) - 'a' + 10 :
					    -1;
}

bool net_mac_parse(uint8_t mac[NET_MAC_BYTES], const char *text)
{
	unsigned int i;

	for (i = 0; i < NET_MAC_BYTES; i++, text += 3) {
		if (net_config_hex(text[0]) < 0 || net_config_hex(text[1]) < 0 ||
		    text[2] != (i + 1 < NET_MAC_BYTES ? ':' : '\0'))
			return false;
		mac[i] = (uint8_t)(net_config_hex(text[0]) << 4 | net_config_hex(text[1]));
	}
	return net_mac_is_valid(mac);
}

/* FNV-1a, and a last mix: names that differ in their last digit are to differ everywhere. */
static uint64_t hash_text(uint64_t hash, const char *text)
{
	for (; *text; text++)
		hash = (hash ^ (uint8_t)*text) * UINT64_C(0x100000001b3);
	return (hash ^ 0xff) * UINT64_C(0x100000001b3);
}

void net_mac_make(uint8_t mac[NET_MAC_BYTES], const char *machine, const char *text,
		  unsigned int number)
{
	uint64_t hash = UINT64_C(0xcbf29ce484222325);
	char host[HOST_NAME_MAX + 1] = "";
	unsigned int i;

	if (machine) {
		hash = hash_text(hash, machine);
	} else {
		gethostname(host, sizeof(host) - 1);
		hash = hash_text(hash_text(hash, host), text);
	}
	hash = (hash ^ number) * UINT64_C(0x100000001b3);
	hash ^= hash >> 33;
	hash *= UINT64_C(0xff51afd7ed558ccd);
	hash ^= hash >> 33;
	for (i = 0; i < NET_MAC_BYTES; i++)
		mac[i] = (uint8_t)(hash >> 8 * i);
	mac[0] = (uint8_t)((mac[0] & ~3u) | 2);
}

/* A port from 1 to 65535 that ends at one of `ends`; returns where, or NULL. */
static const char *port(const char *text, const char *ends)
{
	unsigned long value;
	char *end;

	if (!isdigit((unsigned char)*text))
		return NULL;
	value = strtoul(text, &end, 10);
	return value >= 1 && value <= 65535 && strchr(ends, *end) ? end : NULL;
}

static bool is_address(const char *text, size_t len)
{
	char address[INET6_ADDRSTRLEN + 1] = "";
	struct in6_addr in6;

	if (len >= sizeof(address))
		return false;
	memcpy(address, text, len);
	return inet_pton(AF_INET, address, &in6) == 1 || inet_pton(AF_INET6, address, &in6) == 1;
}

static bool is_loopback(const char *address)
{
	struct in6_addr in6;
	struct in_addr in;

	if (inet_pton(AF_INET, address, &in) == 1)
		return ntohl(in.s_addr) >> 24 == IN_LOOPBACKNET;
	return inet_pton(AF_INET6, address, &in6) == 1 && IN6_IS_ADDR_LOOPBACK(&in6);
}

/* It becomes a word of a program's command line: nothing but numbers goes through. */
static bool forward_parse(struct net_forward *forward, const char *text)
{
	const char *slash, *at, *address = "127.0.0.1";
	size_t len = strlen(address);
	int r;

	if (strncmp(text, "tcp:", 4) && strncmp(text, "udp:", 4))
		return false;
	forward->udp = *text == 'u';
	text += 4;
	slash = strchr(text, '/');
	if (slash) {
		address = text;
		len = (size_t)(slash - text);
		text = slash + 1;
	}
	forward->any = len == 1 && *address == '*';
	/* In brackets, as everywhere; passt takes none. */
	if (len > 2 && *address == '[' && address[len - 1] == ']' && memchr(address, ':', len)) {
		address++;
		len -= 2;
	}
	if (!forward->any && !is_address(address, len))
		return false;
	at = port(text, ":");
	if (!at || (*at && !port(at + 1, "")))
		return false;
	forward->port = (uint16_t)strtoul(text, NULL, 10);
	/* Of leading zeroes there could be any number. */
	r = forward->any ? snprintf(forward->spec, sizeof(forward->spec), "%s", text) :
			   snprintf(forward->spec, sizeof(forward->spec), "%.*s/%s", (int)len,
				    address, text);
	return (size_t)r < sizeof(forward->spec);
}

/* One that a passt of our own is told. */
static int own_word_parse(struct net_config *config, const char *word, struct err *err)
{
	if (!strcmp(word, "host-loopback")) {
		config->host_loopback = true;
		return 0;
	}
	if (!strncmp(word, "dns=", 4)) {
		if (!is_address(word + 4, strlen(word + 4)))
			return err_set(err, -EINVAL, "%s: an IPv4 or IPv6 address is allowed",
				       word);
		if (is_loopback(word + 4))
			return err_set(
				err, -EINVAL,
				"%s: that is the guest's own loopback to the guest: one that it can reach is needed",
				word);
		strcpy(config->dns, word + 4);
		return 0;
	}
	if (config->forwards == NET_FORWARDS_MAX)
		return err_set(err, -EINVAL, "%s: at most %d are allowed", word, NET_FORWARDS_MAX);
	if (!forward_parse(&config->forward[config->forwards++], word + 8))
		return err_set(
			err, -EINVAL,
			"%s: forward=tcp|udp:[ADDRESS/]HOSTPORT[:GUESTPORT] is allowed, ADDRESS * for every one",
			word);
	return 0;
}

static int word_parse(struct net_config *config, const char *word, struct err *err)
{
	if (!strncmp(word, "mac=", 4)) {
		config->has_mac = true;
		if (!net_mac_parse(config->mac, word + 4))
			return err_set(
				err, -EINVAL,
				"%s: six bytes as in 02:00:00:00:00:01 are allowed, of no group",
				word);
		return 0;
	}
	if (strncmp(word, "forward=", 8) && strncmp(word, "dns=", 4) &&
	    strcmp(word, "host-loopback"))
		return err_set(err, -EINVAL, "\"%s\": " ALLOWED, word);
	if (config->type != NET_PASST || *config->where)
		return err_set(err, -EINVAL, "%s: only with a passt that postern starts", word);
	return own_word_parse(config, word, err);
}

static int type_parse(struct net_config *config, const char *word, struct err *err)
{
	size_t room = sizeof(config->where);
	const char *value = strchr(word, '=');
	unsigned long fd;
	char *end;

	value = value ? value + 1 : NULL;
	if (!strcmp(word, "passt") || (!strncmp(word, "passt=", 6) && *value)) {
		config->type = NET_PASST;
	} else if (!strncmp(word, "tap=", 4) && *value) {
		config->type = NET_TAP;
		room = IFNAMSIZ;
	} else if (!strncmp(word, "fd=", 3) && isdigit((unsigned char)*value)) {
		config->type = NET_FD;
		fd = strtoul(value, &end, 10);
		if (*end || fd > INT_MAX)
			return err_set(err, -EINVAL, "%s: a descriptor's number is allowed", word);
		config->fd = (int)fd;
	} else {
		return err_set(err, -EINVAL, "\"%s\": " ALLOWED, word);
	}
	if (value && strlen(value) >= room)
		return err_set(err, -ENAMETOOLONG, "%s: longer than %zu bytes", word, room - 1);
	if (value)
		strcpy(config->where, value);
	return 0;
}

int net_config_parse(struct net_config *config, const char *text, struct err *err)
{
	char *copy = strdup(text), *at = copy, *word;
	int r;

	*config = (struct net_config){ .fd = -1 };
	if (!copy)
		return err_set(err, -ENOMEM, "no memory for a network's configuration");
	r = type_parse(config, strsep(&at, ","), err);
	while (!r && (word = strsep(&at, ",")))
		r = word_parse(config, word, err);
	free(copy);
	return r;
}
