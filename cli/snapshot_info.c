// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "cli/snapshot_info.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "base/types.h"
#include "cli/ctl_text.h"
#include "image/key.h"
#include "image/sum.h"
#include "image/working_set.h"

/* ---- as JSON ---- */

static json_t *info_uint(uint64_t value)
{
	return json_integer(value > INT64_MAX ? INT64_MAX : (json_int_t)value);
}

static json_t *info_ranges(const struct manifest_machine *machine)
{
	json_t *all = json_array();
	unsigned int i;

	for (i = 0; i < machine->n_ranges; i++)
		json_array_append_new(all, json_pack("{s:o,s:o}", "base",
						     info_uint(machine->ranges[i].base.v), "bytes",
						     info_uint(machine->ranges[i].len_bytes)));
	return all;
}

static json_t *info_disks(const struct manifest_machine *machine)
{
	json_t *all = json_array();
	unsigned int i;

	for (i = 0; i < machine->n_disks; i++) {
		const struct manifest_disk *disk = &machine->disks[i];

		json_array_append_new(all,
				      json_pack("{s:s,s:s,s:o,s:b}", "name", disk->name, "target",
						disk->target, "bytes", info_uint(disk->bytes),
						"read-only", (int)disk->read_only));
	}
	return all;
}

static json_t *info_devices(const struct manifest_machine *machine)
{
	json_t *all = json_array();
	unsigned int i;

	for (i = 0; i < machine->n_devices; i++)
		json_array_append_new(all, json_string(machine->devices[i]));
	return all;
}

static json_t *info_objects(const struct manifest *manifest)
{
	json_t *all = json_array();
	unsigned int i;

	for (i = 0; i < manifest->n_objects; i++)
		json_array_append_new(all,
				      json_pack("{s:s,s:o}", "what", manifest->objects[i].what,
						"bytes", info_uint(manifest->objects[i].bytes)));
	return all;
}

static json_t *info_named(const struct manifest_image *image)
{
	char id[IMAGE_ID_TEXT];

	image_id_format(&image->id, id);
	return json_pack("{s:s,s:s}", "name", image->name, "id", id);
}

static json_t *info_images(const struct manifest *manifest)
{
	json_t *all = json_array();
	unsigned int i;

	for (i = 1; i < manifest->n_images; i++)
		json_array_append_new(all, info_named(&manifest->images[i]));
	return all;
}

/* null: it has none. It is advice, so one that cannot be read is a text and no error. */
static json_t *info_working_set(struct image *image, struct store *store, struct store_scope *scope,
				const struct image_key *key)
{
	struct working_set set;
	struct err err = { 0 };
	json_t *json;
	int r = working_set_load(&set, store, scope, image_name(image), &image_manifest(image)->id,
				 image_manifest(image)->encrypted ? key : NULL, &err);

	if (r == -ENOENT)
		return json_null();
	if (r)
		return json_pack("{s:s}", "error", err.text);
	json = json_pack("{s:o,s:o}", "pages", info_uint(set.n_pages), "runs", info_uint(set.runs));
	working_set_fini(&set);
	return json;
}

static json_t *info_machine(const struct manifest_machine *machine)
{
	return json_pack("{s:s,s:s,s:s,s:o,s:o,s:o,s:o}", "architecture", machine->architecture,
			 "postern", machine->postern, "name", machine->name, "cpus",
			 info_uint(machine->cpus), "ranges", info_ranges(machine), "devices",
			 info_devices(machine), "disks", info_disks(machine));
}

/* Of info and list alike. */
static json_t *info_head(const char *name, const struct manifest *manifest)
{
	char id[IMAGE_ID_TEXT];

	image_id_format(&manifest->id, id);
	return json_pack("{s:s,s:s,s:o,s:o,s:o,s:o*}", "name", name, "id", id, "time",
			 json_integer(manifest->time_s), "memory-bytes",
			 info_uint(manifest_pages(manifest) << PAGE_SHIFT), "own-bytes",
			 info_uint(manifest->own_bytes), "parent",
			 manifest->has_parent ? info_named(&manifest->parent) : NULL);
}

/* What a manifest says. */
static json_t *info_manifest(const char *name, const struct manifest *manifest)
{
	json_t *json = info_head(name, manifest), *more;
	char key[IMAGE_KEY_ID_TEXT] = "";

	if (manifest->encrypted)
		sum_format_hex(manifest->key_id, IMAGE_KEY_ID_BYTES, key);
	more = json_pack(
		"{s:s,s:s,s:o,s:s,s:s,s:o*,s:o,s:o,s:{s:o,s:o,s:o},s:o,s:o}", "format",
		"postern-image", "contents", manifest->machine.memory_only ? "memory" : "machine",
		"version", info_uint(manifest->version), "compression", manifest->compression,
		"encryption", manifest->encryption, "key-id", *key ? json_string(key) : NULL,
		"span-pages", info_uint(manifest->span_pages), "machine",
		info_machine(&manifest->machine), "pages", "data", info_uint(manifest->data_pages),
		"zero", info_uint(manifest->zero_pages), "absent",
		info_uint(manifest->absent_pages), "images", info_images(manifest), "objects",
		info_objects(manifest));
	if (!json || !more || json_object_update(json, more) < 0) {
		json_decref(json);
		json = NULL;
	}
	json_decref(more);
	return json;
}

