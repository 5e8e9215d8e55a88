/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A new file that is there whole or not at all: it has no name while it is
 * written, and gets it when it is done. Where the file system has no nameless
 * files it has its name from the start, and loses it when it is not finished.
 * Mode 0600. One thread.
 */
#ifndef POSTERN_BASE_WHOLE_FILE_H
#define POSTERN_BASE_WHOLE_FILE_H

#include <stdbool.h>

#include "base/err.h"

struct whole_file {
	const char *path;
	int fd; /* for reading and writing */
	bool named, finished;
};

/* -EEXIST: there is one of that name; open(2)'s errors. path is borrowed. */
int whole_file_open(struct whole_file *file, const char *path, struct err *err);
/* Syncs it, and gives it its name. -EEXIST: somebody was faster; fsync(2)'s errors. */
int whole_file_finish(struct whole_file *file, struct err *err);
/* Closes it; one that is not finished is gone. */
void whole_file_close(struct whole_file *file);

#endif
