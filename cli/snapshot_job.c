// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "cli/snapshot_job.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/thread.h"
#include "base/types.h"
#include "cli/ctl.h"
#include "cli/ctl_text.h"

#define LOOK_MS 200
#define LINE_MS 5000
/* Longer than a writer takes to remove what it has written. */
#define HANGS_NS (7 * NS_PER_SEC)

static void job_clear_line(const struct snapshot_job *job)
{
	if (job->terminal)
		fputs("\r\033[K", stderr);
}

static void job_show(struct snapshot_job *job)
{
	char all[CTL_BYTES_MAX];

	pthread_mutex_lock(&job->lock);
	if (job->total && (job->terminal || !job->quiet)) {
		job_clear_line(job);
		fprintf(stderr, "%s: %" PRIu64 " %% of %s%s", job->title,
			(uint64_t)((double)job->done / (double)job->total * 100.0),
			ctl_bytes(all, job->total << PAGE_SHIFT), job->terminal ? "" : "\n");
		fflush(stderr);
	}
	pthread_mutex_unlock(&job->lock);
}

void snapshot_job_progress(struct snapshot_job *job, uint64_t done, uint64_t total)
{
	pthread_mutex_lock(&job->lock);
	job->done = done;
	job->total = total;
	pthread_mutex_unlock(&job->lock);
}

void snapshot_job_say(struct snapshot_job *job, const char *text)
{
	pthread_mutex_lock(&job->lock);
	job_clear_line(job);
	ctl_put(stderr, text);
	putc('\n', stderr);
	fflush(stderr);
	pthread_mutex_unlock(&job->lock);
}

bool snapshot_job_is_interrupted(struct snapshot_job *job)
{
	bool interrupted;

	pthread_mutex_lock(&job->lock);
	interrupted = job->interrupted;
	pthread_mutex_unlock(&job->lock);
	return interrupted;
}

static void *job_main(void *arg)
{
	struct snapshot_job *job = arg;

	pthread_setname_np(pthread_self(), "snapshot-job");
	job->result = job->work(job, job->arg, &job->err);
	eventfd_write(job->wake_fd, 1);
	return NULL;
}

static void job_interrupt(struct snapshot_job *job)
{
	pthread_mutex_lock(&job->lock);
	job->interrupted = true;
	pthread_mutex_unlock(&job->lock);
	store_scope_cancel(&job->scope);
}

/* Until the work has ended. */
static void job_follow(struct snapshot_job *job, int signal_fd)
{
	struct pollfd fds[] = { { .fd = job->wake_fd, .events = POLLIN },
				{ .fd = signal_fd, .events = POLLIN } };
	struct signalfd_siginfo info;
	int64_t end_ns = INT64_MAX;

	for (;;) {
		int n = poll(fds, 2, job->terminal || end_ns != INT64_MAX ? LOOK_MS : LINE_MS);

		if (n > 0 && fds[0].revents)
			return;
		if (n > 0 && fds[1].revents &&
		    read(signal_fd, &info, sizeof(info)) == sizeof(info)) {
			job_interrupt(job);
			if (end_ns == INT64_MAX)
				end_ns = clock_now_ns() + HANGS_NS;
		}
		if (clock_now_ns() >= end_ns) {
			fprintf(stderr, "%s: interrupted while the store does not answer\n",
				job->title);
			_exit(CTL_INTERRUPTED);
		}
		if (!n && end_ns == INT64_MAX)
			job_show(job);
	}
}

static int job_signals(struct err *err)
{
	sigset_t set;
	int fd;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return fd < 0 ? err_errno(err, -errno, "signalfd") : fd;
}

/* The thread has ended, or never was. */
static int job_verdict(struct snapshot_job *job, struct err *err)
{
	if (job->result == -ECANCELED && job->interrupted)
		return err_set(err, -EINTR, "%s: interrupted", job->title);
	if (job->result < 0 && err)
		*err = job->err;
	return job->result;
}

int snapshot_job_run(struct snapshot_job *job,
		     int (*work)(struct snapshot_job *job, void *arg, struct err *err), void *arg,
		     struct err *err)
{
	int signal_fd = job_signals(err), r = signal_fd;
	pthread_t thread;

	if (r < 0)
		return r;
	job->work = work;
	job->arg = arg;
	job->terminal = isatty(STDERR_FILENO);
	job->wake_fd = eventfd(0, EFD_CLOEXEC);
	store_scope_init(&job->scope);
	pthread_mutex_init(&job->lock, NULL);
	r = job->wake_fd < 0 ? -errno : thread_start(&thread, job_main, job);
	if (!r) {
		job_follow(job, signal_fd);
		pthread_join(thread, NULL);
		job_clear_line(job);
		r = job_verdict(job, err);
	} else {
		err_errno(err, r, "starting a thread");
	}
	pthread_mutex_destroy(&job->lock);
	store_scope_fini(&job->scope);
	close(job->wake_fd);
	close(signal_fd);
	return r;
}
