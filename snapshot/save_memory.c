// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Memory as it was at the moment, out of memory/snapshot.h into an image.
 *
 * Each span is handed out once: what is here is compressed and written, or, where the parent has
 * the same, named as it lies there; what had not come at the moment is named where it lies, and so
 * costs nothing; what a LOST page has held nobody knows, and the image says so.
 *
 * A guest's writes wait for compression no longer than they must: when the buffer for copies fills,
 * the writer leaves it out for a part of the pages.
 *
 * A save is live unless there is a reason, which is kept for people to see. The last chance to
 * find one is the moment itself: then the guest stands still already, and just stays so.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/page.h"
#include "base/thread.h"
#include "snapshot/save_internal.h"

#define SPAN_ALL 0xffffu

/* ---- live, or not ---- */

static void pause_because(struct save *save, const char *reason)
{
	pthread_mutex_lock(&save->lock);
	save->live = false;
	snprintf(save->reason, sizeof(save->reason), "%s", reason);
	pthread_mutex_unlock(&save->lock);
}

/* Errors that a paused save does not have. */
static bool is_live_only(int r)
{
	return r == -ENOTSUP || r == -EPERM || r == -ENOSYS || r == -ENOBUFS;
}

static int make_snapshot(struct save *save, struct err *err)
{
	const struct memory_snapshot_config config = {
		.buffer_bytes = save->config.buffer_bytes,
		.paused = !save->live,
		.track = save->live && save->config.track,
		.all = !save->config.incremental || !save->config.memory_knows,
	};
	struct memory_snapshot *snapshot;
	int r = memory_snapshot_new(&snapshot, save->mem, &config, err);

	if (r < 0)
		return r;
	pthread_mutex_lock(&save->lock);
	save->snapshot = snapshot;
	pthread_mutex_unlock(&save->lock);
	/* A cancel that came before did not find it. */
	if (save_is_cancelled(save))
		memory_snapshot_cancel(snapshot);
	return memory_snapshot_prepare(snapshot, err);
}

int save_prepare(struct save *save, struct err *err)
{
	int r;

	/* Clones have written little, and the page table knows what. */
	if (memory_is_backed(save->mem)) {
		pause_because(save, "its memory is shared with other clones of its image");
		return 0;
	}
	r = make_snapshot(save, err);
	if (!save->live || !is_live_only(r))
		return r;
	save_end_snapshot(save, false);
	log_warn("the guest stands still while it is saved: %s", err->text);
	pause_because(save, err->text);
	return make_snapshot(save, err);
}

int save_begin(struct save *save, struct err *err)
{
	int r = save->snapshot ? memory_snapshot_begin(save->snapshot, err) : 0;

	if (!save->live || !is_live_only(r))
		return r;
	save->begin_error = r;
	pause_because(save, err->text);
	return 0;
}

int save_fall_back(struct save *save, struct err *err)
{
	int r;

	if (!save->begin_error)
		return 0;
	log_warn("the guest stands still while it is saved: %s", save->reason);
	save_end_snapshot(save, false);
	r = make_snapshot(save, err);
	return r ? r : memory_snapshot_begin(save->snapshot, err);
}

void save_end_snapshot(struct save *save, bool saved)
{
	struct memory_snapshot *snapshot = save->snapshot;
	bool tracked;

	if (!snapshot)
		return;
	pthread_mutex_lock(&save->lock);
	memory_snapshot_stats(snapshot, &save->memory_stats);
	save->memory_stats.buffered = 0;
	save->snapshot = NULL;
	pthread_mutex_unlock(&save->lock);
	memory_snapshot_end(snapshot, saved);
	tracked = saved && memory_snapshot_is_tracked(save->mem);
	pthread_mutex_lock(&save->lock);
	save->tracked = tracked;
	pthread_mutex_unlock(&save->lock);
}

/* ---- spans ---- */

/* Calls fn for each run of pages whose bits are in the mask of each of the spans. */
static int each_run(struct save *save, const struct memory_span *span, uint16_t mask,
		    int (*fn)(struct image_writer *writer, gfn_t first, uint64_t n,
			      struct err *err),
		    struct err *err)
{
	unsigned int s, i, start;
	int r = 0;

	if (mask == SPAN_ALL)
		return fn(save->writer, span->first, span->spans * MEMORY_SPAN_PAGES, err);
	for (s = 0; s < span->spans && mask; s++)
		for (i = 0; i < MEMORY_SPAN_PAGES && !r; i++) {
			start = i;
			while (i < MEMORY_SPAN_PAGES && mask >> i & 1)
				i++;
			if (i > start)
				r = fn(save->writer,
				       GFN(span->first.v + s * MEMORY_SPAN_PAGES + start),
				       i - start, err);
		}
	return r;
}

