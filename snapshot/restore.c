// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "snapshot/restore.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/heap.h"
#include "base/log.h"
#include "base/thread.h"
#include "image/key.h"
#include "image/state.h"
#include "snapshot/boot_fetch.h"
#include "snapshot/host.h"
#include "snapshot/restore_early.h"

struct restore {
	struct loop *loop;
	struct snapshot_place place;
	struct store_options options;
	struct image_key *key;
	bool allow_unencrypted;
	struct replay_options replay_options;
	void (*meanwhile)(void *arg);
	void *meanwhile_arg;
	struct store *store;
	struct store_scope scope;
	struct image *image;
	/* What the manifest says; the main thread's once it is known. */
	struct host_record record;
	struct image_id id;
	unsigned int cpus;
	uint64_t memory_bytes;
	struct buf state;		/* the object; freed once it is loaded */

	pthread_t thread;
	bool begun;			/* the thread is to be joined */
	bool opening;			/* what follows is the thread's */
	struct err unfit;		/* of what the manifest says */
	struct err err;
	bool placed;			/* the early pages are in memory */

	pthread_mutex_t lock;		/* guards the rest of this group */
	pthread_cond_t changed;
	struct memory *mem;		/* which the thread may fill; NULL: not yet, or no more */
	bool mem_is_known;		/* it comes no more */
	bool filling;

	void (*done)(void *arg, const struct err *err); /* who waits; NULL: nobody */
	void *arg;

	struct machine *machine;	/* from restore_load on */
	struct machine_observer observer;
	struct image_source *source;
	struct replay *replay; /* NULL: none */
	struct boot_fetch *boot;
};

static void restore_done(struct restore *restore, const struct err *err)
{
	void (*done)(void *arg, const struct err *err) = restore->done;

	restore->done = NULL;
	if (done)
		done(restore->arg, err);
}

/* ---- opening, on the thread ---- */

static int restore_check_machine(struct restore *restore, const struct manifest_machine *machine,
				 struct err *err)
{
	int r;

	if (machine->memory_only)
		return err_set(err, -EINVAL,
			       "it has memory alone, which was imported, and no machine that "
			       "could run");
	r = host_check_shape(machine, err);
	if (!r)
		r = host_record_parse(&restore->record, machine->options, err);
	restore->cpus = machine->cpus;
	restore->memory_bytes = host_memory_bytes(machine);
	return r;
}

static void on_known(void *arg)
{
	struct restore *restore = arg;

	if (restore->opening)
		restore_done(restore, NULL);
}

/* The working set comes while the rest is opened. It is only a hint: without it goes, too. */
static void open_replay(struct restore *restore)
{
	struct err err;

	if (!restore->replay_options.off &&
	    replay_new(&restore->replay, &restore->replay_options, restore->store,
		       restore->place.name, restore->key, &err) < 0)
		log_warn("%s", err.text);
}

/* The machine can be made; what of the image follows is read meanwhile. */
static void open_known(void *arg, const struct manifest *manifest)
{
	struct restore *restore = arg;

	restore->id = manifest->id;
	if (restore_check_machine(restore, &manifest->machine, &restore->unfit))
		return;
	loop_post(restore->loop, on_known, restore);
	open_replay(restore);
}

static int open_all(struct restore *restore, struct err *err)
{
	const struct image_options open = {
		.key = restore->key,
		.allow_unencrypted = restore->allow_unencrypted,
		.known = open_known,
		.known_arg = restore,
	};
	int r = store_open(&restore->store, restore->place.store, &restore->options, err);

	if (!r)
		r = image_open(&restore->image, restore->store, &restore->scope,
			       restore->place.name, &open, err);
	if (restore->unfit.code) {
		*err = restore->unfit;
		return err_prefix(err, err->code, "image %s", restore->place.name);
	}
	return r ? r : image_get_object(restore->image, IMAGE_STATE, &restore->state, err);
}

static void on_opened(void *arg)
{
	struct restore *restore = arg;

	if (!restore->opening)
		return;
	restore->opening = false;
	restore_done(restore, restore->err.code ? &restore->err : NULL);
}

/* Memory to be filled, until it is given back; NULL: there is none, or not any more. */
static struct memory *fill_begin(struct restore *restore)
{
	struct memory *mem;

