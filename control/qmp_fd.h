/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Descriptors that a QMP client has passed over its unix socket (SCM_RIGHTS): the
 * one that came last and has no name yet, and those that got one by getfd. They
 * are the client's own: no other sees them, and those that nothing has taken are
 * closed with its connection.
 *
 * Main thread only.
 */
#ifndef POSTERN_CONTROL_QMP_FD_H
#define POSTERN_CONTROL_QMP_FD_H

#include <stdbool.h>
#include <uv.h>

#include "base/err.h"

#define QMP_FDS_MAX 64
#define QMP_FD_NAME_MAX 127

struct qmp_fd {
	char name[QMP_FD_NAME_MAX + 1];
	int fd;
};

struct qmp_fds {
	int unnamed; /* -1: none */
	struct qmp_fd *named;
	unsigned int n;
};

void qmp_fds_init(struct qmp_fds *fds);
/* Closes all. */
void qmp_fds_fini(struct qmp_fds *fds);
/*
 * Those that came with what was just read of a pipe that takes descriptors: the
 * first is without a name from now on, in place of one that was; others are closed.
 */
void qmp_fds_receive(struct qmp_fds *fds, uv_pipe_t *pipe);
/*
 * Gives the one without a name this one, in place of another that had it. -EINVAL: it begins
 * with a digit, is empty or too long; -ENOENT: none has come; -EMFILE; -ENOMEM. It is closed then.
 */
int qmp_fds_name(struct qmp_fds *fds, const char *name, struct err *err);
/* The caller's from now on. -ENOENT. */
int qmp_fds_take(struct qmp_fds *fds, const char *name, struct err *err);
/* Is all of it there, its end too, so that whoever reads it does not wait? */
bool qmp_fd_is_whole(int fd);

#endif
