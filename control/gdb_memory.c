// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// See gdb_memory.h. Kicks and jobs: a kick is only given, under the lock, while
// its job is the current one, and a kick left over is cleared, under the lock,
// when the next job becomes current; so none hits the wrong job.
#include "control/gdb_memory.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/thread.h"
#include "control/gdb_packet.h"
#include "memory/gup.h"
#include "memory/eject.h"

struct gdb_worker {
	struct memory *mem;
	struct loop *loop;
	struct memory_thread *self;
	pthread_t thread;
	pthread_mutex_t lock;		/* guards what follows, and cancelled of each job */
	pthread_cond_t wake;
	struct gdb_job *first, **last;
	struct gdb_job *current;
	bool end;
};

/* Mappings are of whole pages, so these are enough. */
_Static_assert(GDB_PACKET_MAX / PAGE_BYTES + 1 <= GDB_PIECES_MAX, "pieces of the longest access");

struct gdb_job *gdb_job_new(size_t len)
{
	struct gdb_job *job = calloc(1, sizeof(*job) + len);

	if (job)
		job->len = len;
	return job;
}

/* The next piece: within one mapping and one page. Returns its length, or a negative errno. */
static int64_t job_piece(struct gdb_worker *worker, struct gdb_job *job,
			 const struct gup_opts *opts)
{
	gva_t gva = GVA(job->gva.v + job->done);
	uint64_t left, n = job->len - job->done;
	gpa_t gpa;
	int r;

	job->stage = GDB_JOB_TRANSLATE;
	r = arch_translate(worker->mem, &job->mmu, gva, GUP_INTERRUPTIBLE, opts, &gpa, &left);
	if (r < 0)
		return r;
	job->stage = GDB_JOB_ACCESS;
	job->failed = gpa;
	if (n > left)
		n = left;
	if (n > PAGE_BYTES - gpa_offset(gpa))
		n = PAGE_BYTES - gpa_offset(gpa);
	if (job->write)
		r = gup_write(worker->mem, gpa, job->data + job->done, n,
			      GUP_INTERRUPTIBLE | GUP_WRITE, opts);
	else
		r = gup_read(worker->mem, gpa, job->data + job->done, n, GUP_INTERRUPTIBLE, opts);
	if (r < 0)
		return r;
	job->piece[job->pieces++] = (struct gdb_piece){ gpa, n };
	return (int64_t)n;
}

static void job_do(struct gdb_worker *worker, struct gdb_job *job)
{
	struct gup_opts opts = { .self = worker->self, .deadline_ns = job->deadline_ns };
	int64_t n;

	while (job->done < job->len) {
		n = job->pieces == GDB_PIECES_MAX ? -E2BIG : job_piece(worker, job, &opts);
		if (n <= 0) {
			job->result = n < 0 ? (int)n : -EFAULT;
			return;
		}
		job->done += (size_t)n;
	}
}

/* Main thread. Jobs are cancelled on the main thread only, so the answer stays true. */
static void job_finished(void *arg)
{
	struct gdb_job *job = arg;

	if (!job->cancelled)
		job->complete(job->arg, job);
	free(job);
}

static void *gdb_memory_worker_main(void *arg)
{
	struct gdb_worker *worker = arg;
	struct gdb_job *job;

	pthread_setname_np(pthread_self(), "gdb-memory");
	memory_thread_bind(worker->self);
	pthread_mutex_lock(&worker->lock);
	for (;;) {
		while (!worker->first && !worker->end)
			pthread_cond_wait(&worker->wake, &worker->lock);
		job = worker->first;
		if (!job)
			break;
		worker->first = job->next;
		if (!worker->first)
			worker->last = &worker->first;
		worker->current = job;
		memory_thread_clear(worker->self);
		if (!job->cancelled) {
			pthread_mutex_unlock(&worker->lock);
			job_do(worker, job);
			pthread_mutex_lock(&worker->lock);
		}
		worker->current = NULL;
		loop_post(worker->loop, job_finished, job);
	}
	pthread_mutex_unlock(&worker->lock);
	memory_thread_unbind(worker->self);
	return NULL;
}

void gdb_job_start(struct gdb_worker *worker, struct gdb_job *job)
{
	job->worker = worker;
	pthread_mutex_lock(&worker->lock);
	*worker->last = job;
	worker->last = &job->next;
	pthread_cond_signal(&worker->wake);
	pthread_mutex_unlock(&worker->lock);
}

void gdb_job_cancel(struct gdb_job *job)
{
	struct gdb_worker *worker = job->worker;

	pthread_mutex_lock(&worker->lock);
	job->cancelled = true;
	if (worker->current == job)
		memory_thread_kick(worker->self);
	pthread_mutex_unlock(&worker->lock);
}

int gdb_worker_new(struct gdb_worker **out, struct memory *mem, struct loop *loop, struct err *err)
{
	struct gdb_worker *worker = calloc(1, sizeof(*worker));
	int r;

	if (!worker)
		return err_set(err, -ENOMEM, "gdb: no memory");
	worker->mem = mem;
	worker->loop = loop;
	worker->last = &worker->first;
	worker->self = memory_thread_new(mem, "gdb", -1);
	if (!worker->self) {
		free(worker);
		return err_set(err, -ENOMEM, "gdb: no memory");
	}
	pthread_mutex_init(&worker->lock, NULL);
	pthread_cond_init(&worker->wake, NULL);
	r = thread_start(&worker->thread, gdb_memory_worker_main, worker);
	if (r < 0) {
		memory_thread_free(worker->self);
		pthread_cond_destroy(&worker->wake);
		pthread_mutex_destroy(&worker->lock);
		free(worker);
		return err_errno(err, r, "gdb: thread");
	}
	*out = worker;
	return 0;
}

void gdb_worker_free(struct gdb_worker *worker)
{
	struct gdb_job *job;

	if (!worker)
		return;
	pthread_mutex_lock(&worker->lock);
	worker->end = true;
	for (job = worker->first; job; job = job->next)
		job->cancelled = true;
	if (worker->current) {
		worker->current->cancelled = true;
		memory_thread_kick(worker->self);
	}
	pthread_cond_signal(&worker->wake);
	pthread_mutex_unlock(&worker->lock);
	pthread_join(worker->thread, NULL);
	memory_thread_free(worker->self);
	pthread_cond_destroy(&worker->wake);
	pthread_mutex_destroy(&worker->lock);
	free(worker);
}
