// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * The phases of a save, and the main thread's part of it: the moment, and letting the guest go.
 *
 * The thread asks for both by a post to the loop. A post holds a reference, so that one which is
 * under way when the job is freed finds it there, and does nothing.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/cond.h"
#include "base/log.h"
#include "base/thread.h"
#include "image/key.h"
#include "memory/eject.h"
#include "snapshot/save_internal.h"

const char *save_phase_name(enum save_phase phase)
{
	static const char *const names[] = {
		[SAVE_OPENING] = "opening",	[SAVE_PREPARING] = "preparing",
		[SAVE_PAUSING] = "pausing",	[SAVE_COPYING] = "copying",
		[SAVE_FINISHING] = "finishing", [SAVE_COMPLETED] = "completed",
		[SAVE_FAILED] = "failed",	[SAVE_CANCELLED] = "cancelled",
	};

	return names[phase];
}

static void save_put(struct save *save)
{
	bool last;

	pthread_mutex_lock(&save->lock);
	last = !--save->refs;
	pthread_mutex_unlock(&save->lock);
	if (!last)
		return;
	pthread_cond_destroy(&save->changed);
	pthread_mutex_destroy(&save->lock);
	image_key_free(save->config.key);
	free(save);
}

/* fn, on the main thread, puts its reference. */
static void save_post(struct save *save, void (*fn)(void *arg))
{
	pthread_mutex_lock(&save->lock);
	save->refs++;
	pthread_mutex_unlock(&save->lock);
	loop_post(save->loop, fn, save);
}

static bool save_enter(struct save *save, enum save_phase phase)
{
	bool gone;

	pthread_mutex_lock(&save->lock);
	gone = save->gone;
	save->phase = phase;
	pthread_cond_broadcast(&save->changed);
	pthread_mutex_unlock(&save->lock);
	return !gone;
}

/* Main thread. */
static void save_tell(struct save *save)
{
	if (save->config.changed)
		save->config.changed(save->config.arg);
}

/* Main thread: the job's thread has something for it. False: nobody wants to hear of it. */
static bool save_is_wanted(struct save *save)
{
	bool gone;

	pthread_mutex_lock(&save->lock);
	gone = save->gone;
	pthread_mutex_unlock(&save->lock);
	return !gone;
}

static void on_phase(void *arg)
{
	struct save *save = arg;

	if (save_is_wanted(save))
		save_tell(save);
	save_put(save);
}

void save_enter_phase(struct save *save, enum save_phase phase)
{
	save_enter(save, phase);
	save_post(save, on_phase);
}

int save_fail(struct save *save, const struct err *err)
{
	pthread_mutex_lock(&save->lock);
	if (!save->err.code)
		save->err = *err;
	pthread_mutex_unlock(&save->lock);
	return err->code;
}

/* ---- the guest goes on ---- */

/* Main thread. */
static void let_go(struct save *save)
{
	if (!save->holds_guest)
		return;
	save->holds_guest = false;
	machine_leave_save(save->config.machine);
	pthread_mutex_lock(&save->lock);
	save->paused_ns = clock_now_ns() - save->paused_at_ns;
	pthread_mutex_unlock(&save->lock);
}

static void let_memory_go(struct save *save)
{
	let_go(save);
	if (!save->holds_memory)
		return;
	save->holds_memory = false;
	machine_finish_save(save->config.machine);
}

static void on_let_go(void *arg)
{
	struct save *save = arg;

	if (save_is_wanted(save)) {
		let_go(save);
		save_tell(save);
	}
	save_put(save);
}

static void on_memory_read(void *arg)
{
	struct save *save = arg;

	if (save_is_wanted(save)) {
		let_memory_go(save);
		save_tell(save);
	}
	save_put(save);
}

void save_let_go(struct save *save, bool has_memory)
{
	if (has_memory)
		save_enter(save, SAVE_FINISHING);
	save_post(save, has_memory ? on_memory_read : on_let_go);
}

/* ---- the moment ---- */

/* Is there nothing to look at before the guest goes on? */
static bool list_has_files(const struct host_list *list)
{
	unsigned int i;

	for (i = 0; i < MANIFEST_DISKS_MAX; i++)
		if (list->path[i])
			return true;
	return false;
}