static int save_late(struct save *save, const struct memory_span *span, struct err *err)
{
	if (span->late && !save->parent)
		return err_set(err, -ENODATA,
			       "memory at 0x%" PRIx64 " has not come yet, and there is no place "
			       "to name it by",
			       gfn_to_gpa(span->first).v);
	return each_run(save, span, span->late, image_writer_keep, err);
}

/* What the state needs of it, before the image gets it. */
static int note_early(struct save *save, const struct memory_span *span, const uint8_t *data,
		      struct err *err)
{
	unsigned int s;
	gfn_t first;
	int r = 0;

	for (s = 0; s < span->spans && !r && !span->same; s++) {
		first = GFN(span->first.v + s * MEMORY_SPAN_PAGES);
		r = save_early_note(save, first, span->here, data);
		if (!r)
			r = save_early_note(save, first, span->zero, NULL);
		save_early_lose(save, first, span->lost);
	}
	return r ? err_set(err, r, "no memory to save a machine") : 0;
}

static int save_span(struct save *save, const struct memory_span *span, const uint8_t *data,
		     struct err *err)
{
	int r = note_early(save, span, data, err);

	if (!r && span->same)
		return image_writer_keep(save->writer, span->first, span->spans * MEMORY_SPAN_PAGES,
					 err);
	if (!r && span->here)
		r = image_writer_span(save->writer, span->first, span->here, data, err);
	if (!r)
		r = each_run(save, span, span->zero, image_writer_zero, err);
	if (!r)
		r = save_late(save, span, err);
	if (!r)
		r = each_run(save, span, span->lost, image_writer_absent, err);
	return r;
}

/* ---- threads ---- */

static void note_progress(struct save *save)
{
	struct image_writer_stats stats;

	image_writer_stats(save->writer, &stats);
	pthread_mutex_lock(&save->lock);
	save->stats = stats;
	pthread_mutex_unlock(&save->lock);
}

static int read_spans(struct save *save, uint8_t *data, struct err *err)
{
	struct memory_span span;
	int r = 0;

	while (!r && !save_is_cancelled(save)) {
		r = memory_snapshot_next(save->snapshot, &span, data);
		if (r <= 0)
			break;
		image_writer_hurry(save->writer, memory_snapshot_is_pressed(save->snapshot));
		r = save_span(save, &span, data, err);
		atomic_fetch_add(&save->pages_done, span.spans * MEMORY_SPAN_PAGES);
		thread_give_way();
		if (!r && !(span.first.v % HUGE_PAGES))
			note_progress(save);
	}
	return r;
}

static int reader_run(const struct save_reader *reader, struct err *err)
{
	struct save *save = reader->save;
	uint8_t *data;
	int r;

	if (!save->snapshot)
		return save_shared_run(reader, err);
	data = page_buffer_new(MEMORY_SPAN_BYTES);
	if (!data)
		return err_set(err, -ENOMEM, "no memory to save a machine");
	r = read_spans(save, data, err);
	page_buffer_free(data, MEMORY_SPAN_BYTES);
	return r;
}

static void *reader_main(void *arg)
{
	struct save_reader *reader = arg;
	struct save *save = reader->save;
	struct err err = { 0 };
	int r;

	memory_thread_bind(reader->self);
	thread_is_bulk();
	r = reader_run(reader, &err);
	if (r < 0) {
		if (!err.code)
			err_errno(&err, r, "the guest's memory cannot be read as it was");
		save_fail(save, &err);
		/* The others need not go on. */
		atomic_store(&save->cancelled, true);
	}
	note_progress(save);
	memory_thread_unbind(reader->self);
	return NULL;
}

int save_memory(struct save *save, struct err *err)
{
	struct save_reader reader[SAVE_THREADS_MAX];
	unsigned int i, n;
	int r;

	for (n = 1; n < save->config.threads; n++) {
		reader[n] = (struct save_reader){ .save = save, .self = save->waiter[n] };
		if (thread_start(&reader[n].thread, reader_main, &reader[n]) < 0)
			break; /* those that there are do all of it */
		pthread_setname_np(reader[n].thread, "snapshot");
	}
	reader[0] = (struct save_reader){ .save = save, .self = save->waiter[0] };
	reader_main(&reader[0]);
	for (i = 1; i < n; i++)
		pthread_join(reader[i].thread, NULL);
	if (!save_is_cancelled(save))
		return 0;
	pthread_mutex_lock(&save->lock);
	*err = save->err;
	r = err->code;
	pthread_mutex_unlock(&save->lock);
	return r ? r : save_cancelled(err);
}
