// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// The folder's store: what is in the page cache is read at once, all else becomes a job for a
// thread. See dir.h; dir_file.c has what the threads do.
#include "store/dir.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/cond.h"
#include "base/thread.h"
#include "store/dir_internal.h"

/* More than that is not copied in the thread of whoever asks. */
#define INLINE_BYTES ((size_t)1 << 20)

static struct dir *dir_of(struct store *store)
{
	return (struct dir *)store;	/* the first member */
}

/* ---- at once ---- */

/* Opens and reads with RWF_NOWAIT are known never to wait for another machine or process. */
static bool is_local(int fd)
{
	static const long local[] = {
		EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC,  BTRFS_SUPER_MAGIC,
		TMPFS_MAGIC,	  F2FS_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC,
	};
	struct statfs fs;
	size_t i;

	if (fstatfs(fd, &fs) < 0)
		return false;
	for (i = 0; i < sizeof(local) / sizeof(local[0]); i++)
		if ((long)fs.f_type == local[i])
			return true;
	return false;
}

/* Reads what the page cache has; *end: the object ends behind it. */
static size_t read_cached(int fd, const struct store_request *request, bool *end)
{
	struct stat st;
	struct iovec iov;
	size_t got = 0;
	ssize_t n = 1;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return 0;
	while (got < request->len && n > 0) {
		iov.iov_base = (uint8_t *)request->data + got;
		iov.iov_len = request->len - got;
		n = preadv2(fd, &iov, 1, (off_t)(request->offset + got), RWF_NOWAIT);
		got += n > 0 ? (size_t)n : 0;
	}
	*end = !n && request->offset + got >= (uint64_t)st.st_size;
	return got;
}

/*
 * What the request comes to, if that is known without waiting, as it is where the kernel knows
 * that there is no such file. Else -EAGAIN; *got bytes could be had.
 */
static int64_t get_cached(struct dir *dir, struct store_request *request, size_t *got)
{
	bool end = false, whole;
	int fd;

	if (!dir->local || request->len > INLINE_BYTES)
		return -EAGAIN;
	fd = dir_open_beneath(dir, request->object, O_RDONLY, RESOLVE_CACHED | RESOLVE_NO_XDEV);
	if (fd < 0)
		return fd == -ENOENT ? fd : -EAGAIN;
	*got = read_cached(fd, request, &end);
	close(fd);
	whole = (request->len && *got == request->len) || (end && request->flags & STORE_UP_TO);
	return whole ? (int64_t)*got : -EAGAIN;
}

/* ---- jobs ---- */

static struct dir_job *dir_job_new(struct dir *dir, struct store_request *request, size_t got)
{
	struct dir_job *job = calloc(1, sizeof(*job));

	if (!job)
		return NULL;
	job->dir = dir;
	job->request = request;
	job->verb = request->verb;
	job->flags = request->flags;
	job->offset = request->offset;
	job->len = request->len;
	job->got = got;
	/* Checked by store_begin. */
	snprintf(job->object, sizeof(job->object), "%s", request->object);
	return job;
}

static void dir_queue_push(struct dir_queue *queue, struct dir_job *job)
{
	job->next = NULL;
	*queue->last = job;
	queue->last = &job->next;
}

static struct dir_job *dir_queue_pop(struct dir_queue *queue)
{
	struct dir_job *job = queue->first;

	queue->first = job->next;
	if (!queue->first)
		queue->last = &queue->first;
	return job;
}

/* Was it there? */
static bool dir_queue_take(struct dir_queue *queue, struct dir_job *job)
{
	struct dir_job **link;

	for (link = &queue->first; *link && *link != job; link = &(*link)->next)
		;
	if (!*link)
		return false;
	*link = job->next;
	if (!*link)
		queue->last = link;
	return true;
}

static struct dir_queue *queue_of(struct dir *dir, unsigned int flags)
{
	return flags & STORE_URGENT ? &dir->urgent : &dir->bulk;
}

/* Parts a job from its request, which is told that it was cancelled. With the lock held. */
static void job_part(struct dir_job *job)
{
	struct store_request *request = job->request;
	struct dir *dir = job->dir;

	job->request = NULL;
	request->own = NULL;
	request->next = dir->cancelled;
	dir->cancelled = request;
	pthread_cond_signal(&dir->answer);
}

struct store_request *dir_job_use(struct dir_job *job)
{
	struct store_request *request;

	pthread_mutex_lock(&job->dir->lock);
	request = job->request;
	job->used = request != NULL;
	pthread_mutex_unlock(&job->dir->lock);
	return request;
}

void dir_job_release(struct dir_job *job)
{
	pthread_mutex_lock(&job->dir->lock);
	job->used = false;
	/* It came while the memory was used. */
	if (store_is_cancelled(job->request)) {
		job_part(job);
		job->dir->lost++;
	}
	pthread_mutex_unlock(&job->dir->lock);
}

bool dir_job_is_cancelled(struct dir_job *job)
{
	bool cancelled;

	pthread_mutex_lock(&job->dir->lock);
	cancelled = !job->request;
	pthread_mutex_unlock(&job->dir->lock);
	return cancelled;
}

