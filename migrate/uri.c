// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "migrate/uri.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* A decimal number without sign or blanks, that ends at *end; -1: none, or more than max. */
static int parse_number(const char *text, int max, const char **end)
{
	long value = 0;

	if (*text < '0' || *text > '9')
		return -1;
	for (; *text >= '0' && *text <= '9'; text++) {
		value = value * 10 + (*text - '0');
		if (value > max)
			return -1;
	}
	*end = text;
	return (int)value;
}

static int parse_tcp(struct uri *uri, const char *text, const char *rest, struct err *err)
{
	const char *host = rest, *host_end, *port, *end;
	size_t len;
	int number;

	if (*rest == '[') {
		host = rest + 1;
		host_end = strchr(host, ']');
		if (!host_end || host_end[1] != ':')
			return err_set(err, -EINVAL, "'%s': expected tcp:[IPV6]:PORT", text);
		port = host_end + 2;
	} else {
		host_end = strchr(host, ':');
		if (!host_end)
			return err_set(err, -EINVAL, "'%s': expected tcp:HOST:PORT", text);
		port = host_end + 1;
		if (strchr(port, ':'))
			return err_set(err, -EINVAL, "'%s': an IPv6 address goes in brackets, tcp:[IPV6]:PORT",
				       text);
	}
	number = parse_number(port, 65535, &end);
	if (number < 0 || *end)
		return err_set(err, -EINVAL, "'%s': the port must be a number from 0 to 65535", text);
	len = (size_t)(host_end - host);
	if (len >= sizeof(uri->host))
		return err_set(err, -EINVAL, "'%.40s...': the host name is longer than %zu bytes", text,
			       sizeof(uri->host) - 1);
	uri->kind = URI_TCP;
	memcpy(uri->host, host, len);
	uri->host[len] = 0;
	snprintf(uri->port, sizeof(uri->port), "%hu", (unsigned short)number);
	return 0;
}

static int parse_unix(struct uri *uri, const char *text, const char *rest, struct err *err)
{
	size_t len = strlen(rest);

	if (!len)
		return err_set(err, -EINVAL, "'%s': expected unix:PATH", text);
	if (len >= sizeof(uri->path))
		return err_set(err, -EINVAL, "'%.40s...': a socket's path has at most %zu bytes", text,
			       sizeof(uri->path) - 1);
	uri->kind = URI_UNIX;
	memcpy(uri->path, rest, len + 1);
	return 0;
}

static int parse_fd(struct uri *uri, const char *text, const char *rest, struct err *err)
{
	unsigned int i, n;

	for (n = 0; n < WIRE_CHANNELS; n++) {
		uri->fd[n] = parse_number(rest, 1 << 20, &rest);
		if (uri->fd[n] < 0)
			return err_set(err, -EINVAL, "'%s': expected fd:N or fd:CONTROL,URGENT,BULK", text);
		for (i = 0; i < n; i++)
			if (uri->fd[i] == uri->fd[n])
				return err_set(err, -EINVAL, "'%s': descriptor %d is named twice", text,
					       uri->fd[n]);
		if (*rest != ',')
			break;
		rest++;
	}
	uri->nfd = n + 1;
	if (*rest || (uri->nfd != 1 && uri->nfd != WIRE_CHANNELS))
		return err_set(err, -EINVAL, "'%s': expected fd:N or fd:CONTROL,URGENT,BULK", text);
	uri->kind = URI_FD;
	return 0;
}

int uri_parse(struct uri *uri, const char *text, struct err *err)
{
	*uri = (struct uri){ .fd = { -1, -1, -1 } };
	if (!strncmp(text, "tcp:", 4))
		return parse_tcp(uri, text, text + 4, err);
	if (!strncmp(text, "unix:", 5))
		return parse_unix(uri, text, text + 5, err);
	if (!strncmp(text, "fd:", 3))
		return parse_fd(uri, text, text + 3, err);
	return err_set(err, -EINVAL, "'%.80s': expected tcp:HOST:PORT, unix:PATH or fd:N", text);
}
