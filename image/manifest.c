// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * See manifest.h. A manifest is a JSON object whose last member is the checksum of all bytes
 * before it; so a byte that has changed is noticed before anything is believed.
 * A manifest of a newer version may do without, and is refused by its version.
 */
#include "image/manifest.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/state_version.h"
#include "image/index.h"
#include "image/json.h"
#include "image/manifest_internal.h"
#include "image/name.h"
#include "image/seal.h"
#include "image/sum.h"
#include "store/store.h"

#define FORMAT "postern-image"
#define TAIL_KEY ",\"xxh3-128\":\""
#define TAIL_END "\"}\n"
#define TAIL_BYTES (sizeof(TAIL_KEY) - 1 + SUM_TEXT - 1 + sizeof(TAIL_END) - 1)
#define CPUS_MAX 4096

/* ---- reading ---- */

static void read_ranges(struct json_reading *reading, const json_t *object,
			struct manifest_machine *machine)
{
	const json_t *array =
		json_read_array(reading, object, "ranges", MEMORY_REGIONS_MAX, &machine->n_ranges);
	uint64_t end = 0;
	unsigned int i;

	if (array && !machine->n_ranges)
		json_refuse(reading, -EBADMSG, "\"ranges\" is empty");
	for (i = 0; i < machine->n_ranges; i++) {
		const json_t *value = json_array_get(array, i);
		uint64_t max = UINT64_C(1) << 52;
		uint64_t base = json_read_number(reading, value, "base", end, max - HUGE_BYTES);
		uint64_t len = json_read_number(reading, value, "bytes", HUGE_BYTES, max - base);

		if ((base | len) & (HUGE_BYTES - 1))
			json_refuse(reading, -EBADMSG,
				    "a range of %" PRIu64 " bytes at %" PRIu64
				    " is not made of 2 MiB",
				    len, base);
		if (reading->error)
			return;
		machine->ranges[i] = (struct memory_range){ GPA(base), len };
		end = base + len;
	}
}

static void read_devices(struct json_reading *reading, const json_t *object,
			 struct manifest_machine *machine)
{
	const json_t *array = json_read_array(reading, object, "devices", MANIFEST_DEVICES_MAX,
					      &machine->n_devices);
	unsigned int i;

	for (i = 0; i < machine->n_devices; i++)
		json_read_text_value(reading, json_array_get(array, i), "devices",
				     machine->devices[i], sizeof(machine->devices[i]));
}

static void read_disks(struct json_reading *reading, const json_t *object,
		       struct manifest_machine *machine)
{
	const json_t *array =
		json_read_array(reading, object, "disks", MANIFEST_DISKS_MAX, &machine->n_disks);
	unsigned int i;

	for (i = 0; i < machine->n_disks; i++) {
		const json_t *value = json_array_get(array, i);
		struct manifest_disk *disk = &machine->disks[i];

		json_read_text(reading, value, "name", disk->name, sizeof(disk->name));
		json_read_text(reading, value, "target", disk->target, sizeof(disk->target));
		disk->bytes = json_read_number(reading, value, "bytes", 0, INT64_MAX);
		disk->read_only = json_read_boolean(reading, value, "read-only");
	}
}

void manifest_read_options(struct json_reading *reading, const json_t *value,
			   struct manifest_machine *machine)
{
	char *text;

	if (!value || reading->error)
		return;
	if (!json_is_object(value)) {
		json_refuse(reading, -EBADMSG, "\"options\" is not an object");
		return;
	}
	text = json_dumps(value, JSON_COMPACT);
	machine->options = text;
	if (!text)
		json_refuse(reading, -ENOMEM, "no memory");
	else if (strlen(text) > MANIFEST_OPTIONS_MAX)
		json_refuse(reading, -EBADMSG, "\"options\" has more than %d bytes",
			    MANIFEST_OPTIONS_MAX);
}

static void read_machine(struct json_reading *reading, const json_t *top,
			 struct manifest_machine *machine)
{
	const json_t *object = json_read_member(reading, top, "machine", JSON_OBJECT);