	pthread_mutex_lock(&restore->lock);
	while (!restore->mem && !restore->mem_is_known)
		pthread_cond_wait(&restore->changed, &restore->lock);
	mem = restore->mem;
	restore->filling = mem;
	pthread_mutex_unlock(&restore->lock);
	return mem;
}

static void fill_end(struct restore *restore)
{
	pthread_mutex_lock(&restore->lock);
	restore->filling = false;
	pthread_cond_broadcast(&restore->changed);
	pthread_mutex_unlock(&restore->lock);
}

/* The early pages, while the rest of the machine is made. */
static int open_place(struct restore *restore, struct early_spans *spans, struct err *err)
{
	struct image_state state;
	struct memory *mem;
	int r = image_state_decode(&state, restore->state.data, restore->state.len,
				   restore->place.name, err);

	if (r)
		return r;
	early_spans_of(spans, &state, image_manifest(restore->image)->span_pages);
	mem = fill_begin(restore);
	if (!mem)
		return 0;
	r = early_place(mem, &state, err);
	fill_end(restore);
	restore->placed = !r;
	return r ? err_prefix(err, r, "image %s", restore->place.name) : 0;
}

static void *open_main(void *arg)
{
	struct restore *restore = arg;
	struct early_spans spans;
	int r;

	pthread_setname_np(pthread_self(), "restore-open");
	r = open_all(restore, &restore->err);
	if (!r)
		r = open_place(restore, &spans, &restore->err);
	loop_post(restore->loop, on_opened, restore);
	if (r)
		return NULL;
	if (restore->meanwhile)
		restore->meanwhile(restore->meanwhile_arg);
	/* Not from far away: it would come too late, and take its part of the line. */
	if (!restore->place.far)
		early_spans_read(&spans, restore->image);
	return NULL;
}

int restore_open(struct restore **out, struct loop *loop, const char *place,
		 const struct restore_options *options,
		 void (*done)(void *arg, const struct err *err), void *arg, struct err *err)
{
	struct restore *restore = calloc(1, sizeof(*restore));
	int r;

	if (!restore) {
		image_key_free(options->key);
		return err_set(err, -ENOMEM, "no memory to restore a machine");
	}
	restore->loop = loop;
	restore->done = done;
	restore->arg = arg;
	if (options->store)
		restore->options = *options->store;
	restore->key = options->key;
	restore->allow_unencrypted = options->allow_unencrypted;
	restore->replay_options = options->working_set;
	restore->meanwhile = options->meanwhile;
	restore->meanwhile_arg = options->meanwhile_arg;
	store_scope_init(&restore->scope);
	pthread_mutex_init(&restore->lock, NULL);
	pthread_cond_init(&restore->changed, NULL);
	r = snapshot_place_parse(&restore->place, place, err);
	if (!r) {
		r = thread_start(&restore->thread, open_main, restore);
		if (r < 0)
			err_errno(err, r, "starting a thread to open an image");
	}
	if (r < 0) {
		restore_free(restore);
		return r;
	}
	restore->begun = restore->opening = true;
	*out = restore;
	return 0;
}

/* Memory is there to be filled; NULL: no more, whoever fills it has ended. */
static void restore_take_memory(void *arg, struct memory *mem)
{
	struct restore *restore = arg;

	pthread_mutex_lock(&restore->lock);
	restore->mem = mem;
	restore->mem_is_known = true;
	pthread_cond_broadcast(&restore->changed);
	while (!mem && restore->filling)
		pthread_cond_wait(&restore->changed, &restore->lock);
	pthread_mutex_unlock(&restore->lock);
}

int restore_await(struct restore *restore, void (*done)(void *arg, const struct err *err),
		  void *arg, struct err *err)
{
	/* What has not been given by now is not to be filled before it is loaded. */
	pthread_mutex_lock(&restore->lock);
	restore->mem_is_known = true;
	pthread_cond_broadcast(&restore->changed);
	pthread_mutex_unlock(&restore->lock);
	if (!restore->opening) {
		*err = restore->err;
		return err->code ? err->code : 1;
	}
	restore->done = done;
	restore->arg = arg;
	return 0;
}

/* ---- the machine ---- */