json_t *snapshot_info_json(struct image *image, struct store *store, struct store_scope *scope,
			   const struct image_key *key)
{
	json_t *json = info_manifest(image_name(image), image_manifest(image));
	struct image_packs packs;

	image_packs(image, &packs);
	if (!json || json_object_set_new(json, "own-packs", info_uint(packs.own)) < 0 ||
	    json_object_set_new(json, "other-packs", info_uint(packs.others)) < 0 ||
	    json_object_set_new(json, "other-bytes", info_uint(packs.others_bytes)) < 0 ||
	    json_object_set_new(json, "working-set", info_working_set(image, store, scope, key)) <
		    0) {
		json_decref(json);
		return NULL;
	}
	return json;
}

json_t *snapshot_locked_json(const char *name, const struct manifest *manifest,
			     const struct snapshot_listed *listed)
{
	json_t *json = info_manifest(name, manifest), *stored = json_null();

	if (listed->listed)
		stored = json_pack("{s:o,s:o}", "objects", info_uint(listed->objects), "bytes",
				   info_uint(listed->bytes));
	if (!json || json_object_set_new(json, "locked", json_true()) < 0 ||
	    json_object_set_new(json, "stored", stored) < 0) {
		json_decref(json);
		return NULL;
	}
	return json;
}

json_t *snapshot_entry_json(const char *name, const struct manifest *manifest,
			    const struct err *err)
{
	return manifest ? info_head(name, manifest) :
			  json_pack("{s:s,s:s}", "name", name, "error", err->text);
}

/* ---- as text ---- */

static void put_label(FILE *out, const char *label)
{
	fprintf(out, "%-12s ", label);
}

static const char *info_time(char text[32], const json_t *json)
{
	time_t time_s = (time_t)ctl_uint(json, "time");
	struct tm tm;

	if (!gmtime_r(&time_s, &tm) || !strftime(text, 32, "%Y-%m-%d %H:%M:%S", &tm))
		snprintf(text, 32, "?");
	return text;
}

static void info_put_bytes(FILE *out, const json_t *json, const char *key)
{
	char text[CTL_BYTES_MAX];

	fputs(ctl_bytes(text, ctl_uint(json, key)), out);
}

static void put_named(FILE *out, const char *label, const json_t *image)
{
	put_label(out, label);
	ctl_put(out, ctl_string(image, "name", "?"));
	fprintf(out, " (%s)\n", ctl_string(image, "id", "?"));
}

static void put_ranges(FILE *out, const json_t *machine)
{
	const json_t *range;
	size_t i;

	json_array_foreach(json_object_get(machine, "ranges"), i, range) {
		put_label(out, i ? "" : "memory");
		info_put_bytes(out, range, "bytes");
		fprintf(out, " at 0x%" PRIx64 "\n", ctl_uint(range, "base"));
	}
}

/* What the store lists of one whose key is not here. */
static void put_stored(FILE *out, const json_t *info)
{
	const json_t *stored = json_object_get(info, "stored");

	put_label(out, "stored");
	if (json_is_object(stored)) {
		info_put_bytes(out, stored, "bytes");
		fprintf(out, " in %" PRIu64 " objects", ctl_uint(stored, "objects"));
	} else {
		info_put_bytes(out, info, "own-bytes");
		fputs(" in packs of its own", out);
	}
	fputs("; what it needs of others is encrypted\n", out);
}

static void put_packs(FILE *out, uint64_t n)
{
	fprintf(out, " in %" PRIu64 " pack%s", n, n == 1 ? "" : "s");
}

static void info_put_pages(FILE *out, const json_t *info)
{
	const json_t *pages = json_object_get(info, "pages");
	uint64_t absent = ctl_uint(pages, "absent");

	put_label(out, "pages");
	fprintf(out, "%" PRIu64 " with data, %" PRIu64 " of zeros, %" PRIu64 " absent%s\n",
		ctl_uint(pages, "data"), ctl_uint(pages, "zero"), absent,
		absent ? ": lost to whoever restores it" : "");
	if (json_is_true(json_object_get(info, "locked"))) {
		put_stored(out, info);
		return;
	}
	put_label(out, "stored");
	info_put_bytes(out, info, "own-bytes");
	put_packs(out, ctl_uint(info, "own-packs"));
	fputs(" of its own", out);
	if (ctl_uint(info, "other-packs")) {
		fputs(", and needs ", out);
		info_put_bytes(out, info, "other-bytes");
		put_packs(out, ctl_uint(info, "other-packs"));
		fputs(" of others", out);
	}
	putc('\n', out);
}

