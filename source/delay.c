// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Jobs lie in a heap by due time (and by age, where that is equal); a thread
 * delivers them. A job's data is copied, since a fill's is good only during the
 * call. When the heap is full, requests pass at once: request() may not sleep,
 * and to refuse would be to lose the source.
 *
 * Room is a job's own: were it that of the sink above, pages that come in any
 * order could keep a huge page of it each. What came there is copied on when it
 * is due.
 */
#include "source/delay.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/cond.h"

#define JOBS_MAX (64u << 10)
#define DELAY_MAX (3600 * NS_PER_SEC)

enum job_type { JOB_REQUEST, JOB_FILL, JOB_COMMIT, JOB_LOSE };

struct job {
	int64_t due_ns;
	uint64_t seq;
	enum job_type type;
	gfn_t first;
	uint64_t n;
	bool zero;
	uint8_t *data;		/* a page behind the job itself, as rooms have to be */
};

struct delay {
	struct layer layer;
	struct delay_config config;
	pthread_t thread;
	pthread_mutex_t lock;		/* guards the rest */
	pthread_cond_t changed;		/* there is an earlier job, or stop */
	pthread_cond_t drained;		/* bytes became less, or stop */
	struct job **heap;
	size_t jobs;
	uint64_t bytes;			/* of data in the heap */
	uint64_t seq;
	struct delay_stats stats;
};

/* ---- the heap; all with the lock held ---- */

static bool is_before(const struct job *a, const struct job *b)
{
	return a->due_ns != b->due_ns ? a->due_ns < b->due_ns : a->seq < b->seq;
}

static void heap_push(struct delay *delay, struct job *job)
{
	size_t i = delay->jobs++;

	for (; i && is_before(job, delay->heap[(i - 1) / 2]); i = (i - 1) / 2)
		delay->heap[i] = delay->heap[(i - 1) / 2];
	delay->heap[i] = job;
}

static struct job *heap_pop(struct delay *delay)
{
	struct job *first = delay->heap[0], *last = delay->heap[--delay->jobs];
	size_t i = 0, child;

	while ((child = 2 * i + 1) < delay->jobs) {
		if (child + 1 < delay->jobs &&
		    is_before(delay->heap[child + 1], delay->heap[child]))
			child++;
		if (!is_before(delay->heap[child], last))
			break;
		delay->heap[i] = delay->heap[child];
		i = child;
	}
	delay->heap[i] = last;
	return first;
}

/* ---- jobs ---- */

static uint64_t job_bytes(const struct job *job)
{
	return job->zero ? 0 : job->n * PAGE_BYTES;
}

static struct job *delay_job_new(enum job_type type, gfn_t first, uint64_t n, bool zero)
{
	struct job *job = zero ? malloc(sizeof(*job)) :
				 aligned_alloc(PAGE_BYTES, (n + 1) * PAGE_BYTES);

	if (job)
		*job = (struct job){
			.type = type, .first = first, .n = n, .zero = zero,
			.data = (uint8_t *)job + PAGE_BYTES,
		};
	return job;
}

static struct job *job_of_room(const void *data)
{
	return (struct job *)(void *)((uintptr_t)data - PAGE_BYTES);
}

/* Takes the job over; false: it cannot, and the caller delivers at once. */
static bool job_add(struct delay *delay, struct job *job)
{
	const struct delay_config *config = &delay->config;
	bool request = job->type == JOB_REQUEST;
	int64_t spread = request ? config->request_spread_ns : config->fill_spread_ns;
	bool added;

	pthread_mutex_lock(&delay->lock);
	/* A fill larger than all the room still gets in, alone. */
	while (!layer_is_stopped(&delay->layer) && delay->bytes &&
	       delay->bytes + job_bytes(job) > config->bytes_max && job_bytes(job))
		cond_wait(&delay->drained, &delay->lock, INT64_MAX);
	added = !layer_is_stopped(&delay->layer) && delay->jobs < JOBS_MAX;
	if (added) {
		job->seq = delay->seq++;
		job->due_ns = clock_now_ns() + (request ? config->request_ns : config->fill_ns);
		if (spread)
			job->due_ns +=
				(int64_t)(random_at(config->seed, job->seq) % (uint64_t)spread);
		delay->bytes += job_bytes(job);
		heap_push(delay, job);
		if (delay->heap[0] == job)
			pthread_cond_signal(&delay->changed);
	} else {
		delay->stats.hurried++;
	}
	pthread_mutex_unlock(&delay->lock);
	return added;
}

static int64_t delay_deliver(struct delay *delay, enum job_type type, gfn_t first, uint64_t n,
			     const void *data)
{
	switch (type) {
	case JOB_REQUEST:
		return layer_ask(&delay->layer, first, n);
	case JOB_FILL:
		return layer_fill(&delay->layer, first, n, data);
	case JOB_COMMIT:
		return layer_put(&delay->layer, first, n, data);
	default:
		return layer_lose(&delay->layer, first);
	}
}

static int64_t postpone(struct delay *delay, enum job_type type, gfn_t first, uint64_t n,
			const void *data)
{
	struct job *job = delay_job_new(type, first, n, !data);

	if (job && data)
		memcpy(job->data, data, n * PAGE_BYTES);
	if (job && job_add(delay, job))
		return 0;
	free(job);
	return delay_deliver(delay, type, first, n, data);
}