static int take_moment(struct save *save, struct err *err)
{
	struct machine *machine = save->config.machine;
	int r;

	save->paused_at_ns = clock_now_ns();
	r = machine_enter_save(machine, err);
	if (r < 0)
		return r;
	save->holds_guest = save->holds_memory = true;
	r = machine_save(machine, &save->machine_state, err);
	if (!r)
		r = save_early_list(save, err);
	if (!r)
		r = host_list_make(save->list, machine, err);
	if (!r)
		r = save_begin(save, err);
	if (r < 0)
		let_memory_go(save);
	else if (save->live && !list_has_files(save->list))
		let_go(save);
	return r;
}

static void on_moment(void *arg)
{
	struct save *save = arg;
	struct err err = { 0 };
	bool wanted;
	int r;

	pthread_mutex_lock(&save->lock);
	wanted = !save->gone && save->phase == SAVE_PAUSING;
	pthread_mutex_unlock(&save->lock);
	if (wanted && !save_is_cancelled(save)) {
		save_tell(save);
		r = take_moment(save, &err);
		if (r < 0)
			save_fail(save, &err);
		save_enter(save, r < 0 ? SAVE_FINISHING : SAVE_COPYING);
		save_tell(save);
	} else if (wanted) {
		save_enter(save, SAVE_FINISHING);
	}
	save_put(save);
}

int save_moment(struct save *save, struct err *err)
{
	int r;

	save_enter(save, SAVE_PAUSING);
	save_post(save, on_moment);
	pthread_mutex_lock(&save->lock);
	while (save->phase == SAVE_PAUSING && !save->gone)
		pthread_cond_wait(&save->changed, &save->lock);
	if (save->phase == SAVE_COPYING)
		r = 0;
	else if (save->err.code)
		*err = save->err, r = err->code;
	else
		r = err_set(err, -ECANCELED, "cancelled");
	pthread_mutex_unlock(&save->lock);
	return r;
}

/* ---- the end ---- */

static enum save_phase save_verdict(const struct save *save)
{
	if (save->whole)
		return SAVE_COMPLETED;
	return save->err.code == -ECANCELED ? SAVE_CANCELLED : SAVE_FAILED;
}

static void on_end(void *arg)
{
	struct save *save = arg;
	enum save_phase phase = SAVE_FAILED;
	bool gone;

	pthread_mutex_lock(&save->lock);
	gone = save->gone;
	if (!gone) {
		phase = save->phase = save_verdict(save);
		save->ended_ns = clock_now_ns();
	}
	pthread_mutex_unlock(&save->lock);
	if (!gone) {
		let_memory_go(save);
		if (phase == SAVE_FAILED)
			log_error("the machine could not be saved as %s: %s",
				  save->config.place.name, save->err.text);
		else
			log_info("saving the machine as %s: %s", save->config.place.name,
				 save_phase_name(phase));
		save_tell(save);
	}
	save_put(save);
}

static void *thread_main(void *arg)
{
	struct save *save = arg;

	save_main(save);
	save_post(save, on_end);
	return NULL;
}

/* ---- life ---- */

static int check(const struct save *save, struct err *err)
{
	enum run_state state = machine_state(save->config.machine);

	if (state == RUN_STATE_INMIGRATE || state == RUN_STATE_FINISH_MIGRATE ||
	    state == RUN_STATE_POSTMIGRATE || state == RUN_STATE_SHUTDOWN)
		return err_set(err, -EBUSY,
			       "a machine in state %s cannot be saved: its guest is not "
			       "here",
			       run_state_name(state));
	if (memory_is_late(save->mem) && !save->config.parent[0])
		return err_set(err, -EBUSY,
			       "the guest's memory is still arriving from another host: "
			       "save it once query-migrate says completed");
	return 0;
}

/* Opened now: what lies there is what the guest would reboot with. */
static int open_boot(struct save *save, struct err *err)
{
	const struct boot_files *files = machine_boot(save->config.machine);
	int r;

	if (files->type != BOOT_FILES)
		return 0;
	r = boot_files_open(files, &save->boot, err);
	if (r < 0)
		return err_prefix(err, r,
				  "what the guest reboots with cannot be saved along (put it "
				  "back)");
	save->boot_open = true;
	return 0;
}