static void put_disks(FILE *out, const json_t *machine)
{
	const json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(machine, "disks"), i, disk) {
		put_label(out, "disk");
		ctl_put(out, ctl_string(disk, "name", "?"));
		fputs(": ", out);
		ctl_put(out, ctl_string(disk, "target", "?"));
		fputs(", ", out);
		info_put_bytes(out, disk, "bytes");
		fputs(json_is_true(json_object_get(disk, "read-only")) ? ", read-only\n" : "\n",
		      out);
	}
}

static void put_objects(FILE *out, const json_t *info)
{
	const json_t *object;
	size_t i;

	put_label(out, "objects");
	json_array_foreach(json_object_get(info, "objects"), i, object) {
		fputs(i ? ", " : "", out);
		ctl_put(out, ctl_string(object, "what", "?"));
		fputs(" ", out);
		info_put_bytes(out, object, "bytes");
	}
	putc('\n', out);
}

static void put_working_set(FILE *out, const json_t *info)
{
	const json_t *set = json_object_get(info, "working-set");
	const char *error = ctl_string(set, "error", NULL);
	char bytes[CTL_BYTES_MAX];

	put_label(out, "working set");
	if (error)
		ctl_put(out, error);
	else if (!json_is_object(set))
		fputs("none", out);
	else
		fprintf(out, "%s, of %" PRIu64 " run%s",
			ctl_bytes(bytes, ctl_uint(set, "pages") << PAGE_SHIFT),
			ctl_uint(set, "runs"), ctl_uint(set, "runs") == 1 ? "" : "s");
	putc('\n', out);
}

static void put_machine(FILE *out, const json_t *machine)
{
	put_label(out, "machine");
	ctl_put(out, ctl_string(machine, "architecture", "?"));
	fprintf(out, ", %" PRIu64 " vCPU%s", ctl_uint(machine, "cpus"),
		ctl_uint(machine, "cpus") == 1 ? "" : "s");
	if (*ctl_string(machine, "name", "")) {
		fputs(", called ", out);
		ctl_put(out, ctl_string(machine, "name", ""));
	}
	fputs(", saved by postern ", out);
	ctl_put(out, ctl_string(machine, "postern", "?"));
	putc('\n', out);
}

void snapshot_info_put(FILE *out, const json_t *info)
{
	const json_t *machine = json_object_get(info, "machine"), *image;
	char text[32];
	size_t i;

	put_named(out, "image", info);
	put_label(out, "format");
	fprintf(out, "version %" PRIu64 ", compression %s, encryption %s\n",
		ctl_uint(info, "version"), ctl_string(info, "compression", "?"),
		ctl_string(info, "encryption", "?"));
	put_label(out, "time");
	fprintf(out, "%s UTC\n", info_time(text, info));
	if (strcmp(ctl_string(info, "contents", "machine"), "memory"))
		put_machine(out, machine);
	else
		fprintf(out, "%-12s memory alone, which was imported: it cannot be run\n",
			"contents");
	put_ranges(out, machine);
	info_put_pages(out, info);
	if (json_object_get(info, "parent"))
		put_named(out, "parent", json_object_get(info, "parent"));
	json_array_foreach(json_object_get(info, "images"), i, image)
		put_named(out, "needs", image);
	put_disks(out, machine);
	put_objects(out, info);
	if (json_is_true(json_object_get(info, "locked")))
		fprintf(out,
			"%-12s with the key whose id is %s. That nobody has altered the above can "
			"only be told with it: give --key-file or --key-fd\n",
			"encrypted", ctl_string(info, "key-id", "?"));
	else
		put_working_set(out, info);
}

void snapshot_entries_put(FILE *out, const json_t *entries)
{
	const json_t *entry, *parent;
	const char *error;
	char text[32], memory[CTL_BYTES_MAX], own[CTL_BYTES_MAX];
	size_t i;

	json_array_foreach(entries, i, entry) {
		error = ctl_string(entry, "error", NULL);
		fprintf(out, "%-24s  ", ctl_string(entry, "name", "?"));
		if (error) {
			ctl_put(out, error);
			putc('\n', out);
			continue;
		}
		fprintf(out, "%s UTC  %10s of memory  %10s stored", info_time(text, entry),
			ctl_bytes(memory, ctl_uint(entry, "memory-bytes")),
			ctl_bytes(own, ctl_uint(entry, "own-bytes")));
		parent = json_object_get(entry, "parent");
		if (parent)
			fprintf(out, "  on top of %s", ctl_string(parent, "name", "?"));
		putc('\n', out);
	}
}
