/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What a file's disk asks the kernel for, seen at io_uring_submit, which a test
 * that has this wraps (-Wl,--wrap=io_uring_submit): each write, as a medium
 * with a volatile cache takes it. The kernel does it too. So a loss of power
 * can be had without losing it.
 *
 * One ring at a time. The thread that submits.
 */
#ifndef POSTERN_TESTS_DEVICE_TAPE_H
#define POSTERN_TESTS_DEVICE_TAPE_H

#include <liburing.h>

#include "media.h"

struct tape {
	struct media *media;		/* NULL: nothing is noted */
	int fallocate_error;		/* what fallocate ends with, -EINVAL or -EOPNOTSUPP; 0: it works */
	/* How many there were. */
	unsigned int writes, stable_writes, flushes, fallocates;
	/* Not the test's. */
	struct io_uring *ring;
	unsigned int seen;
};

extern struct tape tape;

/* Begins anew, on a medium or on none. */
void tape_start(struct media *media);
/* What has completed until now. */
void tape_look(void);

int __real_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_submit(struct io_uring *ring);

#endif
