// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Each command is work for snapshot_job.h: it opens the store, does what
 * image/operations.h does, and says what has come of it on standard output.
 */
#include "cli/snapshot_store.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/ctl.h"
#include "cli/ctl_text.h"
#include "cli/place.h"
#include "cli/snapshot_info.h"
#include "cli/snapshot_job.h"
#include "base/whole_file.h"
#include "image/name.h"
#include "image/operations.h"
#include "snapshot/export.h"
#include "snapshot/import.h"
#include "snapshot/place.h"

/* Of a store at a distance each waits for answers most of the time. */
#define THREADS 2u
#define THREADS_FAR 8u
/* Of damage, and of objects: an image may have any number. */
#define LINES_MAX 1000u

struct store_work {
	const struct snapshot_options *options;
	struct snapshot_place from, to; /* list, gc: of from the store alone */
	struct snapshot_job *job;
	struct store *store;
	struct image_key *key; /* NULL: none */
	json_t *lines; /* of what is told one by one */
	uint64_t left_out; /* more than LINES_MAX */
};

static unsigned int work_threads(const struct store_work *work)
{
	return work->options->threads ? work->options->threads :
	       work->from.far	      ? THREADS_FAR :
					THREADS;
}

static void work_progress(void *arg, uint64_t done, uint64_t total)
{
	struct store_work *work = arg;

	snapshot_job_progress(work->job, done, total);
}

/* One of those that the reply has; false: there are too many. Consumes it. */
static bool work_line(struct store_work *work, json_t *line)
{
	bool room = json_array_size(work->lines) < LINES_MAX;

	if (room)
		json_array_append(work->lines, line);
	else
		work->left_out++;
	json_decref(line);
	return room;
}

static void print_left_out(const struct store_work *work, const char *what)
{
	if (work->left_out)
		printf("and %" PRIu64 " %s more\n", work->left_out, what);
}

static int print_reply(json_t *reply, struct err *err)
{
	if (!reply)
		return err_set(err, -ENOMEM, "no memory for the reply");
	ctl_print_json(reply);
	json_decref(reply);
	return 0;
}

static int work_open(struct store_work *work, const char *name, struct image **image,
		     struct err *err)
{
	const struct image_options options = {
		.key = work->key,
		.allow_unencrypted = work->options->key.allow_unencrypted,
	};

	return image_open(image, work->store, &work->job->scope, name, &options, err);
}

/* ---- info, list ---- */

static void on_listed(void *arg, const char *object, uint64_t bytes)
{
	struct snapshot_listed *listed = arg;

	(void)object;
	listed->objects++;
	listed->bytes += bytes;
}

/* Of an encrypted image without its key: what is in the clear. */
static int info_locked(struct store_work *work, json_t **info, struct err *err)
{
	struct snapshot_listed listed = { 0 };
	struct manifest manifest;
	char prefix[NAME_ROOM];
	int r = image_manifest_read(work->store, &work->job->scope, work->from.name, &manifest,
				    NULL, err);

	if (r)
		return r;
	image_name_plain(prefix, work->from.name, "");
	r = store_list(work->store, &work->job->scope, prefix, 0, on_listed, &listed, err);
	listed.listed = !r;
	/* A plain web server lists nothing. */
	if (!r || r == -ENOTSUP)
		*info = snapshot_locked_json(work->from.name, &manifest, &listed);
	manifest_fini(&manifest);
	return r == -ENOTSUP ? 0 : r;
}

static int work_info(struct store_work *work, struct err *err)
{
	struct image *image;
	json_t *info;
	int r = work_open(work, work->from.name, &image, err);

	if (r == -ENOKEY) {
		r = info_locked(work, &info, err);
	} else if (!r) {
		info = snapshot_info_json(image, work->store, &work->job->scope, work->key);
		image_free(image);
	}
	if (r)
		return r;
	if (info && !work->options->ctl.json) {
		snapshot_info_put(stdout, info);
		json_decref(info);
		return 0;
	}
	return print_reply(info, err);
}

static void on_name(void *arg, const char *name)
{
	struct store_work *work = arg;

	json_array_append_new(work->lines, json_string(name));
}