	json_read_text(reading, object, "architecture", machine->architecture,
		       sizeof(machine->architecture));
	json_read_text(reading, object, "postern", machine->postern, sizeof(machine->postern));
	json_read_text(reading, object, "name", machine->name, sizeof(machine->name));
	machine->cpus = (unsigned int)json_read_number(reading, object, "cpus", 1, CPUS_MAX);
	read_ranges(reading, object, machine);
	read_devices(reading, object, machine);
	read_disks(reading, object, machine);
	manifest_read_options(reading, json_object_get(object, "options"), machine);
}

static void read_objects(struct json_reading *reading, const json_t *top, struct manifest *manifest)
{
	const json_t *array = json_read_array(reading, top, "objects", MANIFEST_OBJECTS_MAX,
					      &manifest->n_objects);
	unsigned int i, n = manifest->n_objects;

	for (i = 0; i < n; i++) {
		const json_t *value = json_array_get(array, i);
		struct manifest_object *object = &manifest->objects[i];

		json_read_text(reading, value, "what", object->what, sizeof(object->what));
		object->bytes = json_read_number(reading, value, "bytes", 0, STORE_OBJECT_MAX);
		json_read_hex(reading, value, "xxh3-128", object->sum, SUM_BYTES);
		if (reading->error)
			return;
		manifest->n_objects = i;
		if (!image_what_is_valid(object->what) || manifest_find(manifest, object->what))
			json_refuse(reading, -EBADMSG, "object \"%s\" cannot be, or is there twice",
				    object->what);
		manifest->n_objects = n;
	}
	if (array && !manifest_find(manifest, "index"))
		json_refuse(reading, -EBADMSG, "\"objects\" has no index");
}

static void read_images(struct json_reading *reading, const json_t *top, struct manifest *manifest)
{
	unsigned int i, n;
	const json_t *array = json_read_array(reading, top, "images", MANIFEST_IMAGES_MAX - 1, &n);
	const json_t *parent = json_object_get(top, "parent");

	manifest->has_parent = parent != NULL;
	if (parent)
		json_read_image(reading, parent, &manifest->parent);
	manifest->images = calloc(n + 1, sizeof(*manifest->images));
	if (!manifest->images) {
		json_refuse(reading, -ENOMEM, "no memory");
		return;
	}
	manifest->n_images = n + 1;
	manifest->images[0].id = manifest->id;
	for (i = 0; i < n; i++)
		json_read_image(reading, json_array_get(array, i), &manifest->images[i + 1]);
}

static void read_sizes(struct json_reading *reading, const json_t *top, struct manifest *manifest)
{
	const json_t *pages = json_read_member(reading, top, "pages", JSON_OBJECT);
	uint64_t span;

	json_read_number(reading, top, "page-bytes", PAGE_BYTES, PAGE_BYTES);
	span = json_read_number(reading, top, "span-pages", 16, 64);
	if (span & (span - 1))
		json_refuse(reading, -EBADMSG,
			    "\"span-pages\" is %" PRIu64 ", 16, 32 and 64 can be", span);
	manifest->span_pages = (unsigned int)span;
	manifest->data_pages = json_read_number(reading, pages, "data", 0, GFN_LIMIT);
	manifest->zero_pages = json_read_number(reading, pages, "zero", 0, GFN_LIMIT);
	manifest->absent_pages = json_read_number(reading, pages, "absent", 0, GFN_LIMIT);
	manifest->own_bytes = json_read_number(reading, top, "own-bytes", 0, INT64_MAX);
	if (!reading->error &&
	    manifest->data_pages + manifest->zero_pages + manifest->absent_pages !=
		    manifest_pages(manifest))
		json_refuse(reading, -EBADMSG, "\"pages\" are not as many as \"ranges\" have");
}

static void read_coding(struct json_reading *reading, const json_t *top, struct manifest *manifest)
{
	json_read_text(reading, top, "compression", manifest->compression,
		       sizeof(manifest->compression));
	json_read_text(reading, top, "encryption", manifest->encryption,
		       sizeof(manifest->encryption));
	if (reading->error)
		return;
	if (strcmp(manifest->compression, "zstd") && strcmp(manifest->compression, "none"))
		json_refuse(reading, -EPROTO,
			    "compression \"%s\" is not known to this postern: take a "
			    "newer one",
			    manifest->compression);
	manifest->encrypted = !strcmp(manifest->encryption, SEAL_ENCRYPTION);
	if (!manifest->encrypted && strcmp(manifest->encryption, "none"))
		json_refuse(reading, -EPROTO,
			    "encryption \"%s\" is not known to this postern: take a "
			    "newer one",
			    manifest->encryption);
}

