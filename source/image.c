// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * What an image's errors mean to the worker. That an object is gone is no reason to give its pages
 * up: a folder that is not mounted looks just like that.
 */
#include "source/image.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"

#define URGENT_THREADS 3
#define FAR_URGENT_THREADS 8
#define BULK_THREADS 1
#define FAR_BULK_THREADS 8
#define REPLAY_THREADS 2
#define FAR_REPLAY_THREADS 16
/* Of a replay, which is a hint: what it may take of the line. */
#define REPLAY_NS (10 * NS_PER_SEC)
#define REPLAY_BYTES (UINT64_C(1) << 30)
#define REPLAY_WATCHED 32u /* of so many huge pages one is watched */
#define BULK_PAGES 64
#define DAMAGED_TRIES 5		/* over some 150 ms: what is on its way may be damaged there */

struct image_source {
	struct worker *worker;
	struct image *image;
	struct store_scope *scope;
	struct touches *touches;
	pthread_mutex_t lock;		/* guards the rest */
	int64_t failing_since_ns;
	char error[508];
};

/* Tells of the first that fails, and of the first that does not any more. */
static void image_note(struct image_source *source, int64_t result, const struct err *err)
{
	bool fails = result < 0 && result != -ENODATA && result != -ERANGE, was;

	if (result == -ECANCELED)
		return;
	pthread_mutex_lock(&source->lock);
	was = source->failing_since_ns;
	if (fails)
		snprintf(source->error, sizeof(source->error), "%s", err->text);
	else
		source->error[0] = '\0';
	if (fails && !was)
		source->failing_since_ns = clock_now_ns();
	else if (!fails)
		source->failing_since_ns = 0;
	pthread_mutex_unlock(&source->lock);
	if (fails && !was)
		log_warn("guest memory cannot be read from its image: %s; it is tried again",
			 err->text);
	else if (!fails && was)
		log_info("guest memory can be read from its image again");
}

/* Nobody waits for these: what the image does not have is nobody's loss yet. */
static int64_t image_read_early(void *arg, gfn_t first, uint64_t n, void *data, bool *zero)
{
	struct image_source *source = arg;
	struct err err = { 0 };
	int64_t r = image_read_soon(source->image, first, n, data, zero, &err);

	image_note(source, r, &err);
	return r == -ERANGE ? -ENODATA : r;
}

static void image_asked(void *arg, gfn_t gfn)
{
	struct image_source *source = arg;

	if (source->touches)
		touches_add(source->touches, gfn, clock_now_ns());
}

static int64_t image_read_pages(void *arg, gfn_t first, uint64_t n, void *data, bool *zero)
{
	struct image_source *source = arg;
	struct err err = { 0 };
	int64_t r = image_read(source->image, first, n, data, zero, &err);

	image_note(source, r, &err);
	if (r != -ENODATA && r != -ERANGE)
		return r;
	log_error("page 0x%llx of the guest is not in its image",
		  (unsigned long long)gfn_to_gpa(first).v);
	return -ENODATA;
}

static void image_cancel(void *arg)
{
	struct image_source *source = arg;

	store_scope_cancel(source->scope);
}

int image_source_new(struct image_source **out, const struct image_source_config *config,
		     struct memory *mem, struct err *err)
{
	struct image_source *source = calloc(1, sizeof(*source));
	struct worker_config worker = {
		.read = image_read_pages,
		.read_soon = image_read_early,
		.asked = image_asked,
		.cancel = image_cancel,
		.arg = source,
		.urgent_threads = config->far ? FAR_URGENT_THREADS : URGENT_THREADS,
		.bulk_threads = config->far ? FAR_BULK_THREADS : BULK_THREADS,
		.replay_threads = config->far ? FAR_REPLAY_THREADS : REPLAY_THREADS,
		.urgent_pages = 1,
		.bulk_pages = BULK_PAGES,
		.span_pages = image_manifest(config->image)->span_pages,
		.damaged_tries = DAMAGED_TRIES,
		.fill = config->fill,
	};
	int r;

	if (!source)
		return err_set(err, -ENOMEM, "no memory for a page source");
	source->image = config->image;
	source->scope = config->scope;
	source->touches = config->touches;
	pthread_mutex_init(&source->lock, NULL);
	r = worker_new(&source->worker, &worker, mem, err);
	if (r < 0) {
		image_source_free(source);
		return r;
	}
	*out = source;
	return 0;
}

struct page_source *image_source_pages(struct image_source *source)
{
	return worker_source(source->worker);
}

int image_source_start(struct image_source *source, struct err *err)
{
	store_scope_open(source->scope);
	return worker_start(source->worker, err);
}

void image_source_stop(struct image_source *source)
{
	worker_stop(source->worker);
}

void image_source_free(struct image_source *source)
{
	if (!source)
		return;
	worker_free(source->worker);
	pthread_mutex_destroy(&source->lock);
	free(source);
}

int image_source_replay(struct image_source *source, const struct working_set *set,
			unsigned int turn, struct err *err)
{
	struct worker_replay replay = {
		.n = set->n_pages,
		.bytes_max = REPLAY_BYTES,
		.until_ns = clock_now_ns() + REPLAY_NS,
		/* Where nobody looks what is touched there is nothing to watch for. */
		.watch_one_in = source->touches ? REPLAY_WATCHED : 0,
		.turn = turn,
	};
	uint64_t *gfns = malloc((set->n_pages + 1) * sizeof(*gfns));
	uint32_t i;
	int r;

	if (!gfns)
		return err_set(err, -ENOMEM, "no memory to bring pages before they are wanted");
	for (i = 0; i < set->n_pages; i++)
		gfns[i] = set->pages[i].gfn;
	replay.gfns = gfns;
	r = worker_replay(source->worker, &replay, err);
	free(gfns);
	return r;
}

void image_source_watch_end(struct image_source *source)
{
	worker_watch_end(source->worker);
}

void image_source_set_fill(struct image_source *source, const struct worker_fill *fill)
{
	worker_set_fill(source->worker, fill);
}

void image_source_info(struct image_source *source, struct image_source_info *info)
{
	worker_stats(source->worker, &info->worker);
	worker_replay_stats(source->worker, &info->replay);
	worker_get_fill(source->worker, &info->fill);
	image_stats(source->image, &info->image);
	pthread_mutex_lock(&source->lock);
	info->failing_since_ns = source->failing_since_ns;
	snprintf(info->error, sizeof(info->error), "%s", source->error);
	pthread_mutex_unlock(&source->lock);
}
