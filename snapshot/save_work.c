// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * What a save's thread does, from the store's opening to the manifest. While memory is read, it is
 * one of those that do (save_memory.c).
 *
 * Each ending of a save passes the same places: memory is let go as soon as it is of no use any
 * more, then the guest, if it still stands; only then comes what may take long.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/heap.h"
#include "base/log.h"
#include "snapshot/save_internal.h"

int save_cancelled(struct err *err)
{
	return err_set(err, -ECANCELED, "cancelled");
}

static int save_write_file(struct save *save, const char *what, const struct ram_file *file,
			   struct err *err)
{
	uint8_t *data;
	int r;

	if (file->len > STORE_OBJECT_MAX)
		return err_set(err, -EFBIG, "%s: an object has at most 1 GiB", file->path);
	data = malloc(file->len);
	if (!data)
		return err_set(err, -ENOMEM, "no memory for %s", file->path);
	r = ram_file_read(file, 0, data, file->len, err);
	if (r < 0)
		err_prefix(err, r, "%s", file->path);
	else
		r = image_writer_object(save->writer, what, data, file->len, err);
	free(data);
	return r;
}

static int write_boot(struct save *save, struct err *err)
{
	int r;

	if (!save->boot_open)
		return 0;
	r = save_write_file(save, IMAGE_BOOT_KERNEL, &save->boot.kernel, err);
	if (!r && save->boot.has_initrd)
		r = save_write_file(save, IMAGE_BOOT_INITRD, &save->boot.initrd, err);
	return r;
}

/* Claims the name. options: of the machine as it was at the moment. */
static int open_writer(struct save *save, const char *options, int64_t time_s, struct err *err)
{
	struct image_writer_config *config = calloc(1, sizeof(*config));
	int r;

	if (!config)
		return err_set(err, -ENOMEM, "no memory to save a machine");
	config->machine = save->list->machine;
	config->machine.options = options;
	config->parent = save->parent;
	config->key = save->config.key;
	config->level = save->config.level;
	config->time_s = time_s;
	r = image_writer_new(&save->writer, save->store, &save->scope, save->config.place.name,
			     config, err);
	if (!r) {
		pthread_mutex_lock(&save->lock);
		image_id_format(image_writer_id(save->writer), save->id);
		pthread_mutex_unlock(&save->lock);
	}
	free(config);
	return r;
}

/*
 * The guest stands still. Before it goes on and writes to them, disks' files are looked at; all
 * else of a live save is for later.
 */
static int save_after_moment(struct save *save, struct err *err)
{
	int64_t time_s = time(NULL);
	char *options;
	int r;

	r = save_fall_back(save, err);
	if (!r)
		r = host_list_look(save->list, &options, err);
	if (r < 0)
		return r;
	if (save->live)
		save_let_go(save, false);
	r = open_writer(save, options, time_s, err);
	free(options);
	return r ? r : save_memory(save, err);
}

/* To be told before the guest is paused. */
static int check_free(struct save *save, struct err *err)
{
	char object[STORE_NAME_MAX + 1];
	int64_t r;
	char byte;

	snprintf(object, sizeof(object), "%s/manifest.json", save->config.place.name);
	r = store_get(save->store, &save->scope, object, 0, &byte, 1, STORE_UP_TO, err);
	if (r >= 0)
		return err_set(err, -EEXIST, "%s: there is an image of the name %s already: delete it "
			       "first, or take another name",
			       store_label(save->store), save->config.place.name);
	return r == -ENOENT ? 0 : (int)r;
}

/* Is it that image still? The name may have been given to another. */
static int save_check_parent(struct save *save, struct err *err)
{
	char id[IMAGE_ID_TEXT];

	image_id_format(&image_manifest(save->parent)->id, id);
	if (!strcmp(id, save->config.parent_id))
		return 0;
	image_free(save->parent);
	save->parent = NULL;
	return err_set(err, -ESTALE,
		       "image %s is not any more what this machine was last saved into, or "
		       "restored from: another has its name now",
		       save->config.parent);
}

/* Opened anew: who reads the image for the guest may end that at any time. */
static int open_parent(struct save *save, struct err *err)
{
	bool needed = save->config.incremental || memory_is_late(save->mem);
	const struct image_options open = { .key = save->config.key };
	int r;

	if (!save->config.parent[0])
		return 0;
	r = image_open(&save->parent, save->store, &save->scope, save->config.parent, &open, err);
	if (r < 0)
		save->parent = NULL;
	else
		r = save_check_parent(save, err);
	if (!r)
		return 0;
	if (needed || save_is_cancelled(save))
		return err_prefix(err, r, "what the guest has not changed cannot be named");
	log_info("the machine is saved without reference to image %s: %s", save->config.parent,
		 err->text);
	return 0;
}

/* What ends with memory, whether it has been read or not. */
static void end_memory(struct save *save, int r)
{
	/*
	 * After a failure at once: writers may wait for room. Else it is not known yet whether
	 * there will be an image.
	 */
	if (r < 0)
		save_end_snapshot(save, false);
	save_let_go(save, true);
}

static int write_rest(struct save *save, struct buf *state, struct err *err)
{
	int r = save_early_encode(save, state, err);

	if (!r)
		r = image_writer_object(save->writer, IMAGE_STATE, state->data, state->len, err);
	if (!r)
		r = write_boot(save, err);
	if (!r && save_is_cancelled(save))
		r = save_cancelled(err);
	if (!r)
		r = image_writer_finish(save->writer, err);
	return r;
}

static int save_all(struct save *save, struct buf *state, struct err *err)
{
	int r = check_free(save, err);

	if (!r)
		r = open_parent(save, err);
	if (!r) {
		save_enter_phase(save, SAVE_PREPARING);
		r = save_prepare(save, err);
	}
	if (!r)
		r = save_moment(save, err);
	if (!r)
		r = save_after_moment(save, err);
	end_memory(save, r);
	return r ? r : write_rest(save, state, err);
}

static int save_open_store(struct save *save, struct err *err)
{
	const struct save_config *config = &save->config;
	const struct store_options options = {
		.deadline_ms = config->deadline_ms,
		.credentials = *config->credentials ? config->credentials : NULL,
	};

	save->store = config->store;
	return save->store ? 0 : store_open(&save->store, config->place.store, &options, err);
}

void *save_main(void *arg)
{
	struct save *save = arg;
	struct buf state = { 0 };
	struct err err = { 0 };
	int r;

	pthread_setname_np(pthread_self(), "snapshot");
	r = save_open_store(save, &err);
	if (!r)
		r = save_all(save, &state, &err);
	if (r < 0)
		save_fail(save, &err);
	save_end_snapshot(save, !r);
	pthread_mutex_lock(&save->lock);
	save->whole = !r;
	if (save->writer)
		image_writer_stats(save->writer, &save->stats);
	pthread_mutex_unlock(&save->lock);
	image_writer_free(save->writer);
	image_free(save->parent);
	if (!save->config.store)
		store_free(save->store);
	buf_fini(&state);
	heap_trim();
	return NULL;
}
