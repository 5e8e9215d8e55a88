// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * helper.c - the parent's side of helpers. vfork and not fork: that would copy
 * the page tables of a whole guest; and not posix_spawn, which knows neither of
 * a parent's death nor of rights.
 */
#include "base/helper.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/helper_child.h"
#include "base/log.h"
#include "base/loop.h"

#define LISTEN_PID "LISTEN_PID="
#define PATH_VARIABLE "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

struct helper {
	pid_t pid;		/* 0: it was reaped */
	int status;
	int pidfd, said;
	bool confined;
	uv_poll_t *poll;	/* of pidfd; freed once the loop has let go of it */
	void (*ended)(void *arg);
	void *arg;
};

/* ---- its end ---- */

static void unwatch(struct helper *h)
{
	if (h->poll)
		loop_close((uv_handle_t *)h->poll, h->poll);
	h->poll = NULL;
}

bool helper_runs(struct helper *h)
{
	if (h->pid && waitpid(h->pid, &h->status, WNOHANG) != 0) {
		h->pid = 0;
		unwatch(h);
	}
	return h->pid;
}

static void helper_on_end(uv_poll_t *poll, int status, int events)
{
	struct helper *h = poll->data;

	(void)status;
	(void)events;
	if (!helper_runs(h) && h->ended)
		h->ended(h->arg);
}

static int helper_watch(struct helper *h, struct loop *loop)
{
	int r;

	h->poll = malloc(sizeof(*h->poll));
	if (!h->poll)
		return -ENOMEM;
	r = uv_poll_init(loop_uv(loop), h->poll, h->pidfd);
	if (r < 0) {
		free(h->poll);
		h->poll = NULL;
		return r;
	}
	h->poll->data = h;
	uv_poll_start(h->poll, UV_READABLE, helper_on_end);
	/* A loop that has nothing else to do does not wait for it. */
	uv_unref((uv_handle_t *)h->poll);
	return 0;
}

int helper_end_fd(const struct helper *h)
{
	return h->pidfd;
}

bool helper_is_confined(const struct helper *h)
{
	return h->confined;
}

bool helper_ended_well(const struct helper *h)
{
	return WIFEXITED(h->status) && !WEXITSTATUS(h->status);
}

void helper_describe_end(const struct helper *h, char *to, size_t room)
{
	if (WIFSIGNALED(h->status))
		snprintf(to, room, "was ended by signal %d", WTERMSIG(h->status));
	else
		snprintf(to, room, "ended with status %d", WEXITSTATUS(h->status));
}

char *helper_said(const struct helper *h)
{
	char *text = malloc(HELPER_SAID_BYTES + 1), *at;
	ssize_t n = text ? pread(h->said, text, HELPER_SAID_BYTES, 0) : 0;

	if (!text)
		return NULL;
	text[n < 0 ? 0 : n] = '\0';
	for (at = text; *at; at++)
		if ((*at < ' ' && *at != '\n') || *at > '~')
			*at = '?';
	return text;
}

void helper_ask_to_end(struct helper *h)
{
	if (helper_runs(h))
		kill(h->pid, SIGTERM);
}

void helper_kill(struct helper *h)
{
	if (helper_runs(h))
		kill(h->pid, SIGKILL);
}

bool helper_wait(struct helper *h, int64_t patience_ns)
{
	int64_t end = clock_now_ns() + patience_ns, left;
	struct pollfd event = { .fd = h->pidfd, .events = POLLIN };

	while (helper_runs(h)) {
		left = end - clock_now_ns();
		if (left <= 0)
			return false;
		poll(&event, 1, (int)(left / NS_PER_MS) + 1);
	}
	return true;
}

void helper_leave(struct helper *h)
{
	if (!h)
		return;
	unwatch(h);
	if (h->pidfd >= 0)
		close(h->pidfd);
	if (h->said >= 0)
		close(h->said);
	free(h);
}

void helper_free(struct helper *h, int64_t patience_ns)
{
	if (!h)
		return;
	helper_ask_to_end(h);
	if (!helper_wait(h, patience_ns)) {
		kill(h->pid, SIGKILL);
		waitpid(h->pid, &h->status, 0);
	}
	helper_leave(h);
}

