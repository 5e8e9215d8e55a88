/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What the files of the folder's store share: the store, and a job, which is a request that could
 * not be done at once.
 *
 * A job has memory of its own, since its thread may hang in the kernel for as long as it likes. It
 * reaches the caller's memory only between dir_job_use and dir_job_release; a cancel parts the two
 * at any other moment, and then the job goes on for nobody until the kernel lets it go.
 */
#ifndef POSTERN_STORE_DIR_INTERNAL_H
#define POSTERN_STORE_DIR_INTERNAL_H

#include <linux/openat2.h>

#include "store/store.h"

/* Threads that PUT, DELETE and LIST, and GET what the io_uring does not; two are for the urgent. */
#define DIR_THREADS 8
#define DIR_THREADS_URGENT 2
/* Jobs for nobody, that the kernel has still: beyond these, new ones are refused. */
#define DIR_LOST_MAX 64
/* Jobs that the io_uring has at a time. */
#define DIR_RING_JOBS 128
/* The job's own memory at a time. */
#define DIR_CHUNK_BYTES ((size_t)1 << 20)

struct dir;
struct dir_ring;
struct dir_read;

struct dir_job {
	struct dir *dir;
	struct store_request *request;	/* the dir's lock; NULL: it was cancelled */
	bool used;			/* the same: somebody is at the request's memory */
	enum store_verb verb;
	unsigned int flags;
	uint64_t offset;
	size_t len, got;		/* GET: of len bytes, so many have come */
	struct dir_job *next;
	bool in_ring;			/* the io_uring has it, with what is in read */
	struct dir_read *read;
	struct err err;			/* without label and object */
	char object[STORE_NAME_MAX + 1];
};

struct dir_queue {
	struct dir_job *first, **last;
};

struct dir {
	struct store store;
	int fd;
	bool local;			/* its file system never waits for a server */

	pthread_mutex_t lock;		/* what follows */
	pthread_cond_t work, answer;
	struct dir_queue urgent, bulk;
	struct store_request *cancelled;	/* to be told so, by the thread for that */
	unsigned int lost;		/* jobs that were cancelled and are not over */
	unsigned int queued, idle, bulk_running;
	unsigned int threads;		/* started */
	bool stopping;
	pthread_t thread[DIR_THREADS + 1];	/* the first answers cancels */
	/* NULL: there is none (yet); its own thread is ring_thread. */
	struct dir_ring *ring;
	bool ring_tried;
	unsigned int ring_jobs;
	pthread_t ring_thread;
	unsigned int refs;		/* the store's user, and each thread */
};

/* ---- dir.c ---- */

/*
 * The job's request: its memory, and its name function, may be used until dir_job_release, and
 * nobody sleeps meanwhile. NULL: it was cancelled, and the job ends as soon as it can.
 */
struct store_request *dir_job_use(struct dir_job *job);
void dir_job_release(struct dir_job *job);
/* Is it for nobody? */
bool dir_job_is_cancelled(struct dir_job *job);
/* Puts the next n bytes of a GET where they are wanted. 0, or -ECANCELED. */
int dir_job_deliver(struct dir_job *job, const uint8_t *chunk, size_t n);
/* The job is over; a negative result's text is in job->err. Frees it. */
void dir_job_end(struct dir_job *job, int64_t result);
/* A thread ends. */
void dir_put_ref(struct dir *dir);
/* The io_uring's thread: is there nothing to be done any more? */
bool dir_ring_is_over(struct dir *dir);

/* ---- dir_file.c: in the calling thread, however long it takes; as a request's result ---- */

int64_t dir_get(struct dir_job *job);
int64_t dir_put(struct dir_job *job);
int64_t dir_delete(struct dir_job *job);
int64_t dir_list(struct dir_job *job);
/* A GET has what there is: is that enough? */
int64_t dir_get_end(struct dir_job *job);

/* ---- dir_ring.c ---- */

/* 0, or a negative errno where there is no io_uring. With the dir's lock held. */
int dir_ring_start(struct dir *dir);
/* Nothing is under way. */
void dir_ring_free(struct dir *dir);
void *dir_ring_main(void *arg);
/* Without the lock: begins a GET. -ENOMEM: it was not. */
int dir_ring_get(struct dir_job *job);
/* Nobody waits for the job any more. With the lock held. */
void dir_ring_cancel(struct dir *dir, const struct dir_job *job);
/* Lets the thread look whether it is over. */
void dir_ring_wake(struct dir *dir);

/* ---- dir_path.c ---- */

/* openat2 beneath the folder; -errno. resolve: further RESOLVE_ flags. */
int dir_open_beneath(const struct dir *dir, const char *path, uint64_t flags, uint64_t resolve);
struct open_how dir_how(uint64_t flags, uint64_t resolve);
/* 0: a file of such a mode is an object. */
int dir_check_mode(unsigned int mode, struct err *err);
/*
 * The folder that has the object, open for fsync, and the object's name in it. With `make` it is
 * made, and lasts.
 */
int dir_open_parent(const struct dir *dir, const char *object, bool make, const char **last,
		    struct err *err);
/* What an errno of a call means here. Returns the request's result. */
int dir_explain(struct err *err, int code);

#endif