int restore_machine(struct restore *restore, struct machine_config *config, struct err *err)
{
	if (config->cpus && config->cpus != restore->cpus)
		return err_set(err, -EINVAL, "--cpus %u: the guest of image %s has %u",
			       config->cpus, restore->place.name, restore->cpus);
	if (config->memory_bytes && config->memory_bytes != restore->memory_bytes)
		return err_set(err, -EINVAL, "--memory: the guest of image %s has %" PRIu64 " MiB",
			       restore->place.name, restore->memory_bytes >> 20);
	config->cpus = restore->cpus;
	config->memory_bytes = restore->memory_bytes;
	config->starts_inmigrate = true;
	config->ram_is_late = true;
	config->ram_made = restore_take_memory;
	config->ram_arg = restore;
	config->loads_no_kernel = true;
	return 0;
}

const struct image_id *restore_id(const struct restore *restore)
{
	return &restore->id;
}

bool restore_has_boot(const struct restore *restore)
{
	return restore->record.boot == BOOT_FILES;
}

/* Each that the state needs has come, now that it is known which these are. */
static int early_check(void *arg, gfn_t gfn)
{
	struct memory *mem = arg;

	if (gfn.v > UINT64_MAX >> PAGE_SHIFT || !memory_is_ram(mem, gfn_to_gpa(gfn), PAGE_BYTES) ||
	    memory_page_state(mem, gfn) == PAGE_PRESENT)
		return 0;
	return -ENODATA;
}

static int restore_load_state(struct restore *restore, bool clock_realtime, struct err *err)
{
	const struct machine_away away = { restore->record.parked_ns, clock_realtime };
	struct memory *mem = machine_memory(restore->machine);
	struct image_state state;
	int r;

	r = image_state_decode(&state, restore->state.data, restore->state.len, restore->place.name,
			       err);
	if (!r && !restore->placed)
		r = early_place(mem, &state, err);
	if (!r)
		r = machine_load_away(restore->machine, state.machine, state.machine_bytes, &away,
				      err);
	if (!r && machine_early_pages(restore->machine, early_check, mem, err) == -ENODATA)
		r = err_set(err, -EBADMSG, "its state lacks pages that the guest needs at once");
	buf_fini(&restore->state);
	return r ? err_prefix(err, r, "image %s", restore->place.name) : 0;
}

/*
 * Nobody asks for pages any more; the image may still be named by a snapshot. What was kept of
 * it would be the machine's for as long as it lives.
 */
static void on_complete(void *arg)
{
	struct restore *restore = arg;

	memory_detach(machine_memory(restore->machine));
	image_source_stop(restore->source);
	image_drop_caches(restore->image);
	if (restore->replay)
		replay_complete(restore->replay);
	/* For others who read the image. */
	store_scope_open(&restore->scope);
	heap_trim();
	log_info("all of the guest's memory has come from image %s", restore->place.name);
}

/* What the guest touches from now on counts. */
static void on_state(void *arg, enum run_state old, enum run_state now)
{
	struct restore *restore = arg;

	(void)old;
	if (now == RUN_STATE_RUNNING && restore->replay)
		replay_guest_runs(restore->replay);
}

static int attach(struct restore *restore, const struct worker_fill *fill, struct err *err)
{
	struct image_source_config config = {
		.image = restore->image,
		.scope = &restore->scope,
		.far = restore->place.far,
		.fill = *fill,
	};
	struct memory *mem = machine_memory(restore->machine);
	int r = 0;

	if (restore->replay)
		r = replay_open(restore->replay, image_manifest(restore->image), &config.touches,
				err);
	if (!r)
		r = image_source_new(&restore->source, &config, mem, err);
	if (!r)
		r = image_source_start(restore->source, err);
	if (r < 0)
		return r;
	if (restore->replay)
		replay_attach(restore->replay, restore->source, mem,
			      memory_is_backed(mem) ? machine_config(restore->machine)->ram_memfd :
						      -1);
	memory_attach(mem, image_source_pages(restore->source));
	return 0;
}

/*
 * What it reboots with, but for the files, which come later. A kernel of this machine's own options
 * goes over all that the image says.
 */
