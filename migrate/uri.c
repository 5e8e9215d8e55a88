// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "migrate/uri.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* A decimal number without sign or blanks, that ends at *end; -1: none, or more than max. */
static int uri_parse_number(const char *text, int max, const char **end)
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

static int parse_fd(struct uri *uri, const char *text, const char *rest, struct err *err)
{
	unsigned int i, n;

	for (n = 0; n < WIRE_CHANNELS; n++) {
		uri->fd[n] = uri_parse_number(rest, 1 << 20, &rest);
		if (uri->fd[n] < 0)
			return err_set(err, -EINVAL,
				       "'%s': expected fd:N or fd:CONTROL,URGENT,BULK", text);
		for (i = 0; i < n; i++)
			if (uri->fd[i] == uri->fd[n])
				return err_set(err, -EINVAL, "'%s': descriptor %d is named twice",
					       text, uri->fd[n]);
		if (*rest != ',')
			break;
		rest++;
	}
	uri->nfd = n + 1;
	if (*rest || (uri->nfd != 1 && uri->nfd != WIRE_CHANNELS))
		return err_set(err, -EINVAL, "'%s': expected fd:N or fd:CONTROL,URGENT,BULK", text);
	uri->type = URI_FD;
	return 0;
}

int uri_parse(struct uri *uri, const char *text, struct err *err)
{
	*uri = (struct uri){ .fd = { -1, -1, -1 } };
	if (!strncmp(text, "fd:", 3))
		return parse_fd(uri, text, text + 3, err);
	if (strncmp(text, "tcp:", 4) != 0 && strncmp(text, "unix:", 5) != 0)
		return err_set(err, -EINVAL, "'%.80s': expected tcp:HOST:PORT, unix:PATH or fd:N",
			       text);
	uri->type = *text == 't' ? URI_TCP : URI_UNIX;
	return address_parse(&uri->address, text, err);
}
