// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * What a touch is depends on what can be seen.
 *
 * A page that is asked for was touched then. One that was here before it was
 * asked for, by the replay or the background fill, raises no event: of such a
 * page of the set nobody knows, and it stays in the set as it was. (Some of the
 * set are not brought each time, so that they tell: source/worker_replay.c.) One
 * of the set that has not come was not touched.
 *
 * Clones share a memfd, and what one has fetched raises no event in the others.
 * So each page is recorded by the clone that fetched it, and what others have
 * written to the store meanwhile is what a clone merges its own touches into.
 *
 * The set is written a second after the guest ran, and again later, so that
 * short-lived machines leave one, too. A run counts once: when the set is still
 * the one that this machine wrote, it begins again with the one that was before.
 * Of two machines that write in the same moment one is lost; a set is a hint.
 */
#include "snapshot/replay.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/cond.h"
#include "base/log.h"
#include "base/thread.h"

#define RECORD_US 10000000u
#define RECORD_PAGES 65536u

/* When the set is written, after the guest ran. The last one is the end. */
static const int64_t write_ns[] = { NS_PER_SEC, 3 * NS_PER_SEC, RECORD_US *NS_PER_US };

struct replay {
	struct replay_options options;
	struct store *store;
	const struct image_key *key; /* NULL: none was given */
	struct store_scope scope; /* the thread's; replay_free ends its waits */
	char image[IMAGE_NAME_MAX];
	pthread_t thread;

	/* From replay_open on. */
	struct image_id id;
	bool is_plain; /* although there may be a key */
	struct touches touches;
	bool has_touches;

	/* The thread's. */
	struct working_set set; /* as others have written it */
	struct working_set own; /* as this machine has, last */
	int load_result;
	struct err load_err;

	pthread_mutex_t lock; /* guards the rest */
	pthread_cond_t changed;
	bool gone, complete;
	struct image_source *source; /* NULL: not yet */
	struct memory *mem;
	int memfd;
	int64_t begun_ns; /* 0: the guest has not run */
	struct replay_info info;
};

/* ---- options ---- */

static const struct {
	const char *name;
	struct replay_options options;
} modes[] = {
	{ "on", { .record = true, .replay = true } },
	{ "record", { .record = true } },
	{ "replay", { .replay = true } },
	{ "off", { .off = true } },
};

int replay_options_parse(struct replay_options *options, const char *text)
{
	size_t i;

	for (i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
		if (!strcmp(text, modes[i].name)) {
			*options = modes[i].options;
			return 0;
		}
	return -EINVAL;
}

static const char *replay_options_name(const struct replay_options *options)
{
	return options->record && options->replay ? "on" :
	       options->record			  ? "record" :
	       options->replay			  ? "replay" :
						    "off";
}

/* ---- the thread: its waits ---- */

/* False: it is to end. */
static bool await_source(struct replay *replay)
{
	bool ok;

	pthread_mutex_lock(&replay->lock);
	while (!replay->gone && !replay->source)
		cond_wait(&replay->changed, &replay->lock, INT64_MAX);
	ok = !replay->gone;
	pthread_mutex_unlock(&replay->lock);
	return ok;
}

/*
 * Until so long after the guest ran, or until nothing more is to be seen: then it is the last
 * time. False: it is to end.
 */
static bool await_write(struct replay *replay, int64_t after_ns, bool *last)
{
	int64_t until = INT64_MAX;
	bool ok;

	pthread_mutex_lock(&replay->lock);
	while (!replay->gone && !*last && clock_now_ns() < until) {
		if (replay->begun_ns) {
			until = replay->begun_ns + after_ns;
			*last = replay->complete ||
				touches_is_full(&replay->touches, clock_now_ns());
		}
		if (!*last)
			cond_wait(&replay->changed, &replay->lock, until);
	}
	ok = !replay->gone;
	pthread_mutex_unlock(&replay->lock);
	return ok;
}

static void note_record(struct replay *replay, enum replay_record record, uint64_t written)
{
	pthread_mutex_lock(&replay->lock);
	replay->info.record = record;
	if (written)
		replay->info.written = written;
	pthread_mutex_unlock(&replay->lock);
}

/* ---- the thread: the set ---- */

static bool is_of_another(const struct replay *replay)
{
	return memcmp(&replay->set.id, &replay->id, sizeof(replay->id));
}

/* It was read, or not: what is left of it is this image's. */
static void judge_set(struct replay *replay)
{
	enum replay_phase phase = REPLAY_NO_SET;

	if (replay->load_result < 0 && replay->load_result != -ENOENT &&
	    replay->load_result != -ECANCELED) {
		log_warn("the working set of image %s is not used: %s", replay->image,
			 replay->load_err.text);
	} else if (!replay->load_result && is_of_another(replay)) {
		log_info("the working set of image %s is not used: it is of another image that "
			 "had this name",
			 replay->image);
		working_set_fini(&replay->set);
	} else if (!replay->load_result) {
		phase = REPLAY_LOADED;
	}
	replay->set.id = replay->id;
	pthread_mutex_lock(&replay->lock);
	replay->info.phase = phase;
	replay->info.runs = replay->set.runs;
	pthread_mutex_unlock(&replay->lock);
}

/*
 * Of those who share a memfd one replays, for all: the one that has the lock on its first byte, which
 * the kernel takes away when its process ends.
 */
static bool another_replays(struct replay *replay)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1 };

	if (replay->memfd < 0 || fcntl(replay->memfd, F_SETLK, &lock) == 0 ||
	    (errno != EAGAIN && errno != EACCES))
		return false;
	pthread_mutex_lock(&replay->lock);
	replay->info.phase = REPLAY_BY_ANOTHER;
	pthread_mutex_unlock(&replay->lock);
	return true;
}

