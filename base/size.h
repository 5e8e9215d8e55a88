/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Sizes as people write them. Pure.
 */
#ifndef POSTERN_BASE_SIZE_H
#define POSTERN_BASE_SIZE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* "200", "200M": bytes, with K, M, G or T of 1024, and so on, in either case. 0 or -EINVAL. */
int size_parse(uint64_t *bytes, const char *text);

/*
 * "PATH" or "PATH,limit=SIZE" of a file with a limit (rotate.h): path gets
 * PATH, which may have commas of its own; *limit the size, 0: no limit, or
 * ROTATE_LIMIT_DEFAULT. 0; -EINVAL: no path, no such size, or another option
 * (path_option);
 * -ENAMETOOLONG: path has no room for it.
 */
int size_parse_limited(char *path, size_t room, uint64_t *limit, const char *text, struct err *err);

#endif