void dir_job_end(struct dir_job *job, int64_t result)
{
	struct store *store = &job->dir->store;
	struct store_request *request;

	pthread_mutex_lock(&job->dir->lock);
	request = job->request;
	if (request)
		request->own = NULL;
	else
		job->dir->lost--;
	job->dir->ring_jobs -= job->in_ring;
	pthread_mutex_unlock(&job->dir->lock);
	if (request && result < 0)
		store_fail(store, request, (int)result, "%s", job->err.text);
	else if (request)
		store_done(request, result);
	free(job);
}

static void dir_cancel(struct store *store, struct store_request *request)
{
	struct dir *dir = dir_of(store);
	struct dir_job *job;
	bool in_ring = false;

	pthread_mutex_lock(&dir->lock);
	job = request->own;
	if (job && !job->used) {
		job_part(job);
		in_ring = job->in_ring;
		if (!in_ring && dir_queue_take(queue_of(dir, job->flags), job)) {
			dir->queued--;
			free(job);
		} else {
			dir->lost++;
		}
		/* With the lock still held: else its address might be another job's by then. */
		if (in_ring)
			dir_ring_cancel(dir, job);
	}
	pthread_mutex_unlock(&dir->lock);
}

/* ---- threads ---- */

/* Frees the store with the last who had it. */
void dir_put_ref(struct dir *dir)
{
	bool last;

	pthread_mutex_lock(&dir->lock);
	last = !--dir->refs;
	pthread_mutex_unlock(&dir->lock);
	if (!last)
		return;
	dir_ring_free(dir);
	close(dir->fd);
	pthread_cond_destroy(&dir->work);
	pthread_cond_destroy(&dir->answer);
	pthread_mutex_destroy(&dir->lock);
	free(dir);
}

/* Tells requests that they were cancelled: whoever does their work may be held up. */
static void *answer_main(void *arg)
{
	struct dir *dir = arg;
	struct store_request *request;

	pthread_mutex_lock(&dir->lock);
	while (dir->cancelled || !dir->stopping) {
		request = dir->cancelled;
		if (!request) {
			cond_wait(&dir->answer, &dir->lock, INT64_MAX);
			continue;
		}
		dir->cancelled = request->next;
		pthread_mutex_unlock(&dir->lock);
		store_fail(&dir->store, request, -ECANCELED, "cancelled");
		pthread_mutex_lock(&dir->lock);
	}
	pthread_mutex_unlock(&dir->lock);
	dir_put_ref(dir);
	return NULL;
}

/* The next job that may be done now. With the lock held. */
static struct dir_job *next_job(struct dir *dir)
{
	struct dir_queue *queue = &dir->urgent;

	if (!queue->first) {
		queue = &dir->bulk;
		if (!queue->first || dir->bulk_running >= DIR_THREADS - DIR_THREADS_URGENT)
			return NULL;
		dir->bulk_running++;
	}
	dir->queued--;
	return dir_queue_pop(queue);
}

static void run_job(struct dir_job *job)
{
	static int64_t (*const run[])(struct dir_job *) = { dir_get, dir_put, dir_delete,
							    dir_list };

	dir_job_end(job, run[job->verb](job));
}

static void *dir_worker_main(void *arg)
{
	struct dir *dir = arg;
	struct dir_job *job;
	bool urgent;

	pthread_mutex_lock(&dir->lock);
	while (!dir->stopping) {
		job = next_job(dir);
		if (!job) {
			dir->idle++;
			cond_wait(&dir->work, &dir->lock, INT64_MAX);
			dir->idle--;
			continue;
		}
		urgent = job->flags & STORE_URGENT;
		pthread_mutex_unlock(&dir->lock);
		run_job(job);
		pthread_mutex_lock(&dir->lock);
		dir->bulk_running -= !urgent;
	}
	pthread_mutex_unlock(&dir->lock);
	dir_put_ref(dir);
	return NULL;
}

/* With the lock held. */
static int dir_start_thread(struct dir *dir)
{
	bool answers = !dir->threads;
	pthread_t *thread = &dir->thread[dir->threads];
	int r = thread_start(thread, answers ? answer_main : dir_worker_main, dir);

	if (r < 0)
		return r;
	pthread_setname_np(*thread, answers ? "store-cancel" : "store-dir");
	dir->threads++;
	dir->refs++;
	return 0;
}

/* A thread for the job that is about to be queued. With the lock held. */
static int want_thread(struct dir *dir)
{
	int r = 0;

	/* Those that were woken for what is queued are idle still. */
	if (dir->idle <= dir->queued && dir->threads < DIR_THREADS + 1)
		r = dir_start_thread(dir);
	/* Any will do. */
	return dir->threads > 1 ? 0 : r;
}

/* Is there an io_uring for one more? With the lock held. */
static bool want_ring(struct dir *dir)
{
	if (!dir->ring_tried && !dir_ring_start(dir)) {
		if (thread_start(&dir->ring_thread, dir_ring_main, dir) < 0) {
			dir_ring_free(dir);
			dir->ring = NULL;
		} else {
			pthread_setname_np(dir->ring_thread, "store-ring");
			dir->refs++;
		}
	}
	dir->ring_tried = true;
	return dir->ring && dir->ring_jobs < DIR_RING_JOBS;
}