static void replay_begin(struct replay *replay)
{
	struct err err = { 0 };

	if (!replay->options.replay || !replay->set.n_pages || another_replays(replay))
		return;
	if (image_source_replay(replay->source, &replay->set, replay->set.runs, &err) < 0 &&
	    err.code != -ENOTCONN)
		log_info("the working set of image %s is not used: %s", replay->image, err.text);
}

/* ---- the thread: the run ---- */

static bool is_unseen(void *arg, uint64_t gfn)
{
	const struct replay *replay = arg;

	memory_refresh(replay->mem, GFN(gfn), 1);
	return memory_page_state(replay->mem, GFN(gfn)) == PAGE_PRESENT;
}

/* The same set, byte for byte? */
static bool set_is(const struct working_set *a, const struct working_set *b)
{
	uint32_t i;

	if (a->runs != b->runs || a->n_pages != b->n_pages)
		return false;
	for (i = 0; i < a->n_pages; i++)
		if (a->pages[i].gfn != b->pages[i].gfn ||
		    a->pages[i].first_us != b->pages[i].first_us ||
		    a->pages[i].score != b->pages[i].score)
			return false;
	return true;
}

static int set_copy(struct working_set *to, const struct working_set *from, struct err *err)
{
	*to = *from;
	to->pages = malloc((from->n_pages + 1) * sizeof(*to->pages));
	if (!to->pages)
		return err_set(err, -ENOMEM, "no memory");
	if (from->n_pages)
		memcpy(to->pages, from->pages, from->n_pages * sizeof(*to->pages));
	return 0;
}

/* What others have written since is what this run adds to; else what was there when it began. */
static void set_look(struct replay *replay)
{
	struct working_set now;
	struct err err;

	if (working_set_load(&now, replay->store, &replay->scope, replay->image, &replay->id,
			     replay->key, &err) < 0)
		return;
	if (set_is(&now, &replay->set) || set_is(&now, &replay->own)) {
		working_set_fini(&now);
		return;
	}
	working_set_fini(&replay->set);
	replay->set = now;
}

static int set_merge(struct replay *replay, struct working_set *set, struct err *err)
{
	struct working_set_touch *touches = malloc((RECORD_PAGES + 1) * sizeof(*touches));
	const struct working_set_run run = {
		.touches = touches,
		.n = touches ? touches_copy(&replay->touches, touches, RECORD_PAGES) : 0,
		.unseen = is_unseen,
		.arg = replay,
	};
	int r = touches ? set_copy(set, &replay->set, err) : err_set(err, -ENOMEM, "no memory");

	if (!r)
		r = working_set_merge_run(set, &run, NULL, err);
	free(touches);
	return r;
}

static int set_write(struct replay *replay, uint64_t *written, struct err *err)
{
	struct working_set set = { 0 };
	int r;

	set_look(replay);
	r = set_merge(replay, &set, err);
	/* Nothing was touched, and nothing was known: there is nothing to say. */
	if (!r && set.n_pages)
		r = working_set_replace(&set, replay->store, &replay->scope, replay->image,
					replay->key, err);
	*written = r ? 0 : set.n_pages;
	if (r) {
		working_set_fini(&set);
		return r;
	}
	working_set_fini(&replay->own);
	replay->own = set;
	return 0;
}

/* Until its end, or the machine's. */
static void record(struct replay *replay)
{
	const size_t n = sizeof(write_ns) / sizeof(write_ns[0]);
	struct err err = { 0 };
	uint64_t written;
	bool last = false;
	size_t i;
	int r;

	for (i = 0; i < n && !last; i++) {
		if (!await_write(replay, write_ns[i], &last))
			return;
		last |= i + 1 == n;
		r = set_write(replay, &written, &err);
		if (r < 0 && r != -ECANCELED)
			log_info("the working set of image %s is not recorded: %s", replay->image,
				 err.text);
		note_record(replay,
			    r < 0 ? REPLAY_NOT_RECORDED :
			    last  ? REPLAY_RECORDED :
				    REPLAY_RECORDING,
			    written);
		if (r < 0)
			return;
	}
}

