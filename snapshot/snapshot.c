// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "snapshot/snapshot.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image/key.h"

#define PROGRESS_MS 1000

struct snapshot_image {
	char store[STORE_URL_MAX];
	char name[IMAGE_NAME_MAX];
	char id[IMAGE_ID_TEXT];
};

struct snapshot {
	struct machine *machine;
	struct restore *restore;
	struct snapshot_observer observer;
	struct save *save;
	char id[SNAPSHOT_ID_MAX + 1];
	struct snapshot_place place;
	char parent[IMAGE_NAME_MAX];	/* of an incremental save */
	/* What the machine was last saved into or restored from; and the latter. No name: neither. */
	struct snapshot_image last, restored;
	struct image_key *key; /* of last; NULL: it is not encrypted, or there is none */
	struct image_key *next_key; /* the same of the image that is being saved */
	bool key_is_next;
	unsigned int saves;
	uv_timer_t *timer;		/* runs while a save is under way */
};

bool snapshot_query(struct snapshot *s, struct snapshot_info *info)
{
	if (!s->save)
		return false;
	*info = (struct snapshot_info){ 0 };
	snprintf(info->id, sizeof(info->id), "%s", s->id);
	snprintf(info->store, sizeof(info->store), "%s", s->place.store);
	snprintf(info->name, sizeof(info->name), "%s", s->place.name);
	snprintf(info->parent, sizeof(info->parent), "%s", s->parent);
	save_info(s->save, &info->save);
	return true;
}

static void snapshot_tell(struct snapshot *s)
{
	struct snapshot_info info;

	if (!snapshot_query(s, &info))
		return;
	if (save_phase_is_over(info.save.phase))
		uv_timer_stop(s->timer);
	if (s->observer.progress)
		s->observer.progress(s->observer.arg, &info);
}

/* It is whole: the next one may be on top of it. */
static void note_last(struct snapshot *s)
{
	struct save_info info;

	save_info(s->save, &info);
	if (info.phase != SAVE_COMPLETED)
		return;
	snprintf(s->last.store, sizeof(s->last.store), "%s", s->place.store);
	snprintf(s->last.name, sizeof(s->last.name), "%s", s->place.name);
	snprintf(s->last.id, sizeof(s->last.id), "%s", info.id);
	if (!s->key_is_next)
		return;
	image_key_free(s->key);
	s->key = s->next_key;
	s->next_key = NULL;
	s->key_is_next = false;
}

static void on_changed(void *arg)
{
	struct snapshot *s = arg;

	/* It may be told of before snapshot_save knows it. */
	if (s->save)
		note_last(s);
	snapshot_tell(s);
}

static void on_second(uv_timer_t *timer)
{
	snapshot_tell(timer->data);
}

/* ---- life ---- */

static void note_restored(struct snapshot *s)
{
	const struct snapshot_place *place = restore_place(s->restore);

	if (!restore_image(s->restore))
		return;
	snprintf(s->restored.store, sizeof(s->restored.store), "%s", place->store);
	snprintf(s->restored.name, sizeof(s->restored.name), "%s", place->name);
	image_id_format(&image_manifest(restore_image(s->restore))->id, s->restored.id);
	s->last = s->restored;
}

/* Of what it was restored from. 0 or -ENOMEM. */
static int note_key(struct snapshot *s)
{
	const struct image_key *key = s->restore ? restore_key(s->restore) : NULL;

	s->key = key ? image_key_copy(key) : NULL;
	return key && !s->key ? -ENOMEM : 0;
}

int snapshot_new(struct snapshot **out, struct machine *machine, struct restore *restore,
		 struct err *err)
{
	struct snapshot *s = calloc(1, sizeof(*s));

	if (!s || !(s->timer = calloc(1, sizeof(*s->timer)))) {
		free(s);
		restore_free(restore);
		return err_set(err, -ENOMEM, "no memory for snapshots");
	}
	s->machine = machine;
	s->restore = restore;
	if (note_key(s)) {
		free(s->timer);
		free(s);
		restore_free(restore);
		return err_set(err, -ENOMEM, "no memory for a key");
	}
	uv_timer_init(loop_uv(machine_loop(machine)), s->timer);
	s->timer->data = s;
	/* It keeps no loop alive by itself. */
	uv_unref((uv_handle_t *)s->timer);
	if (restore)
		note_restored(s);
	*out = s;
	return 0;
}