static int make_waiters(struct save *save, struct err *err)
{
	unsigned int i;

	for (i = 0; i < save->config.threads; i++) {
		save->waiter[i] = memory_thread_new(save->mem, "snapshot", -1);
		if (!save->waiter[i])
			return err_set(err, -ENOMEM, "no memory to save a machine");
	}
	return 0;
}

int save_new(struct save **out, const struct save_config *config, struct err *err)
{
	struct save *save = calloc(1, sizeof(*save));
	int r;

	if (!save || !(save->list = calloc(1, sizeof(*save->list)))) {
		free(save);
		image_key_free(config->key);
		return err_set(err, -ENOMEM, "no memory to save a machine");
	}
	save->config = *config;
	save->config.threads = !config->threads			  ? 2 :
			       config->threads < SAVE_THREADS_MAX ? config->threads :
								    SAVE_THREADS_MAX;
	save->loop = machine_loop(config->machine);
	save->mem = machine_memory(config->machine);
	save->refs = 1;
	/* A guest that stands still already has nothing of it; but what is tracked has. */
	save->live = !config->paused &&
		     (machine_is_running(config->machine) || config->track || config->incremental);
	if (!save->live)
		snprintf(save->reason, sizeof(save->reason), "%s",
			 config->paused ? "that was asked for" : "the guest was stopped anyway");
	save->started_ns = clock_now_ns();
	pthread_mutex_init(&save->lock, NULL);
	cond_init(&save->changed);
	store_scope_init(&save->scope);
	r = check(save, err);
	if (!r)
		r = open_boot(save, err);
	if (!r)
		r = make_waiters(save, err);
	if (!r) {
		r = thread_start(&save->thread, thread_main, save);
		save->started = !r;
		if (r < 0)
			err_errno(err, r, "starting a thread to save the machine");
	}
	if (r < 0) {
		save_free(save);
		return r;
	}
	*out = save;
	return 0;
}

void save_cancel(struct save *save)
{
	struct err err;
	unsigned int i;

	err_set(&err, -ECANCELED, "cancelled");
	save_fail(save, &err);
	atomic_store(&save->cancelled, true);
	pthread_mutex_lock(&save->lock);
	if (save->snapshot)
		memory_snapshot_cancel(save->snapshot);
	pthread_mutex_unlock(&save->lock);
	store_scope_cancel(&save->scope);
	for (i = 0; i < save->config.threads; i++)
		if (save->waiter[i])
			memory_thread_kick(save->waiter[i]);
	/* Nobody needs to see memory as it was any more. */
	let_go(save);
}

void save_info(struct save *save, struct save_info *info)
{
	*info = (struct save_info){ .pages = memory_pages(save->mem),
				    .pages_done = atomic_load(&save->pages_done) };
	pthread_mutex_lock(&save->lock);
	info->phase = save->phase;
	info->data_pages = save->stats.data_pages;
	info->zero_pages = save->stats.zero_pages;
	info->kept_pages = save->stats.kept_pages;
	info->stored_bytes = save->stats.stored_bytes;
	info->started_ns = save->started_ns;
	info->ended_ns = save->ended_ns;
	info->paused_ns = save->paused_ns    ? save->paused_ns :
			  save->paused_at_ns ? clock_now_ns() - save->paused_at_ns :
					       0;
	info->live = save->live;
	info->tracked = save->tracked;
	info->memory = save->memory_stats;
	if (save->snapshot)
		memory_snapshot_stats(save->snapshot, &info->memory);
	memcpy(info->reason, save->reason, sizeof(info->reason));
	memcpy(info->id, save->id, sizeof(info->id));
	info->err = save->err;
	pthread_mutex_unlock(&save->lock);
}

void save_free(struct save *save)
{
	unsigned int i;

	if (!save)
		return;
	pthread_mutex_lock(&save->lock);
	save->gone = true;
	pthread_cond_broadcast(&save->changed);
	pthread_mutex_unlock(&save->lock);
	if (save->started) {
		save_cancel(save);
		pthread_join(save->thread, NULL);
		let_memory_go(save);
	}
	for (i = 0; i < save->config.threads; i++)
		memory_thread_free(save->waiter[i]);
	if (save->boot_open)
		boot_opened_close(&save->boot);
	host_list_fini(save->list);
	free(save->list);
	buf_fini(&save->machine_state);
	save_early_fini(save);
	store_scope_fini(&save->scope);
	save_put(save);
}
