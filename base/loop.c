// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "base/loop.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"

#define LOOP_PATIENCE_MS 100
/* How long lines that the log has left out are gathered before they are told of. */
#define LOOP_LOG_MS 5000

struct loop_job {
	struct loop_job *next;
	void (*fn)(void *arg);
	void *arg;
};

struct loop {
	uv_loop_t uv;
	uv_async_t wake;
	bool running;
	uv_timer_t log;
	_Atomic bool log_wanted;	/* the log has begun to leave lines out */
	pthread_mutex_t lock;	/* guards first, last */
	struct loop_job *first;
	struct loop_job **last;
	struct loop_job *taken;	/* the main thread's: they run before first */
};

static void loop_take_jobs(struct loop *loop)
{
	pthread_mutex_lock(&loop->lock);
	loop->taken = loop->first;
	loop->first = NULL;
	loop->last = &loop->first;
	pthread_mutex_unlock(&loop->lock);
}

/* One that is posted meanwhile is for the next turn. False: the turn is over and some are left. */
static bool loop_run_jobs(struct loop *loop, int64_t until_ns)
{
	struct loop_job *job;

	if (!loop->taken)
		loop_take_jobs(loop);
	while ((job = loop->taken)) {
		loop->taken = job->next;
		job->fn(job->arg);
		free(job);
		if (loop->taken && clock_now_ns() >= until_ns)
			return false;
	}
	return true;
}

static void loop_on_log(uv_timer_t *timer)
{
	(void)timer;
	log_report_left_out();
}

/* Any thread. */
static void loop_want_log(void *arg)
{
	struct loop *loop = arg;

	atomic_store(&loop->log_wanted, true);
	uv_async_send(&loop->wake);
}

/*
 * Those that were posted before this wake are either taken, or first, or will
 * have one of their own.
 */
static void loop_on_wake(uv_async_t *wake)
{
	struct loop *loop = wake->data;
	bool had = loop->taken;

	if (atomic_exchange(&loop->log_wanted, false) && !uv_is_active((uv_handle_t *)&loop->log))
		uv_timer_start(&loop->log, loop_on_log, LOOP_LOG_MS, 0);
	/* What waited from the turn before may have kept others from being taken. */
	if (!loop_run_jobs(loop, loop_turn_end()) || had)
		uv_async_send(wake);
}

int loop_new(struct loop **out, struct err *err)
{
	struct loop *loop = calloc(1, sizeof(*loop));
	int r;

	if (!loop)
		return err_set(err, -ENOMEM, "no memory for the event loop");
	pthread_mutex_init(&loop->lock, NULL);
	loop->last = &loop->first;
	r = uv_loop_init(&loop->uv);
	if (r < 0) {
		free(loop);
		return err_errno(err, r, "event loop");
	}
	r = uv_async_init(&loop->uv, &loop->wake, loop_on_wake);
	if (r < 0) {
		uv_loop_close(&loop->uv);
		free(loop);
		return err_errno(err, r, "event loop");
	}
	loop->wake.data = loop;
	uv_timer_init(&loop->uv, &loop->log);
	/* It keeps no loop alive by itself. */
	uv_unref((uv_handle_t *)&loop->log);
	log_limit_set_notify(loop_want_log, loop);
	*out = loop;
	return 0;
}

uv_loop_t *loop_uv(struct loop *loop)
{
	return &loop->uv;
}

void loop_run(struct loop *loop)
{
	loop->running = true;
	uv_run(&loop->uv, UV_RUN_DEFAULT);
	loop->running = false;
}

bool loop_is_running(const struct loop *loop)
{
	return loop->running;
}

void loop_stop(struct loop *loop)
{
	uv_stop(&loop->uv);
}

void loop_post(struct loop *loop, void (*fn)(void *arg), void *arg)
{
	struct loop_job *job = malloc(sizeof(*job));

	if (!job)
		abort();
	*job = (struct loop_job){ .fn = fn, .arg = arg };
	pthread_mutex_lock(&loop->lock);
	*loop->last = job;
	loop->last = &job->next;
	pthread_mutex_unlock(&loop->lock);
	uv_async_send(&loop->wake);
}

static void loop_on_closed(uv_handle_t *handle)
{
	free(handle->data);
}

void loop_close(uv_handle_t *handle, void *memory)
{
	handle->data = memory;
	uv_close(handle, loop_on_closed);
}

static void loop_on_one_closed(uv_handle_t *handle)
{
	unsigned int *handles = handle->data;

	if (!--*handles)
		free(handles);
}

void loop_close_one_of(uv_handle_t *handle, unsigned int *handles)
{
	handle->data = handles;
	uv_close(handle, loop_on_one_closed);
}

static void loop_on_patience_end(uv_timer_t *timer)
{
	uv_stop(timer->loop);
}

/* Runs until no handle and no request is left, but not for long. */
static bool loop_drain(struct loop *loop)
{
	uv_timer_t patience;
	bool alive;

	/* A loop_stop that no loop_run has answered ends the first run at once. */
	uv_run(&loop->uv, UV_RUN_NOWAIT);
	uv_timer_init(&loop->uv, &patience);
	uv_timer_start(&patience, loop_on_patience_end, LOOP_PATIENCE_MS, 0);
	uv_unref((uv_handle_t *)&patience);
	uv_run(&loop->uv, UV_RUN_DEFAULT);
	alive = uv_loop_alive(&loop->uv);
	uv_close((uv_handle_t *)&patience, NULL);
	uv_run(&loop->uv, UV_RUN_NOWAIT);
	return !alive;
}

/* Those left of an earlier turn, and those that were posted before now. */
static void loop_run_all_jobs(struct loop *loop)
{
	loop_run_jobs(loop, INT64_MAX);
	loop_run_jobs(loop, INT64_MAX);
}

bool loop_free(struct loop *loop)
{
	if (!loop)
		return true;
	loop_run_all_jobs(loop);
	log_limit_set_notify(NULL, NULL);
	uv_close((uv_handle_t *)&loop->wake, NULL);
	uv_close((uv_handle_t *)&loop->log, NULL);
	if (!loop_drain(loop))
		return false;
	loop_run_all_jobs(loop);
	if (uv_loop_close(&loop->uv) == UV_EBUSY)
		log_warn("event loop closed with handles open");
	log_report_left_out();
	pthread_mutex_destroy(&loop->lock);
	free(loop);
	return true;
}