void snapshot_free(struct snapshot *s)
{
	if (!s)
		return;
	s->observer = (struct snapshot_observer){ 0 };
	/* It may name pages of the image. */
	save_free(s->save);
	restore_free(s->restore);
	uv_timer_stop(s->timer);
	loop_close((uv_handle_t *)s->timer, s->timer);
	image_key_free(s->key);
	image_key_free(s->next_key);
	free(s);
}

void snapshot_observe(struct snapshot *s, const struct snapshot_observer *observer)
{
	s->observer = *observer;
}

/* ---- saving ---- */

static bool is_under_way(struct snapshot *s)
{
	struct save_info info;

	if (!s->save)
		return false;
	save_info(s->save, &info);
	return !save_phase_is_over(info.phase);
}

/*
 * An image of the store that the machine is to be saved into, so that its pages can be named: the
 * last one if that is wanted, else what it was restored from.
 */
static void use_parent(const struct snapshot *s, const struct snapshot_save_args *args,
		       struct save_config *config)
{
	const struct snapshot_image *image = args->incremental ? &s->last : &s->restored;

	/* Unless it was said how the store is to be asked: who may read may not write, perhaps. */
	if (s->restore && !strcmp(restore_place(s->restore)->store, config->place.store) &&
	    !*config->credentials && !config->deadline_ms)
		config->store = restore_store(s->restore);
	if (!image->name[0] || strcmp(image->store, config->place.store))
		return;
	memcpy(config->parent, image->name, sizeof(config->parent));
	memcpy(config->parent_id, image->id, sizeof(config->parent_id));
}

static int take_credentials(struct save_config *config, const char *path, struct err *err)
{
	size_t len = strlen(path);

	if (*path != '/' || len >= sizeof(config->credentials))
		return err_set(err, -EINVAL,
			       "the file of credentials has to be named from / on, in fewer than "
			       "%zu bytes",
			       sizeof(config->credentials));
	memcpy(config->credentials, path, len + 1);
	return 0;
}

/* May it be saved on top of the last image? */
static int check_incremental(const struct snapshot *s, const struct snapshot_save_args *args,
			     const struct snapshot_place *place, struct err *err)
{
	if (!args->incremental)
		return 0;
	if (!s->last.name[0])
		return err_set(err, -ENOENT,
			       "the machine was neither saved yet nor restored: there is no "
			       "image that an incremental one could be on top of");
	if (args->parent && strcmp(args->parent, s->last.name))
		return err_set(err, -EINVAL,
			       "image %.159s is not what this machine was last saved into or "
			       "restored from: that is %s",
			       args->parent, s->last.name);
	if (strcmp(s->last.store, place->store))
		return err_set(err, -EINVAL,
			       "image %s, which this one is to be on top of, lies in another "
			       "store: save there, or without it",
			       s->last.name);
	return 0;
}

static int check_id(const char *id, struct err *err)
{
	size_t len =
		id ? strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
				"._-") :
		     1;

	return len && len <= SNAPSHOT_ID_MAX && (!id || !id[len]) ?
		       0 :
		       err_set(err, -EINVAL,
			       "a job's id has 1 to %d letters, digits, '.', '_' and '-'",
			       SNAPSHOT_ID_MAX);
}

/*
 * A guest's memory that was secret once is so in the next image, too. The file is
 * read here, as a migration's secret is: it has a line.
 */
static int snapshot_take_key(const struct snapshot *s, struct save_config *config,
			     const struct snapshot_save_args *args, struct err *err)
{
	const char *path = args->key_file;

	if (path && args->key_fd_given)
		return err_set(err, -EINVAL,
			       "the key is in a file or in a descriptor, not in both");
	if (args->key_fd_given)
		return image_key_read(&config->key, args->key_fd, err);
	if (path && *path != '/')
		return err_set(err, -EINVAL, "the file of the key has to be named from / on");
	if (path)
		return image_key_load(&config->key, path, err);
	config->key = s->key ? image_key_copy(s->key) : NULL;
	return s->key && !config->key ? err_set(err, -ENOMEM, "no memory for a key") : 0;
}

/* Late memory can be saved if it is kept where it is; else all of it has to be here. */
static int check_late(const struct snapshot *s, const struct save_config *config, struct err *err)
{
	if (!s->restore || config->parent[0] || !memory_is_late(machine_memory(s->machine)))
		return 0;
	return err_set(err, -EBUSY,
		       "memory is still coming from image %s, in another store: "
		       "save there, or once all has come",
		       restore_place(s->restore)->name);
}

