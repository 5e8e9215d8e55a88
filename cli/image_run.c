// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * image_run.c - the recipe's run: a shell with its text, in a process group of
 * its own. How far it is goes to standard error, its last words are kept for
 * when it fails, and a signal ends all that it has started.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/image.h"

/* Those that were asked to end get as long to tidy up. */
#define PATIENCE_MS 20000
/* For what is killed to go, and for what the recipe leaves running to let go of its output. */
#define LINGER_MS 3000

static const char recipe[] =
#include "cli/recipes.h"
	;

/* ---- how far it is ---- */

static void progress_show(const struct image_progress *p, const char *detail)
{
	unsigned int s = (unsigned int)((clock_now_ns() - p->start_ns) / 1000000000u);

	if (p->terminal)
		fprintf(stderr, "\r\033[K%3u s  %s%s%.50s", s, p->step, *detail ? ": " : "",
			detail);
}

static void progress_line(struct image_progress *p)
{
	size_t len, old = strlen(p->tail);
	char *at;

	p->line[p->len] = '\0';
	for (at = p->line; *at; at++)
		if ((unsigned char)*at < ' ' || *at == 0x7f)
			*at = ' ';
	len = p->len;
	p->len = 0;
	if (!strncmp(p->line, "== ", 3)) {
		snprintf(p->step, sizeof(p->step), "%.79s", p->line + 3);
		if (!p->terminal)
			fprintf(stderr, "%s\n", p->step);
		progress_show(p, "");
		return;
	}
	if (old + len + 1 > IMAGE_TAIL_BYTES) {
		memmove(p->tail, p->tail + IMAGE_TAIL_BYTES / 2, old - IMAGE_TAIL_BYTES / 2 + 1);
		old = strlen(p->tail);
	}
	memcpy(p->tail + old, p->line, len);
	strcpy(p->tail + old + len, "\n");
	progress_show(p, strncmp(p->line, "I: ", 3) ? p->line : p->line + 3);
}

static void progress_take(struct image_progress *p, const char *data, size_t len)
{
	for (; len; len--, data++) {
		if (*data == '\n' || *data == '\r')
			progress_line(p);
		else if (p->len < sizeof(p->line) - 1)
			p->line[p->len++] = *data;
	}
}

/* ---- its processes ---- */

static int environment_set(const struct image *image)
{
	const struct {
		const char *name, *value;
	} all[] = {
		{ "IMAGE_OUT", image->out },	       { "IMAGE_WORK", image->work },
		{ "IMAGE_SIZE", image->size },	       { "IMAGE_SUITE", image->suite },
		{ "IMAGE_PACKAGES", image->packages }, { "IMAGE_HOSTNAME", image->hostname },
		{ "IMAGE_PASSWORD", image->password }, { "IMAGE_KEY", image->key },
		{ "IMAGE_MIRROR", image->mirror },     { "TMPDIR", image->tmp },
	};
	size_t i;

	for (i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		if (setenv(all[i].name, all[i].value ? all[i].value : "", 1))
			return -errno;
	return 0;
}

/* In a process group of its own, so that all of it can be ended. */
static int image_run_spawn(pid_t *pid, int output, struct err *err)
{
	char *words[] = { "sh", "-c", (char *)recipe, "postern-image", NULL };
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t none;
	int r;

	sigemptyset(&none);
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&files, output, 1);
	posix_spawn_file_actions_adddup2(&files, output, 2);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setpgroup(&attr, 0);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
	r = posix_spawn(pid, "/bin/sh", &files, &attr, words, environ);
	posix_spawn_file_actions_destroy(&files);
	posix_spawnattr_destroy(&attr);
	return r ? err_errno(err, -r, "/bin/sh") : 0;
}

static bool has_ended(pid_t pid)
{
	siginfo_t info = { 0 };

	/* It is reaped later: until then nobody else has its number, nor its group's. */
	return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || info.si_pid;
}

/*
 * Until the recipe has ended, and all who can write to the pipe; the latter
 * only for a while, since a server that a package has started may have it. Ends
 * early when it was interrupted, and they have had their time. Returns the
 * signal, or 0.
 */
