// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/* See operations.h: an image written anew, out of one that may need many others. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "image/operations.h"
#include "image/walk.h"
#include "image/working_set.h"
#include "image/writer.h"

struct compact {
	const struct image_compact_options *options;
	struct image_writer *writer;
	struct err damage;
};

/* Spans here may be longer than a writer's. */
static int compact_span(void *arg, gfn_t first, const struct leaf_span *span, const uint8_t *data,
			uint64_t right, struct err *err)
{
	struct compact *compact = arg;
	uint64_t absent = span->absent;
	unsigned int at;
	int r = 0;

	for (; !r && absent; absent &= absent - 1)
		r = image_writer_absent(compact->writer,
					GFN(first.v + (unsigned int)__builtin_ctzll(absent)), 1,
					err);
	for (at = 0; !r && at < SPAN_PAGES_MAX && right >> at; at += IMAGE_SPAN_PAGES) {
		uint32_t mask = (uint32_t)(right >> at & ((UINT64_C(1) << IMAGE_SPAN_PAGES) - 1));

		r = image_writer_span(compact->writer, GFN(first.v + at), mask,
				      data + at * PAGE_BYTES, err);
	}
	return r;
}

/* An image that is damaged is not made into one that looks whole. */
static int compact_damage(void *arg, uint64_t pages, const struct err *err)
{
	struct compact *compact = arg;

	(void)pages;
	compact->damage = *err;
	return err->code;
}

static void compact_progress(void *arg, uint64_t done, uint64_t pages)
{
	struct compact *compact = arg;

	compact->options->progress(compact->options->arg, done, pages);
}

static int copy_objects(struct compact *compact, struct image *image, struct err *err)
{
	const struct manifest *manifest = image_manifest(image);
	unsigned int i;
	int r = 0;

	for (i = 0; !r && i < manifest->n_objects; i++) {
		const char *what = manifest->objects[i].what;
		struct buf bytes = { 0 };

		if (!strcmp(what, "index"))
			continue;
		r = image_get_object(image, what, &bytes, err);
		if (!r)
			r = image_writer_object(compact->writer, what, bytes.data, bytes.len, err);
		buf_fini(&bytes);
	}
	return r;
}

/* It is advice: an image without one is as good. */
static void copy_working_set(struct store *store, struct store_scope *scope, struct image *image,
			     const char *to, const struct image_id *id, const struct image_key *key)
{
	struct working_set set;

	if (working_set_load(&set, store, scope, image_name(image), &image_manifest(image)->id,
			     image->seal ? key : NULL, NULL))
		return;
	set.id = *id;
	working_set_save(&set, store, scope, to, key, NULL);
	working_set_fini(&set);
}

static int copy_pages(struct compact *compact, struct image *image, struct err *err)
{
	const struct walk_ops ops = {
		.span = compact_span,
		.damage = compact_damage,
		.arg = compact,
		.progress = compact->options->progress ? compact_progress : NULL,
	};
	int r = image_walk(image, compact->options->threads, &ops, err);

	if (r && r == compact->damage.code && err)
		*err = compact->damage;
	return r;
}

int image_compact(struct store *store, struct store_scope *scope, const char *from, const char *to,
		  const struct image_compact_options *options, struct err *err)
{
	static const struct image_compact_options none;
	struct compact compact = { .options = options ? options : &none };
	struct image_writer_config config = { .rest = IMAGE_REST_ZERO,
					      .level = compact.options->level,
					      .key = compact.options->key };
	const struct image_options open = { .key = config.key,
					    .allow_unencrypted =
						    compact.options->allow_unencrypted };
	struct image *image;
	int r = image_open(&image, store, scope, from, &open, err);

	if (r)
		return r;
	config.machine = image_manifest(image)->machine;
	config.time_s = image_manifest(image)->time_s;
	r = image_writer_new(&compact.writer, store, scope, to, &config, err);
	if (!r) {
		r = copy_objects(&compact, image, err);
		if (!r)
			r = copy_pages(&compact, image, err);
		if (!r)
			r = image_writer_finish(compact.writer, err);
		if (!r)
			copy_working_set(store, scope, image, to, image_writer_id(compact.writer),
					 config.key);
		image_writer_free(compact.writer);
	}
	image_free(image);
	return r;
}