static void *replay_main(void *arg)
{
	struct replay *replay = arg;

	pthread_setname_np(pthread_self(), "working-set");
	thread_is_bulk();
	replay->load_result = working_set_load(&replay->set, replay->store, &replay->scope,
					       replay->image, NULL, replay->key, &replay->load_err);
	if (!await_source(replay))
		return NULL;
	if (replay->key && replay->is_plain) {
		/* Which was allowed, and is known only now. */
		working_set_fini(&replay->set);
		replay->key = NULL;
		replay->load_result =
			working_set_load(&replay->set, replay->store, &replay->scope, replay->image,
					 NULL, NULL, &replay->load_err);
	}
	judge_set(replay);
	replay_begin(replay);
	if (replay->options.record)
		record(replay);
	image_source_watch_end(replay->source);
	return NULL;
}

/* ---- life ---- */

int replay_new(struct replay **out, const struct replay_options *options, struct store *store,
	       const char *image, const struct image_key *key, struct err *err)
{
	struct replay *replay = calloc(1, sizeof(*replay));
	int r;

	if (!replay)
		return err_set(err, -ENOMEM, "no memory for a working set");
	replay->options = *options;
	replay->info.options = *options;
	replay->info.mode = replay_options_name(options);
	replay->info.record = options->record ? REPLAY_RECORDING : REPLAY_RECORD_OFF;
	replay->store = store;
	replay->key = key;
	snprintf(replay->image, sizeof(replay->image), "%s", image);
	store_scope_init(&replay->scope);
	pthread_mutex_init(&replay->lock, NULL);
	cond_init(&replay->changed);
	r = thread_start(&replay->thread, replay_main, replay);
	if (r < 0) {
		pthread_cond_destroy(&replay->changed);
		pthread_mutex_destroy(&replay->lock);
		store_scope_fini(&replay->scope);
		free(replay);
		return err_errno(err, r, "starting a thread for a working set");
	}
	*out = replay;
	return 0;
}

int replay_open(struct replay *replay, const struct manifest *manifest, struct touches **out,
		struct err *err)
{
	int r;

	*out = NULL;
	replay->id = manifest->id;
	replay->is_plain = !strcmp(manifest->encryption, "none");
	if (!replay->options.record)
		return 0;
	r = touches_init(&replay->touches, manifest->span_pages, RECORD_US, RECORD_PAGES);
	replay->has_touches = true;
	if (r < 0)
		return err_set(err, r, "no memory for a working set");
	*out = &replay->touches;
	return 0;
}

void replay_attach(struct replay *replay, struct image_source *source, struct memory *mem,
		   int memfd)
{
	pthread_mutex_lock(&replay->lock);
	replay->source = source;
	replay->mem = mem;
	replay->memfd = memfd;
	pthread_cond_broadcast(&replay->changed);
	pthread_mutex_unlock(&replay->lock);
}

void replay_guest_runs(struct replay *replay)
{
	int64_t now = clock_now_ns();

	pthread_mutex_lock(&replay->lock);
	if (!replay->begun_ns) {
		replay->begun_ns = now;
		if (replay->has_touches)
			touches_begin(&replay->touches, now);
	}
	pthread_cond_broadcast(&replay->changed);
	pthread_mutex_unlock(&replay->lock);
}

void replay_complete(struct replay *replay)
{
	pthread_mutex_lock(&replay->lock);
	replay->complete = true;
	pthread_cond_broadcast(&replay->changed);
	pthread_mutex_unlock(&replay->lock);
}

void replay_get_info(struct replay *replay, struct replay_info *info)
{
	pthread_mutex_lock(&replay->lock);
	*info = replay->info;
	pthread_mutex_unlock(&replay->lock);
	if (replay->has_touches)
		info->touches = touches_count(&replay->touches);
}

void replay_free(struct replay *replay)
{
	if (!replay)
		return;
	pthread_mutex_lock(&replay->lock);
	replay->gone = true;
	pthread_cond_broadcast(&replay->changed);
	pthread_mutex_unlock(&replay->lock);
	store_scope_cancel(&replay->scope);
	pthread_join(replay->thread, NULL);
	working_set_fini(&replay->set);
	working_set_fini(&replay->own);
	if (replay->has_touches)
		touches_fini(&replay->touches);
	pthread_cond_destroy(&replay->changed);
	pthread_mutex_destroy(&replay->lock);
	store_scope_fini(&replay->scope);
	free(replay);
}
