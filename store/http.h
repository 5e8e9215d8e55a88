/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A store at a plain web server: GET with ranges, PUT and DELETE where the server lets it, no LIST.
 * docs/stores.md tells what it makes of what servers do.
 */
#ifndef POSTERN_STORE_HTTP_H
#define POSTERN_STORE_HTTP_H

#include "store/store.h"
#include "store/url.h"

/*
 * credentials: a file, NULL: from the environment. Connects to nothing. -EINVAL: a parameter, or
 * credentials; -EACCES: they would be sent in clear text; -ENOSYS: built without libcurl, or it is
 * not installed; -ENOMEM; those of opening the file.
 */
int http_store_new(struct store **out, const struct store_url *url, const char *credentials,
		   struct err *err);

#endif
