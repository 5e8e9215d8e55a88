/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What the files of `postern image` share, and nobody else sees. One thread.
 */
#ifndef POSTERN_CLI_IMAGE_H
#define POSTERN_CLI_IMAGE_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define IMAGE_TAIL_BYTES 4096

struct image {
	const char *name;	/* the file, as it was called */
	char *out;		/* ... and a path that no program takes for an option or a host */
	char *packages;		/* by blanks */
	char *key;
	char size[24];		/* as mke2fs takes it */
	char *password;
	const char *suite, *hostname, *mirror;
	bool help;
	/* Directories that are removed at the end; NULL: not made yet. */
	char *top;		/* beside the file, with the next in it, and mostly the third */
	char *work;
	char *tmp;		/* where mmdebstrap unpacks */
};

struct image_progress {
	bool terminal;
	int64_t start_ns;
	char step[80];
	char line[200];		/* the one that is being received */
	size_t len;
	char tail[IMAGE_TAIL_BYTES + 1];	/* the last that was said */
};

/* ---- image_work.c ---- */

/* -ENOENT: this machine lacks programs; the error names their packages. */
int image_programs_check(struct err *err);
/*
 * The directories; the work goes on beside the file, where there has to be room
 * anyway. -EEXIST: the file is there already.
 */
int image_work_make(struct image *image, struct err *err);
/* Removes those that were made, and says on standard error what it could not. */
void image_work_remove(struct image *image);

/* ---- image_run.c ---- */

/*
 * Runs the recipe to its end. `signals` are blocked, SIGCHLD and those that
 * interrupt it. -EINTR: it was interrupted; -EIO: it failed, and what it said
 * last is in progress->tail.
 */
int image_run(const struct image *image, struct image_progress *progress, const sigset_t *signals,
	      struct err *err);

#endif