/* In place of the names what their manifests say. */
static int list_look(struct store_work *work, struct err *err)
{
	json_t *entries = json_array(), *entry;
	size_t i, n = json_array_size(work->lines);
	struct manifest manifest;
	struct err why;
	int r = 0;

	for (i = 0; !r && i < n; i++) {
		const char *name = json_string_value(json_array_get(work->lines, i));

		r = image_manifest_read(work->store, &work->job->scope, name, &manifest, NULL,
					&why);
		if (r == -ENOENT) { /* deleted meanwhile */
			r = 0;
			continue;
		}
		entry = snapshot_entry_json(name, r ? NULL : &manifest, &why);
		if (!r)
			manifest_fini(&manifest);
		/* One that is damaged, or of another version, is among the others. */
		if (r == -EBADMSG || r == -EPROTO)
			r = 0;
		if (json_array_append_new(entries, entry) < 0)
			r = err_set(&why, -ENOMEM, "no memory for a list of images");
	}
	if (r && err)
		*err = why;
	json_decref(work->lines);
	work->lines = entries;
	return r;
}

static int work_list(struct store_work *work, struct err *err)
{
	bool names = work->options->ctl.names;
	size_t i;
	int r = image_list(work->store, &work->job->scope, on_name, work, err);

	if (!r && !names)
		r = list_look(work, err);
	if (r)
		return r;
	if (work->options->ctl.json)
		ctl_print_json(work->lines);
	else if (!names)
		snapshot_entries_put(stdout, work->lines);
	for (i = 0; names && !work->options->ctl.json && i < json_array_size(work->lines); i++)
		puts(json_string_value(json_array_get(work->lines, i)));
	return 0;
}

/* ---- verify ---- */

static void on_damage(void *arg, const struct err *err)
{
	struct store_work *work = arg;

	if (work_line(work, json_string(err->text)) && !work->options->ctl.json)
		snapshot_job_say(work->job, err->text);
}

static int work_verify(struct store_work *work, struct err *err)
{
	const struct image_verify_options options = {
		.threads = work_threads(work),
		.key = work->key,
		.allow_unencrypted = work->options->key.allow_unencrypted,
		.damage = on_damage,
		.progress = work_progress,
		.arg = work,
	};
	struct image_verify_result result = { 0 };
	int r = image_verify(work->store, &work->job->scope, work->from.name, &options, &result,
			     err);

	if (r && !result.damaged)
		return r;
	if (work->options->ctl.json)
		return print_reply(json_pack("{s:s,s:I,s:I,s:I,s:O}", "name", work->from.name,
					     "pages", (json_int_t)result.pages, "damaged-pages",
					     (json_int_t)result.damaged_pages, "damaged",
					     (json_int_t)result.damaged, "damage", work->lines),
				   err) ?:
		       r;
	if (!r)
		printf("image %s: %" PRIu64 " pages of data, all objects: all are right\n",
		       work->from.name, result.pages);
	print_left_out(work, "places that are damaged");
	return r;
}

/* ---- compact, delete ---- */

static int work_compact(struct store_work *work, struct err *err)
{
	const struct image_compact_options options = {
		.level = (int)work->options->level,
		.threads = work_threads(work),
		.key = work->key,
		.allow_unencrypted = work->options->key.allow_unencrypted,
		.progress = work_progress,
		.arg = work,
	};

	return image_compact(work->store, &work->job->scope, work->from.name, work->to.name,
			     &options, err);
}

static int work_delete(struct store_work *work, struct err *err)
{
	return image_delete(work->store, &work->job->scope, work->from.name, err);
}

/* ---- gc ---- */

static void on_removed(void *arg, const char *object, uint64_t bytes)
{
	struct store_work *work = arg;

	if (work_line(work, json_pack("{s:s,s:I}", "object", object, "bytes", (json_int_t)bytes)) &&
	    !work->options->ctl.json)
		printf("%s%s\n", work->options->dry_run ? "would go: " : "", object);
}

/* Of what it may need nothing goes; with its key it could be said what that is. */
static void on_locked(void *arg, const char *image, const struct err *why)
{
	struct store_work *work = arg;
	struct err said = *why;

	(void)image;
	err_prefix(&said, said.code, "what it may need is kept");
	snapshot_job_say(work->job, said.text);
}