/* Older ones have no such member: they are of machines. */
static void read_contents(struct json_reading *reading, const json_t *top,
			  struct manifest_machine *machine)
{
	char contents[32];

	if (reading->error || !json_object_get(top, "contents"))
		return;
	json_read_text(reading, top, "contents", contents, sizeof(contents));
	if (reading->error)
		return;
	machine->memory_only = !strcmp(contents, "memory");
	if (!machine->memory_only && strcmp(contents, "machine"))
		json_refuse(reading, -EPROTO,
			    "contents \"%s\" are not known to this postern: take a newer one",
			    contents);
}

static void read_version(struct json_reading *reading, const json_t *top, struct manifest *manifest)
{
	json_read_format(reading, top, FORMAT);
	manifest->version = (uint32_t)json_read_number(reading, top, "version", 0, UINT32_MAX);
	if (!reading->error)
		reading->error = state_version_check(reading->where, manifest->version,
						     IMAGE_VERSION, reading->err);
}

static void read_top(struct json_reading *reading, const json_t *top, struct manifest *manifest)
{
	json_read_hex(reading, top, "id", manifest->id.bytes, IMAGE_ID_BYTES);
	manifest->time_s = (int64_t)json_read_number(reading, top, "time", 0, INT64_MAX);
	read_coding(reading, top, manifest);
	read_machine(reading, top, &manifest->machine);
	read_contents(reading, top, &manifest->machine);
	read_sizes(reading, top, manifest);
	read_objects(reading, top, manifest);
	read_images(reading, top, manifest);
}

/* Does it end as it should, with the checksum of what stands before? */
static bool tail_is_right(const char *text, size_t len)
{
	const char *tail = text + len - TAIL_BYTES;
	uint8_t sum[SUM_BYTES];
	char want[TAIL_BYTES + 1], hex[SUM_TEXT];

	if (len < TAIL_BYTES)
		return false;
	sum_bytes(text, len - TAIL_BYTES, sum);
	sum_format_hex(sum, SUM_BYTES, hex);
	snprintf(want, sizeof(want), "%s%s%s", TAIL_KEY, hex, TAIL_END);
	return !memcmp(tail, want, TAIL_BYTES);
}

int manifest_parse(struct manifest *out, const void *json, size_t len, const char *where,
		   struct err *err)
{
	struct json_reading reading = { where, err, 0 };
	json_error_t at;
	json_t *top;

	memset(out, 0, sizeof(*out));
	if (len > MANIFEST_BYTES_MAX)
		return err_set(err, -EBADMSG, "%s: a manifest has at most %d bytes", where,
			       MANIFEST_BYTES_MAX);
	top = json_loadb(json, len, JSON_REJECT_DUPLICATES, &at);
	if (!top)
		return err_set(err, -EBADMSG,
			       "%s: not an image's manifest, or damaged: line %d: %s", where,
			       at.line, at.text);
	read_version(&reading, top, out);
	if (!reading.error && !tail_is_right(json, len))
		json_refuse(&reading, -EBADMSG, "damaged: its checksum is wrong");
	if (!reading.error)
		read_top(&reading, top, out);
	if (!reading.error && out->encrypted)
		manifest_read_sealed(&reading, top, out, json, len - TAIL_BYTES);
	json_decref(top);
	if (reading.error)
		manifest_fini(out);
	return reading.error;
}

void manifest_fini(struct manifest *manifest)
{
	free((char *)(uintptr_t)manifest->machine.options);
	free(manifest->sealed_options);
	free(manifest->images);
	memset(manifest, 0, sizeof(*manifest));
}

const struct manifest_object *manifest_find(const struct manifest *manifest, const char *what)
{
	unsigned int i;

	for (i = 0; i < manifest->n_objects; i++)
		if (!strcmp(manifest->objects[i].what, what))
			return &manifest->objects[i];
	return NULL;
}

uint64_t manifest_pages(const struct manifest *manifest)
{
	uint64_t pages = 0;
	unsigned int i;

	for (i = 0; i < manifest->machine.n_ranges; i++)
		pages += manifest->machine.ranges[i].len_bytes >> PAGE_SHIFT;
	return pages;
}