/* ---- its beginning ---- */

static bool is_program(const char *path)
{
	struct stat st;

	return !stat(path, &st) && S_ISREG(st.st_mode) && !access(path, X_OK);
}

/* As a shell would find it. */
static int program_find(char *path, size_t room, const struct helper_config *config,
			struct err *err)
{
	const char *at = getenv("PATH"), *end;
	int len;

	if (strchr(config->program, '/') &&
	    (size_t)snprintf(path, room, "%s", config->program) < room)
		return 0;
	for (at = at ? at : "/usr/bin:/bin"; *at; at = *end ? end + 1 : end) {
		end = strchrnul(at, ':');
		len = (int)(end - at);
		if (len &&
		    (size_t)snprintf(path, room, "%.*s/%s", len, at, config->program) < room &&
		    is_program(path))
			return 0;
	}
	return err_set(err, -ENOENT, "the program %s is missing%s%s", config->program,
		       config->package ? ": apt install " : "",
		       config->package ? config->package : "");
}

/*
 * Of a fixed size from the start: whoever writes past its end gets an error,
 * and memory stays bounded.
 */
static int said_new(void)
{
	int fd = memfd_create("said", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd >= 0 && (ftruncate(fd, HELPER_SAID_BYTES) < 0 ||
			fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0)) {
		close(fd);
		return -1;
	}
	return fd;
}

static pid_t bear(struct helper_birth *birth)
{
	sigset_t all, before;
	pid_t pid;

	/* No handler of ours may run in the child. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pid = vfork();
	if (!pid)
		helper_child(birth);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return pid;
}

static int helper_spawn(struct helper *h, const struct helper_config *config, const char *path,
			struct err *err)
{
	char variable[] = PATH_VARIABLE, locale[] = "LC_ALL=C", fds[] = "LISTEN_FDS=1",
		pid[sizeof(LISTEN_PID) + 16] = LISTEN_PID;
	char *envp[] = { variable, locale, config->flags & HELPER_LISTENS ? fds : NULL, pid, NULL };
	char jail_path[300];
	struct helper_birth birth = {
		.config = config, .path = path, .jail_path = jail_path, .envp = envp,
			.said = h->said, .landlock = -1, .parent = getpid(), .root = !geteuid(),
		.pid_at = pid + strlen(LISTEN_PID),
	};

	snprintf(jail_path, sizeof(jail_path), HELPER_JAIL_DIR "/%.255s", strrchr(path, '/') + 1);
	if (config->flags & HELPER_CONFINED)
		birth.landlock = helper_landlock_new(config, path);
	h->pid = bear(&birth);
	if (birth.landlock >= 0)
		close(birth.landlock);
	if (h->pid < 0) {
		h->pid = 0;
		return err_errno(err, -errno, "starting %s", path);
	}
	h->confined = birth.jailed || birth.locked;
	if (birth.step) {
		waitpid(h->pid, &h->status, 0);
		h->pid = 0;
		return err_errno(err, birth.error, "starting %s: %s", path, birth.step);
	}
	h->pidfd = pidfd_open(h->pid, 0);
	return 0;
}

int helper_start(struct helper **out, struct loop *loop, const struct helper_config *config,
		 struct err *err)
{
	struct helper *h = calloc(1, sizeof(*h));
	char path[512];
	int r;

	if (!h)
		return err_set(err, -ENOMEM, "no memory for %s", config->program);
	h->pidfd = -1;
	h->ended = config->ended;
	h->arg = config->arg;
	h->said = said_new();
	r = h->said < 0 ? err_errno(err, -errno, "memory for what %s says", config->program)
			: program_find(path, sizeof(path), config, err);
	if (!r)
		r = helper_spawn(h, config, path, err);
	if (!r)
		r = h->pidfd < 0 ? -errno : loop ? helper_watch(h, loop) : 0;
	if (r < 0 && h->pid) {
		err_errno(err, r, "watching %s", path);
		helper_kill(h);
		waitpid(h->pid, NULL, 0);
	}
	if (r < 0) {
		helper_leave(h);
		return r;
	}
	*out = h;
	return 0;
}