static int work_gc(struct store_work *work, struct err *err)
{
	const bool dry_run = work->options->dry_run;
	const struct image_gc_options options = {
		.dead_after_s = work->options->dead_after_s,
		.dry_run = dry_run,
		.key = work->key,
		.removed = on_removed,
		.locked = on_locked,
		.arg = work,
	};
	struct image_gc_result result = { 0 };
	char bytes[CTL_BYTES_MAX];
	int r = image_gc(work->store, &work->job->scope, &options, &result, err);

	if (r)
		return r;
	if (work->options->ctl.json)
		return print_reply(json_pack("{s:b,s:I,s:I,s:I,s:I,s:I,s:O}", "dry-run",
					     (int)dry_run, "images", (json_int_t)result.images,
					     "locked", (json_int_t)result.locked, "objects",
					     (json_int_t)result.objects, "bytes",
					     (json_int_t)result.bytes, "claims",
					     (json_int_t)result.claims, "removed", work->lines),
				   err);
	print_left_out(work, "objects");
	printf("%" PRIu64 " images; %" PRIu64 " objects, %s, and %" PRIu64 " claims %s\n",
	       result.images, result.objects, ctl_bytes(bytes, result.bytes), result.claims,
	       dry_run ? "would go" : "are gone");
	return 0;
}

/* ---- import, export ---- */

static int import_open(struct memory_file **file, const struct snapshot_options *o, struct err *err)
{
	const char *paths[1 + MEMORY_FILE_DIFFS_MAX] = { o->place[0] };

	if (o->format == SNAPSHOT_MAPPED_RAM)
		return memory_file_open_mapped_ram(file, o->place[0], o->offset, o->block, err);
	memcpy(paths + 1, o->over, sizeof(o->over));
	return memory_file_open_raw(file, paths, 1 + o->n_over, err);
}

static int work_import(struct store_work *work, struct err *err)
{
	struct import_config config = {
		.n_ranges = work->options->n_ranges,
		.level = (int)work->options->level,
		.key = work->key,
		.progress = work_progress,
		.arg = work,
	};
	struct image_writer_stats stats;
	struct memory_file *file;
	int r = import_open(&file, work->options, err);

	if (r)
		return r;
	memcpy(config.ranges, work->options->ranges, sizeof(config.ranges));
	r = import_memory(work->store, &work->job->scope, work->from.name, file, &config, &stats,
			  err);
	memory_file_free(file);
	if (r)
		return r;
	if (work->options->ctl.json)
		return print_reply(json_pack("{s:s,s:I,s:I,s:I}", "name", work->from.name,
					     "data-pages", (json_int_t)stats.data_pages,
					     "stored-bytes", (json_int_t)stats.stored_bytes,
					     "absent-pages", (json_int_t)stats.absent_pages),
				   err);
	printf("image %s: %" PRIu64 " pages with data\n", work->from.name, stats.data_pages);
	return 0;
}

/* The one that it says; another one of that name would give another diff. */
static int export_parent(struct store_work *work, struct image *image, struct image **parent,
			 struct err *err)
{
	const struct manifest *manifest = image_manifest(image);
	int r;

	if (!manifest->has_parent)
		return err_set(err, -ENOENT, "image %s has no parent: without --diff it is whole",
			       work->from.name);
	r = work_open(work, manifest->parent.name, parent, err);
	if (!r && memcmp(&image_manifest(*parent)->id, &manifest->parent.id,
			 sizeof(manifest->parent.id))) {
		image_free(*parent);
		*parent = NULL;
		r = err_set(err, -ENOENT, "image %s is another one by now", manifest->parent.name);
	}
	return r ? err_prefix(err, r, "the parent is gone (without --diff all is written)") : 0;
}

static int export_to(struct store_work *work, struct image *image, int fd,
		     struct export_result *result, struct err *err)
{
	const struct snapshot_options *o = work->options;
	struct export_config config = {
		.format = o->format == SNAPSHOT_ELF ? EXPORT_ELF :
			  o->diff		    ? EXPORT_DIFF :
						      EXPORT_RAW,
		.path = o->place[1],
		.progress = work_progress,
		.arg = work,
	};
	int r = o->diff ? export_parent(work, image, &config.parent, err) : 0;

	if (!r)
		r = export_image(image, fd, &config, result, err);
	image_free(config.parent);
	return r;
}