/* From here on it is the one that is asked about. */
static void save_began(struct snapshot *s, const struct snapshot_save_args *args,
		       const struct save_config *config, struct save *save,
		       struct image_key *next_key)
{
	image_key_free(s->next_key);
	s->next_key = next_key;
	s->key_is_next = true;
	save_free(s->save);
	s->save = save;
	s->place = config->place;
	snprintf(s->parent, sizeof(s->parent), "%s", args->incremental ? config->parent : "");
	s->saves++;
	if (args->id)
		snprintf(s->id, sizeof(s->id), "%s", args->id);
	else
		snprintf(s->id, sizeof(s->id), "save-%u", s->saves);
	uv_timer_start(s->timer, on_second, PROGRESS_MS, PROGRESS_MS);
}

int snapshot_save(struct snapshot *s, const struct snapshot_save_args *args, char *id,
		  struct err *err)
{
	struct save_config config = {
		.machine = s->machine,
		.level = args->level,
		.deadline_ms = args->deadline_ms,
		.paused = args->paused,
		.track = args->track,
		.buffer_bytes = args->buffer_bytes,
		.incremental = args->incremental,
		.memory_knows = memory_snapshot_is_tracked(machine_memory(s->machine)),
		.changed = on_changed,
		.arg = s,
	};
	struct image_key *next_key = NULL;
	struct save *save;
	int r = check_id(args->id, err);

	if (!r)
		r = snapshot_place_parse(&config.place, args->place, err);
	if (!r && args->credentials)
		r = take_credentials(&config, args->credentials, err);
	if (r < 0)
		return r;
	if (is_under_way(s))
		return err_set(err, -EBUSY, "the machine is being saved already (job %s)", s->id);
	if (machine_is_saving(s->machine))
		return err_set(err, -EBUSY,
			       "the guest's memory is being dumped: once DUMP_COMPLETED has come it "
			       "can be saved");
	if (args->paused && args->track)
		return err_set(err, -EINVAL,
			       "what is written is tracked by a live save alone, not by one with "
			       "the guest paused");
	r = check_incremental(s, args, &config.place, err);
	if (!r && s->restore)
		r = restore_check_boot(s->restore, err);
	if (!r)
		r = snapshot_take_key(s, &config, args, err);
	if (r < 0)
		return r;
	use_parent(s, args, &config);
	r = check_late(s, &config, err);
	if (!r && config.key && !(next_key = image_key_copy(config.key)))
		r = err_set(err, -ENOMEM, "no memory for a key");
	if (r < 0)
		image_key_free(config.key);
	else
		r = save_new(&save, &config, err);
	if (r < 0) {
		image_key_free(next_key);
		return r;
	}
	save_began(s, args, &config, save, next_key);
	snprintf(id, SNAPSHOT_ID_MAX + 1, "%s", s->id);
	return 0;
}

int snapshot_cancel(struct snapshot *s, const char *id, struct err *err)
{
	if (!s->save || (id && strcmp(id, s->id)))
		return err_set(err, -ENOENT, "there is no such job%s%.64s", id ? ": " : "",
			       id ? id : "");
	if (is_under_way(s))
		save_cancel(s->save);
	return 0;
}

/* ---- where memory comes from ---- */

bool snapshot_get_source(struct snapshot *s, struct snapshot_source *source)
{
	if (!s->restore || !restore_source(s->restore))
		return false;
	*source = (struct snapshot_source){
		.store = store_label(restore_store(s->restore)),
		.name = restore_place(s->restore)->name,
	};
	image_id_format(&image_manifest(restore_image(s->restore))->id, source->id);
	image_source_info(restore_source(s->restore), &source->info);
	source->has_replay = restore_replay(s->restore);
	if (source->has_replay)
		replay_get_info(restore_replay(s->restore), &source->replay);
	return true;
}

int snapshot_set_fill(struct snapshot *s, const struct worker_fill *fill, struct err *err)
{
	if (!s->restore || !restore_source(s->restore))
		return err_set(err, -ENOENT,
			       "the machine was not restored from an image: nothing "
			       "fills its memory");
	image_source_set_fill(restore_source(s->restore), fill);
	return 0;
}
