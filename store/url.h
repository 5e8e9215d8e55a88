/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A store's URL in parts. What is in it comes from a command line or a file: bounded, checked, no
 * control characters, no user or password (those would be seen by everybody: `ps`).
 */
#ifndef POSTERN_STORE_URL_H
#define POSTERN_STORE_URL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#define STORE_URL_MAX 1024
#define STORE_URL_PARAMETERS_MAX 8

enum store_scheme { STORE_DIR, STORE_HTTP, STORE_HTTPS, STORE_S3, STORE_RADOS };

/* Decoded. */
struct store_parameter {
	char name[32];
	char value[256];
};

struct store_url {
	enum store_scheme scheme;
	char host[256];		/* of S3: the bucket; of RADOS: the pool; IPv6 in brackets; DIR: empty */
	unsigned int port;	/* 0: the scheme's own */
	/*
	 * DIR: as given. Else decoded, without a '/' at its end or (S3, RADOS) its
	 * beginning: "" for the root.
	 */
	char path[STORE_URL_MAX];
	unsigned int parameters;	/* each name once */
	struct store_parameter parameter[STORE_URL_PARAMETERS_MAX];
};

/* -EINVAL; the error shows the forms there are, and nothing of a URL that may hold a secret. */
int store_url_parse(struct store_url *url, const char *text, struct err *err);
/* The value of a parameter, or NULL. */
const char *store_url_get(const struct store_url *url, const char *name);
/* -EINVAL for a parameter that is in none of `known` (ends with NULL). */
int store_url_only(const struct store_url *url, const char *const *known, struct err *err);

#endif