static int export_tell(const struct snapshot_options *o, const struct export_result *result,
		       struct err *err)
{
	if (o->ctl.json)
		return print_reply(json_pack("{s:s,s:I,s:I,s:I}", "file", o->place[1], "bytes",
					     (json_int_t)result->bytes, "pages",
					     (json_int_t)result->pages, "absent-pages",
					     (json_int_t)result->absent_pages),
				   err);
	printf("%" PRIu64 " pages written", result->pages);
	if (result->absent_pages)
		printf(", %" PRIu64 " absent ones left out", result->absent_pages);
	putchar('\n');
	return 0;
}

static int work_export(struct store_work *work, struct err *err)
{
	const char *path = work->options->place[1];
	struct export_result result;
	struct whole_file file;
	struct image *image;
	int r = work_open(work, work->from.name, &image, err);

	if (r)
		return r;
	r = whole_file_open(&file, path, err);
	if (!r) {
		r = export_to(work, image, file.fd, &result, err);
		r = r ? r : whole_file_finish(&file, err);
		whole_file_close(&file);
		r = r ? r : export_tell(work->options, &result, err);
	}
	image_free(image);
	return r;
}

/* ---- all of them ---- */

static int work_main(struct snapshot_job *job, void *arg, struct err *err)
{
	static int (*const works[])(struct store_work * work, struct err * err) = {
		[SNAPSHOT_INFO] = work_info,	 [SNAPSHOT_LIST] = work_list,
		[SNAPSHOT_VERIFY] = work_verify, [SNAPSHOT_COMPACT] = work_compact,
		[SNAPSHOT_DELETE] = work_delete, [SNAPSHOT_GC] = work_gc,
		[SNAPSHOT_IMPORT] = work_import, [SNAPSHOT_EXPORT] = work_export,
	};
	struct store_work *work = arg;
	const struct store_options store = store_args_options(&work->options->store);
	int r;

	work->job = job;
	work->lines = json_array();
	r = store_open(&work->store, work->from.store, &store, err);
	if (r)
		return r;
	r = works[work->options->command](work, err);
	store_free(work->store);
	json_decref(work->lines);
	/* What was said was right; what the store says of a name is no mistake in an option. */
	return r == -EINVAL ? -EREMOTEIO : r;
}

/* A folder is said as store_open wants it. */
static int take_store(struct snapshot_place *place, const char *text, struct err *err)
{
	char *full = place_in_full(text);
	int n = full ? snprintf(place->store, sizeof(place->store), "%s", full) : 0;

	free(full);
	if (n <= 0 || (size_t)n >= sizeof(place->store))
		return err_set(err, -EINVAL, "%.200s: no store can be called so", text);
	return 0;
}

static int take_place(struct snapshot_place *place, const char *text, struct err *err)
{
	char *full = place_in_full(text);
	int r = full ? snapshot_place_parse(place, full, err) :
		       err_set(err, -ENOMEM, "no memory for a name");

	free(full);
	return r;
}

static int work_places(struct store_work *work, struct err *err)
{
	const struct snapshot_options *o = work->options;
	int r;

	if (o->command == SNAPSHOT_LIST || o->command == SNAPSHOT_GC)
		return take_store(&work->from, o->place[0], err);
	r = take_place(&work->from, o->place[o->command == SNAPSHOT_IMPORT], err);
	if (r || o->command != SNAPSHOT_COMPACT)
		return r;
	r = take_place(&work->to, o->place[1], err);
	if (!r && strcmp(work->from.store, work->to.store))
		r = err_set(err, -EINVAL,
			    "compact: both images have to be in one store, and be called by the "
			    "same URL");
	return r;
}

static int to_ctl_error(int r)
{
	return !r || r == -EINTR || r == -EINVAL ? r : -EREMOTEIO;
}

int snapshot_store_run(const struct snapshot_options *options, struct err *err)
{
	struct store_work *work = calloc(1, sizeof(*work));
	struct snapshot_job job = { .quiet = options->ctl.json };
	char title[IMAGE_NAME_MAX + 16];
	int r;

	if (!work)
		return to_ctl_error(err_set(err, -ENOMEM, "no memory"));
	work->options = options;
	r = work_places(work, err);
	if (!r)
		r = key_args_load(&options->key, &work->key, err);
	snprintf(title, sizeof(title), "%s%s%s", snapshot_command_name(options->command),
		 *work->from.name ? " " : "", work->from.name);
	job.title = title;
	if (!r)
		r = snapshot_job_run(&job, work_main, work, err);
	image_key_free(work->key);
	free(work);
	return to_ctl_error(r);
}
