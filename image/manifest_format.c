// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * A manifest as text. What it is made of comes from the saver, and so perhaps
 * from a user: it is parsed again before it is handed out, so that nothing is
 * ever written that could not be read.
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image/manifest_internal.h"
#include "image/seal.h"
#include "image/sum.h"

static json_t *format_hex(const uint8_t *bytes, size_t n)
{
	char text[2 * IMAGE_ID_BYTES + 1];

	_Static_assert(SUM_BYTES <= IMAGE_ID_BYTES, "text has room for both");
	sum_format_hex(bytes, n, text);
	return json_string(text);
}

static json_t *format_image(const struct manifest_image *image)
{
	return json_pack("{s:s, s:o}", "name", image->name, "id",
			 format_hex(image->id.bytes, IMAGE_ID_BYTES));
}

static json_t *format_ranges(const struct manifest_machine *machine)
{
	json_t *array = json_array();
	unsigned int i;

	for (i = 0; i < machine->n_ranges; i++)
		json_array_append_new(array,
				      json_pack("{s:I, s:I}", "base",
						(json_int_t)machine->ranges[i].base.v, "bytes",
						(json_int_t)machine->ranges[i].len_bytes));
	return array;
}

static json_t *format_devices(const struct manifest_machine *machine)
{
	json_t *array = json_array();
	unsigned int i;

	for (i = 0; i < machine->n_devices; i++)
		json_array_append_new(array, json_string(machine->devices[i]));
	return array;
}

static json_t *format_disks(const struct manifest_machine *machine)
{
	json_t *array = json_array();
	unsigned int i;

	for (i = 0; i < machine->n_disks; i++)
		json_array_append_new(
			array, json_pack("{s:s, s:s, s:I, s:b}", "name", machine->disks[i].name,
					 "target", machine->disks[i].target, "bytes",
					 (json_int_t)machine->disks[i].bytes, "read-only",
					 (int)machine->disks[i].read_only));
	return array;
}

static json_t *format_machine(const struct manifest_machine *machine, bool sealed)
{
	json_t *object =
		json_pack("{s:s, s:s, s:s, s:i, s:o, s:o, s:o}", "architecture",
			  machine->architecture, "postern", machine->postern, "name", machine->name,
			  "cpus", (int)machine->cpus, "ranges", format_ranges(machine), "devices",
			  format_devices(machine), "disks", format_disks(machine));

	if (object && machine->options && !sealed &&
	    json_object_set_new(object, "options",
				json_loads(machine->options, JSON_REJECT_DUPLICATES, NULL))) {
		json_decref(object);
		return NULL;
	}
	return object;
}

static json_t *format_objects(const struct manifest *manifest)
{
	json_t *array = json_array();
	unsigned int i;

	for (i = 0; i < manifest->n_objects; i++)
		json_array_append_new(array,
				      json_pack("{s:s, s:I, s:o}", "what",
						manifest->objects[i].what, "bytes",
						(json_int_t)manifest->objects[i].bytes, "xxh3-128",
						format_hex(manifest->objects[i].sum, SUM_BYTES)));
	return array;
}

static json_t *format_images(const struct manifest *manifest)
{
	json_t *array = json_array();
	unsigned int i;

	for (i = 1; i < manifest->n_images; i++)
		json_array_append_new(array, format_image(&manifest->images[i]));
	return array;
}

static json_t *format_top(const struct manifest *manifest, struct seal *seal)
{
	json_t *top = json_pack(
		"{s:s, s:I, s:o, s:I, s:s, s:s, s:i, s:i, s:{s:I, s:I, s:I}, s:I}", "format",
		"postern-image", "version", (json_int_t)IMAGE_VERSION, "id",
		format_hex(manifest->id.bytes, IMAGE_ID_BYTES), "time",
		(json_int_t)manifest->time_s, "compression", manifest->compression, "encryption",
		manifest->encryption, "page-bytes", (int)PAGE_BYTES, "span-pages",
		(int)manifest->span_pages, "pages", "data", (json_int_t)manifest->data_pages,
		"zero", (json_int_t)manifest->zero_pages, "absent",
		(json_int_t)manifest->absent_pages, "own-bytes", (json_int_t)manifest->own_bytes);

	if (!top ||
	    json_object_set_new(top, "machine", format_machine(&manifest->machine, seal != NULL)) ||
	    (seal && manifest_format_sealed(manifest, seal, top)) ||
	    json_object_set_new(top, "objects", format_objects(manifest)) ||
	    json_object_set_new(top, "images", format_images(manifest)) ||
	    (manifest->machine.memory_only &&
	     json_object_set_new(top, "contents", json_string("memory"))) ||
	    (manifest->has_parent &&
	     json_object_set_new(top, "parent", format_image(&manifest->parent)))) {
		json_decref(top);
		return NULL;
	}
	return top;
}

/* In place of the last brace: the signature, and the checksum, of what stands before each. */
static int add_tail(struct buf *out, const char *text, size_t len, struct seal *seal)
{
	char tail[SUM_TEXT + 32], hex[SUM_TEXT];
	uint8_t sum[SUM_BYTES];
	size_t start = out->len;
	int r = buf_append(out, text, len - 1);

	if (!r && seal)
		r = manifest_add_signature(out, start, seal);
	if (r)
		return r;
	sum_bytes(out->data + start, out->len - start, sum);
	sum_format_hex(sum, SUM_BYTES, hex);
	snprintf(tail, sizeof(tail), ",\"xxh3-128\":\"%s\"}\n", hex);
	return buf_append(out, tail, strlen(tail));
}

int manifest_format(const struct manifest *manifest, struct seal *seal, struct buf *out,
		    struct err *err)
{
	json_t *top = format_top(manifest, seal);
	char *text = top ? json_dumps(top, JSON_COMPACT) : NULL;
	struct manifest again;
	size_t start = out->len;
	int r;

	json_decref(top);
	if (!text)
		return err_set(err, -EINVAL,
			       "the manifest: no valid UTF-8, options that are no "
			       "JSON object, or no memory");
	r = add_tail(out, text, strlen(text), seal);
	free(text);
	if (r)
		return err_set(err, r, "the manifest: no memory");
	r = manifest_parse(&again, out->data + start, out->len - start, "the manifest", err);
	if (!r)
		manifest_fini(&again);
	return r == -EBADMSG || r == -EPROTO ? err_prefix(err, -EINVAL, "cannot be written") : r;
}