static void *delay_main(void *arg)
{
	struct delay *delay = arg;
	struct job *job;
	int64_t r;

	pthread_mutex_lock(&delay->lock);
	while (!layer_is_stopped(&delay->layer)) {
		if (!delay->jobs || delay->heap[0]->due_ns > clock_now_ns()) {
			cond_wait(&delay->changed, &delay->lock,
				  delay->jobs ? delay->heap[0]->due_ns : INT64_MAX);
			continue;
		}
		job = heap_pop(delay);
		delay->bytes -= job_bytes(job);
		pthread_cond_broadcast(&delay->drained);
		pthread_mutex_unlock(&delay->lock);
		r = delay_deliver(delay, job->type, job->first, job->n,
				  job->zero ? NULL : job->data);
		pthread_mutex_lock(&delay->lock);
		*(job->type == JOB_REQUEST ? &delay->stats.requests : &delay->stats.fills) += 1;
		delay->stats.failed += r < 0;
		free(job);
	}
	pthread_mutex_unlock(&delay->lock);
	return NULL;
}

/* ---- the layer ---- */

static int delay_request(struct page_source *source, gfn_t first, uint64_t n)
{
	struct delay *delay = (struct delay *)source;	/* the first member */

	if (layer_is_stopped(&delay->layer))
		return -ENOTCONN;
	return (int)postpone(delay, JOB_REQUEST, first, n, NULL);
}

static int64_t delay_fill(struct page_sink *sink, gfn_t first, uint64_t n, const void *data)
{
	return postpone((struct delay *)layer_of_sink(sink), JOB_FILL, first, n, data);
}

static int64_t delay_room(struct page_sink *sink, gfn_t first, uint64_t n, void **data)
{
	struct job *job;

	(void)sink;
	n = n < HUGE_PAGES ? n : HUGE_PAGES;
	job = delay_job_new(JOB_COMMIT, first, n, false);
	if (!job)
		return -ENOMEM;
	*data = job->data;
	return (int64_t)n;
}

static int64_t delay_commit(struct page_sink *sink, gfn_t first, uint64_t n, const void *data)
{
	struct delay *delay = (struct delay *)layer_of_sink(sink);
	struct job *job;
	int64_t r = 0;

	if (!data)
		return postpone(delay, JOB_COMMIT, first, n, NULL);
	job = job_of_room(data);
	job->n = n;
	if (n && job_add(delay, job))
		return 0;
	if (n)
		r = delay_deliver(delay, JOB_COMMIT, first, n, data);
	free(job);
	return r;
}

static int delay_lose(struct page_sink *sink, gfn_t gfn)
{
	return (int)postpone((struct delay *)layer_of_sink(sink), JOB_LOSE, gfn, 1, NULL);
}

static void delay_stop(struct layer *layer)
{
	struct delay *delay = (struct delay *)layer;

	pthread_mutex_lock(&delay->lock);
	pthread_cond_broadcast(&delay->changed);
	pthread_cond_broadcast(&delay->drained);
	pthread_mutex_unlock(&delay->lock);
	pthread_join(delay->thread, NULL);
}

static void delay_release(struct delay *delay)
{
	while (delay->jobs)
		free(delay->heap[--delay->jobs]);
	free(delay->heap);
	pthread_cond_destroy(&delay->drained);
	pthread_cond_destroy(&delay->changed);
	pthread_mutex_destroy(&delay->lock);
	free(delay);
}

static void delay_free(struct layer *layer)
{
	layer_stop(layer);
	delay_release((struct delay *)layer);
}

static const struct page_source_ops source_ops = { .name = "delay", .request = delay_request };
static const struct page_sink_ops sink_ops = {
	.name = "delay",
	.fill = delay_fill,
	.lose = delay_lose,
	.room = delay_room,
	.commit = delay_commit,
};
static const struct layer_ops layer_ops = { .stop = delay_stop, .free = delay_free };

static bool is_delay(int64_t ns, int64_t spread_ns)
{
	return ns >= 0 && spread_ns >= 0 && ns <= DELAY_MAX && spread_ns <= DELAY_MAX - ns;
}

int delay_new(struct delay **out, const struct delay_config *config, struct err *err)
{
	struct delay *delay;
	int r;

	if (!is_delay(config->request_ns, config->request_spread_ns) ||
	    !is_delay(config->fill_ns, config->fill_spread_ns) || config->bytes_max < HUGE_BYTES)
		return err_set(err, -EINVAL, "delay: 0 to one hour, and room for at least 2 MiB");
	delay = calloc(1, sizeof(*delay));
	if (!delay)
		return err_set(err, -ENOMEM, "no memory to delay pages");
	layer_init(&delay->layer, &source_ops, &sink_ops, &layer_ops);
	delay->config = *config;
	pthread_mutex_init(&delay->lock, NULL);
	cond_init(&delay->changed);
	cond_init(&delay->drained);
	delay->heap = calloc(JOBS_MAX, sizeof(*delay->heap));
	r = delay->heap ? layer_thread_start(&delay->thread, "delay", delay_main, delay, err) :
			  err_set(err, -ENOMEM, "no memory to delay pages");
	if (r < 0) {
		delay_release(delay);
		return r;
	}
	*out = delay;
	return 0;
}

struct layer *delay_layer(struct delay *delay)
{
	return &delay->layer;
}

void delay_stats(struct delay *delay, struct delay_stats *stats)
{
	pthread_mutex_lock(&delay->lock);
	*stats = delay->stats;
	stats->waiting = delay->jobs;
	pthread_mutex_unlock(&delay->lock);
}
