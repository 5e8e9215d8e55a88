/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Work on images that may take long and has no machine: it goes on on a thread
 * of its own, while the main thread shows how far it is, on a terminal all the
 * time and elsewhere every 5 s, and hears of SIGINT, SIGTERM and SIGHUP, which
 * end it at once. All of it is on standard error.
 */
#ifndef POSTERN_CLI_SNAPSHOT_JOB_H
#define POSTERN_CLI_SNAPSHOT_JOB_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "store/store.h"

struct snapshot_job {
	const char *title; /* begins each line, such as "verify web1" */
	bool quiet; /* no line of how far it is, but on a terminal */
	/* Waits of the work's; cancelled when a signal comes. */
	struct store_scope scope;

	/* snapshot_job.c's own */
	bool terminal;
	int (*work)(struct snapshot_job *job, void *arg, struct err *err);
	void *arg;
	int result, wake_fd;
	struct err err;
	pthread_mutex_t lock; /* guards the rest, and standard error */
	bool interrupted;
	uint64_t done, total;
};

/*
 * Calls work on a thread, and returns what it returned. -EINTR: a signal came before it was done.
 * One that has not ended 7 s after a signal hangs where nothing can be cancelled (a folder that
 * does not answer): then the process ends. title and quiet are set, all else is zero.
 */
int snapshot_job_run(struct snapshot_job *job,
		     int (*work)(struct snapshot_job *job, void *arg, struct err *err), void *arg,
		     struct err *err);

/* For the work, on any thread. Pages: */
void snapshot_job_progress(struct snapshot_job *job, uint64_t done, uint64_t total);
/* A line for people, without its newline and with whatever in it. */
void snapshot_job_say(struct snapshot_job *job, const char *text);
/* Has a signal come? Whoever does not wait in the scope asks this now and then. */
bool snapshot_job_is_interrupted(struct snapshot_job *job);

#endif