static int take_boot(struct restore *restore, struct err *err)
{
	enum boot_type own = machine_boot(restore->machine)->type;
	const struct host_record *record = &restore->record;
	struct boot_files files;
	int r = 0;

	if (own == BOOT_FILES || record->boot == BOOT_FILES)
		return 0;
	if (record->boot == BOOT_NOTHING && own == BOOT_NOTHING)
		log_warn("image %s has no kernel for its guest: a reboot will be its end",
			 restore->place.name);
	if (record->boot != BOOT_DISK)
		return 0;
	if (own != BOOT_DISK)
		return err_set(err, -EINVAL,
			       "the guest of image %s starts from its first disk: give "
			       "it the same --disk, or --kernel",
			       restore->place.name);
	boot_files_init(&files);
	files.type = BOOT_DISK;
	files.cmdline = record->cmdline ? strdup(record->cmdline) : NULL;
	files.append = record->append ? strdup(record->append) : NULL;
	r = machine_boot_take(restore->machine, &files, err);
	boot_files_fini(&files);
	return r;
}

int restore_load(struct restore *restore, struct machine *machine,
		 const struct restore_terms *terms, const struct worker_fill *fill, struct err *err)
{
	int r = 0;

	restore->machine = machine;
	restore->observer = (struct machine_observer){ .state = on_state,
						       .memory_complete = on_complete,
						       .arg = restore };
	machine_observe(machine, &restore->observer);
	if (!terms->changed_disks)
		r = host_check_disks(image_manifest(restore->image), &restore->record, machine,
				     terms->below, err);
	if (!r)
		r = take_boot(restore, err);
	if (!r)
		r = restore_load_state(restore, terms->clock_realtime, err);
	return r ? r : attach(restore, fill, err);
}

int restore_run(struct restore *restore, struct err *err)
{
	struct err boot;
	/* It is not the only one that comes from there, or may not be. */
	int r = machine_renew_identity(restore->machine, err);

	if (!r)
		r = machine_leave_migrate(restore->machine, true, err);
	if (!r && restore_has_boot(restore) && !restore->boot &&
	    boot_fetch_new(&restore->boot, restore->machine, restore->image, &restore->record,
			   &boot) < 0)
		log_warn("%s", boot.text);
	return r;
}

int restore_boot_find(struct restore *restore, struct err *err)
{
	if (!restore->boot)
		return err_set(err, -ENOENT, "image %s has no kernel for the guest's reboot",
			       restore->place.name);
	return boot_fetch_await(restore->boot, err);
}

int restore_check_boot(struct restore *restore, struct err *err)
{
	struct err why = { 0 };

	if (!restore->boot || machine_boot(restore->machine)->type == BOOT_FILES)
		return 0;
	if (!boot_fetch_is_done(restore->boot, &why))
		return err_set(err, -EAGAIN,
			       "what the guest reboots with is still on its way out of "
			       "its image: try again once it has come%s%s",
			       why.code ? "; until now: " : "", why.code ? why.text : "");
	*err = why;
	return why.code ? err_prefix(err, why.code, "what the guest reboots with cannot be had") :
			  0;
}

/* ---- the rest ---- */

const struct snapshot_place *restore_place(const struct restore *restore)
{
	return &restore->place;
}

struct store *restore_store(struct restore *restore)
{
	return restore->store;
}

struct image *restore_image(struct restore *restore)
{
	return restore->image;
}

struct image_source *restore_source(struct restore *restore)
{
	return restore->source;
}

const struct image_key *restore_key(const struct restore *restore)
{
	return restore->key;
}

struct replay *restore_replay(struct restore *restore)
{
	return restore->replay;
}

void restore_free(struct restore *restore)
{
	if (!restore)
		return;
	store_scope_cancel(&restore->scope);
	restore_take_memory(restore, NULL);
	if (restore->begun)
		pthread_join(restore->thread, NULL);
	restore->begun = restore->opening = false;
	if (restore->machine) {
		machine_unobserve(restore->machine, &restore->observer);
		memory_detach(machine_memory(restore->machine));
	}
	boot_fetch_free(restore->boot);
	replay_free(restore->replay);
	image_source_free(restore->source);
	image_free(restore->image);
	store_free(restore->store);
	image_key_free(restore->key);
	store_scope_fini(&restore->scope);
	host_record_fini(&restore->record);
	buf_fini(&restore->state);
	pthread_cond_destroy(&restore->changed);
	pthread_mutex_destroy(&restore->lock);
	free(restore);
}