static int image_run_follow(struct image_progress *p, pid_t pid, int pipe_fd, int signal_fd)
{
	struct pollfd fds[] = { { .fd = pipe_fd, .events = POLLIN },
				{ .fd = signal_fd, .events = POLLIN } };
	struct signalfd_siginfo info;
	int64_t end_ns = INT64_MAX, last_ns = INT64_MAX;
	int sig = 0;
	char data[4096];
	ssize_t n;

	for (;;) {
		if (poll(fds, 2, 500) < 0 && errno != EINTR)
			break;
		if (fds[1].revents && read(signal_fd, &info, sizeof(info)) == sizeof(info) &&
		    info.ssi_signo != SIGCHLD) {
			if (sig)	/* the second one */
				end_ns = 0;
			else
				end_ns = clock_now_ns() + PATIENCE_MS * INT64_C(1000000);
			sig = (int)info.ssi_signo;
			kill(-pid, SIGTERM);
		}
		if (last_ns == INT64_MAX && has_ended(pid))
			last_ns = clock_now_ns() + LINGER_MS * INT64_C(1000000);
		if (clock_now_ns() >= end_ns || clock_now_ns() >= last_ns ||
		    (fds[0].fd < 0 && last_ns != INT64_MAX))
			break;
		if (!fds[0].revents) {
			progress_show(p, "");
			continue;
		}
		n = read(pipe_fd, data, sizeof(data));
		if (n <= 0)
			fds[0].fd = -1;
		else
			progress_take(p, data, (size_t)n);
		fds[0].revents = 0;
	}
	return sig;
}

/* Kills whose parent this process is, or has become. */
static void children_kill(void)
{
	char path[300], stat[300], *at;
	struct dirent *entry;
	DIR *all = opendir("/proc");
	FILE *file;
	int parent;

	while (all && (entry = readdir(all))) {
		if (!isdigit((unsigned char)*entry->d_name))
			continue;
		snprintf(path, sizeof(path), "/proc/%s/stat", entry->d_name);
		file = fopen(path, "re");
		if (!file)
			continue;
		at = fgets(stat, sizeof(stat), file) ? strrchr(stat, ')') : NULL;
		fclose(file);
		if (at && sscanf(at, ") %*c %d", &parent) == 1 && parent == getpid())
			kill(atoi(entry->d_name), SIGKILL);
	}
	if (all)
		closedir(all);
}

/*
 * What the recipe has started goes with it, also what has left its process
 * group: what it wrote is about to be removed. Those whose parents end become
 * children of this process. Returns the recipe's status, or -1.
 */
static int all_end(pid_t pid)
{
	int64_t end_ns = clock_now_ns() + LINGER_MS * INT64_C(1000000);
	const struct timespec moment = { .tv_nsec = 10000000 };
	int status, result = -1;
	bool reaped = false;
	pid_t who;

	for (;;) {
		if (!reaped)
			kill(-pid, SIGKILL);
		children_kill();
		while ((who = waitpid(-1, &status, WNOHANG)) > 0)
			if (who == pid) {
				result = status;
				reaped = true;
			}
		if (who < 0 && errno != EINTR)
			return result;
		if (clock_now_ns() >= end_ns)
			break;
		nanosleep(&moment, NULL);
	}
	fputs("postern image: a process that it has started does not end\n", stderr);
	return result;
}

int image_run(const struct image *image, struct image_progress *p, const sigset_t *signals,
	      struct err *err)
{
	int fds[2], signal_fd, sig, status;
	pid_t pid;

	if (environment_set(image) < 0)
		return err_set(err, -ENOMEM, "no memory");
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	signal_fd = signalfd(-1, signals, SFD_CLOEXEC);
	if (signal_fd < 0 || pipe2(fds, O_CLOEXEC) < 0) {
		err_errno(err, -errno, "pipe");
		close(signal_fd);
		return err->code;
	}
	if (image_run_spawn(&pid, fds[1], err) < 0) {
		close(fds[1]);
		goto out;
	}
	close(fds[1]);
	sig = image_run_follow(p, pid, fds[0], signal_fd);
	status = all_end(pid);
	/* When it was interrupted too late, the image is there. */
	if (status && sig)
		err_set(err, -EINTR, "interrupted");
	else if (status)
		err_set(err, -EIO, "it failed; what it said stands above");
out:
	close(fds[0]);
	close(signal_fd);
	return err->code;
}