bool dir_ring_is_over(struct dir *dir)
{
	bool over;

	pthread_mutex_lock(&dir->lock);
	over = dir->stopping && !dir->ring_jobs;
	pthread_mutex_unlock(&dir->lock);
	return over;
}

/* Notes the job, and who does it. With the lock held. */
static int dir_enqueue(struct dir *dir, struct dir_job *job, struct store_request *request)
{
	int r = dir->lost >= DIR_LOST_MAX ? -EBUSY : dir->threads ? 0 : dir_start_thread(dir);

	/* Whoever cancels sets this first, and then takes the lock. */
	if (!r && store_is_cancelled(request))
		r = -ECANCELED;
	if (r)
		return r;
	job->in_ring = job->verb == STORE_GET && want_ring(dir);
	if (!job->in_ring)
		r = want_thread(dir);
	if (r)
		return r;
	request->own = job;
	dir->ring_jobs += job->in_ring;
	if (!job->in_ring) {
		dir_queue_push(queue_of(dir, job->flags), job);
		dir->queued++;
		pthread_cond_signal(&dir->work);
	}
	return 0;
}

static int begin_job(struct dir *dir, struct dir_job *job, struct store_request *request)
{
	bool in_ring;
	int r;

	pthread_mutex_lock(&dir->lock);
	r = dir_enqueue(dir, job, request);
	/* What a thread has may be over with the lock. */
	in_ring = !r && job->in_ring;
	pthread_mutex_unlock(&dir->lock);
	if (in_ring && dir_ring_get(job))
		dir_job_end(job, err_set(&job->err, -ENOMEM, "no memory to read"));
	return r;
}

/* ---- the interface ---- */

/* False: it takes a wait, and a job; *got bytes are there. */
static bool begin_cached(struct store *store, struct store_request *request, size_t *got)
{
	int64_t r = request->verb == STORE_GET ? get_cached(dir_of(store), request, got) : -EAGAIN;
	struct err err;

	if (r >= 0) {
		store_done(request, r);
	} else if (r != -EAGAIN) {
		dir_explain(&err, (int)r);
		store_fail(store, request, err.code, "%s", err.text);
	}
	return r != -EAGAIN;
}

static void dir_begin(struct store *store, struct store_request *request)
{
	struct dir *dir = dir_of(store);
	struct dir_job *job;
	size_t got = 0;
	int r;

	if (begin_cached(store, request, &got))
		return;
	job = dir_job_new(dir, request, got);
	r = job ? begin_job(dir, job, request) : -ENOMEM;
	if (!r)
		return;
	free(job);
	if (r == -EBUSY)
		store_fail(store, request, -EAGAIN,
			   "the file system does not answer, with %d requests "
			   "given up already: look after the disk or file server",
			   DIR_LOST_MAX);
	else if (r == -ECANCELED)
		store_fail(store, request, r, "cancelled");
	else
		store_errno(store, request, r, "no thread or memory for it");
}

static void dir_free(struct store *store)
{
	struct dir *dir = dir_of(store);
	pthread_t thread[DIR_THREADS + 2];
	unsigned int i, n;
	bool hangs, ring;

	pthread_mutex_lock(&dir->lock);
	dir->stopping = true;
	pthread_cond_broadcast(&dir->work);
	pthread_cond_broadcast(&dir->answer);
	hangs = dir->lost;
	n = dir->threads;
	ring = dir->ring;
	memcpy(thread, dir->thread, sizeof(dir->thread));
	if (ring)
		thread[n++] = dir->ring_thread;
	pthread_mutex_unlock(&dir->lock);
	if (ring)
		dir_ring_wake(dir);
	for (i = 0; i < n; i++) {
		/* Nobody can say when the kernel lets such a thread go; it frees what is left. */
		if (hangs)
			pthread_detach(thread[i]);
		else
			pthread_join(thread[i], NULL);
	}
	dir_put_ref(dir);
}

static const struct store_ops dir_ops = {
	.name = "dir",
	.begin = dir_begin,
	.cancel = dir_cancel,
	.free = dir_free,
};

int dir_store_new(struct store **out, const char *path, struct err *err)
{
	struct dir *dir;
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return err_errno(err, -errno, "the store \"%s\", a folder that has to be there",
				 path);
	dir = calloc(1, sizeof(*dir));
	if (!dir) {
		close(fd);
		return err_set(err, -ENOMEM, "no memory for a store");
	}
	store_init(&dir->store, &dir_ops, "%s", path);
	dir->fd = fd;
	dir->local = is_local(fd);
	dir->refs = 1;
	dir->urgent.last = &dir->urgent.first;
	dir->bulk.last = &dir->bulk.first;
	pthread_mutex_init(&dir->lock, NULL);
	cond_init(&dir->work);
	cond_init(&dir->answer);
	*out = &dir->store;
	return 0;
}
