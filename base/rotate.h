/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A file that is written for as long as a machine lives, and does not grow with
 * it: where the next piece would take it over its limit, it becomes PATH.1,
 * which replaces what bore that name, and a new PATH begins. So there are the
 * newest bytes, at least `limit` and at most twice `limit` of them.
 *
 * Several processes may append to one file: whoever finds it over its limit
 * moves it away, and the others notice that it is another's file now. What is
 * no regular file has no limit. One thread at a time.
 */
#ifndef POSTERN_BASE_ROTATE_H
#define POSTERN_BASE_ROTATE_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

#define ROTATE_LIMIT_DEFAULT (UINT64_C(16) << 20)
/* No limit that the largest piece would go over. */
#define ROTATE_LIMIT_MIN (UINT64_C(128) << 10)

struct rotate {
	char path[PATH_MAX];
	uint64_t limit;		/* bytes; 0: none */
	mode_t mode;
	int fd;			/* stays the same number */
	bool refused;		/* the last attempt to move it away failed */
};

/*
 * Opens (outfile.h) a file to be appended to, and made if it is not there.
 * empty: what it has goes. limit: 0, or at least ROTATE_LIMIT_MIN.
 * 0, or outfile_open's errors; -ENAMETOOLONG.
 */
int rotate_open(struct rotate *rotate, const char *path, uint64_t limit, mode_t mode, bool empty,
		struct err *err);
void rotate_close(struct rotate *rotate);
/*
 * Before `len` bytes are written. 0; or, once for each reason that begins, a
 * negative errno: the file cannot be moved away, and was emptied instead.
 */
int rotate_make_room(struct rotate *rotate, size_t len);

#endif
