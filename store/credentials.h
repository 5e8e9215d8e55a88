/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Logins for stores, from the environment or a file; never from a command line, which everybody on
 * the host can read. Nothing here prints a secret.
 *
 * The file has AWS's format for both kinds: sections in brackets, NAME = VALUE, comments with # or
 * ;. At a plain web server `user` and `password`, or `token`.
 */
#ifndef POSTERN_STORE_CREDENTIALS_H
#define POSTERN_STORE_CREDENTIALS_H

#include <stddef.h>

#include "base/err.h"
#include "store/web.h"

#define CREDENTIALS_FILE_MAX (64u << 10)

/*
 * The value of `name` in a section of a file's text; out is "" where there is
 * none. -EMSGSIZE: it is longer than out. Pure.
 */
int credentials_find(const char *text, size_t len, const char *section, const char *name, char *out,
		     size_t size);

/*
 * Fill in kind, user, secret and session; ANONYMOUS where nothing is given.
 * `file` NULL: the environment. AWS: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY
 * and AWS_SESSION_TOKEN, or else the file AWS_SHARED_CREDENTIALS_FILE or
 * ~/.aws/credentials if it is there; of a file the section AWS_PROFILE or
 * "default". A web server: POSTERN_HTTP_TOKEN, or POSTERN_HTTP_USER and
 * POSTERN_HTTP_PASSWORD. -EINVAL: a part is missing, or too long; -EFBIG; those
 * of open and read.
 */
int credentials_aws(struct web_login *login, const char *file, struct err *err);
int credentials_http(struct web_login *login, const char *file, struct err *err);

#endif
