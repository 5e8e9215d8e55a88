// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "control/qmp_fd.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void qmp_fds_init(struct qmp_fds *fds)
{
	*fds = (struct qmp_fds){ .unnamed = -1 };
}

static void unnamed_drop(struct qmp_fds *fds)
{
	if (fds->unnamed >= 0)
		close(fds->unnamed);
	fds->unnamed = -1;
}

void qmp_fds_fini(struct qmp_fds *fds)
{
	unnamed_drop(fds);
	while (fds->n)
		close(fds->named[--fds->n].fd);
	free(fds->named);
	qmp_fds_init(fds);
}

/* ---- over the socket ---- */

static void qmp_fd_on_closed(uv_handle_t *handle)
{
	free(handle);
}

/*
 * libuv hands on a descriptor in a handle of its own, whatever it is of: a copy of it is taken out
 * of that. -1: there is none, or no memory.
 */
static int receive_one(uv_pipe_t *pipe)
{
	uv_pipe_t *handle = malloc(sizeof(*handle));
	uv_os_fd_t fd;
	int got = -1;

	if (!handle || uv_pipe_init(pipe->loop, handle, 0) < 0) {
		free(handle);
		return -1;
	}
	if (!uv_accept((uv_stream_t *)pipe, (uv_stream_t *)handle) &&
	    !uv_fileno((uv_handle_t *)handle, &fd))
		got = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	uv_close((uv_handle_t *)handle, qmp_fd_on_closed);
	return got;
}

void qmp_fds_receive(struct qmp_fds *fds, uv_pipe_t *pipe)
{
	int left = uv_pipe_pending_count(pipe), fd;
	bool first = true;

	for (; left > 0; left--) {
		fd = receive_one(pipe);
		if (first) {
			unnamed_drop(fds);
			fds->unnamed = fd;
		} else if (fd >= 0) {
			close(fd);
		}
		first = false;
	}
}

/* ---- names ---- */

static struct qmp_fd *named_find(struct qmp_fds *fds, const char *name)
{
	unsigned int i;

	for (i = 0; i < fds->n; i++)
		if (!strcmp(fds->named[i].name, name))
			return &fds->named[i];
	return NULL;
}

/* A place for one of that name; what had the name is closed. */
static struct qmp_fd *named_make(struct qmp_fds *fds, const char *name, struct err *err)
{
	struct qmp_fd *at = named_find(fds, name), *more;

	if (at) {
		close(at->fd);
		return at;
	}
	if (fds->n == QMP_FDS_MAX) {
		err_set(err, -EMFILE, "at most %d file descriptors can have names", QMP_FDS_MAX);
		return NULL;
	}
	more = realloc(fds->named, (fds->n + 1) * sizeof(*more));
	if (!more) {
		err_set(err, -ENOMEM, "no memory for a file descriptor's name");
		return NULL;
	}
	fds->named = more;
	strcpy(more[fds->n].name, name);
	return &more[fds->n++];
}

int qmp_fds_name(struct qmp_fds *fds, const char *name, struct err *err)
{
	struct qmp_fd *at;
	int r = 0;

	if (fds->unnamed < 0)
		return err_set(err, -ENOENT, "No file descriptor supplied via SCM_RIGHTS");
	if (isdigit((unsigned char)*name))
		r = err_set(err, -EINVAL,
			    "Parameter 'fdname' expects a name not starting with a digit");
	else if (!*name || strlen(name) > QMP_FD_NAME_MAX)
		r = err_set(err, -EINVAL, "Parameter 'fdname' expects a name of 1 to %d bytes",
			    QMP_FD_NAME_MAX);
	at = r ? NULL : named_make(fds, name, err);
	if (!at) {
		unnamed_drop(fds);
		return r ? r : err->code;
	}
	at->fd = fds->unnamed;
	fds->unnamed = -1;
	return 0;
}

int qmp_fds_take(struct qmp_fds *fds, const char *name, struct err *err)
{
	struct qmp_fd *at = named_find(fds, name);
	int fd;

	if (!at)
		return err_set(err, -ENOENT, "File descriptor named '%.64s' not found", name);
	fd = at->fd;
	*at = fds->named[--fds->n];
	return fd;
}

/* ---- what is in one ---- */

bool qmp_fd_is_whole(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN | POLLRDHUP };
	struct stat st;

	if (!fstat(fd, &st) && S_ISREG(st.st_mode))
		return true;
	/* Of a pipe or a socket: its other end is closed, and so nothing is waited for. */
	return poll(&p, 1, 0) == 1 && p.revents & (POLLHUP | POLLRDHUP);
}
