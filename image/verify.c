// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * See operations.h: every page and every object of an image, read and compared with its
 * checksum.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "image/operations.h"
#include "image/sum.h"
#include "image/walk.h"

#define PART_BYTES ((size_t)1 << 20)

struct verify {
	const struct image_verify_options *options;
	struct image_verify_result *result;
};

static int verify_damage(void *arg, uint64_t pages, const struct err *err)
{
	struct verify *verify = arg;

	verify->result->damaged++;
	verify->result->damaged_pages += pages;
	if (verify->options->damage)
		verify->options->damage(verify->options->arg, err);
	return 0;
}

static void verify_progress(void *arg, uint64_t done, uint64_t pages)
{
	struct verify *verify = arg;

	verify->result->pages = done;
	if (verify->options->progress)
		verify->options->progress(verify->options->arg, done, pages);
}

/* Part by part: it may be large. */
static int object_sum(struct image *image, const char *name, uint64_t bytes, uint8_t *part,
		      struct sum_stream *sum, struct err *err)
{
	uint64_t at = 0;
	int64_t n;

	do {
		n = store_get(image->store, image->scope, name, at, part, PART_BYTES, STORE_UP_TO,
			      err);
		if (n < 0)
			return (int)n;
		sum_stream_add(sum, part, (size_t)n);
		at += (uint64_t)n;
	} while (n && at <= bytes);
	return at == bytes ? 0 : err_set(err, -EBADMSG, "it is not as long as the manifest says");
}

static int verify_object(struct image *image, const struct manifest_object *object, uint8_t *part,
			 struct sum_stream *stream, struct err *err)
{
	char name[NAME_ROOM];
	uint8_t sum[SUM_BYTES];
	int r;

	if (image->seal) {
		struct buf bytes = { 0 };

		/* Its tag says more than a checksum, and is behind all of it. */
		r = image_get_object(image, object->what, &bytes, err);
		buf_fini(&bytes);
		return r;
	}
	image_name_object(name, image_name(image), object->what, &image->manifest.id);
	sum_stream_reset(stream);
	r = object_sum(image, name, object->bytes, part, stream, err);
	if (!r) {
		sum_stream_get(stream, sum);
		if (memcmp(sum, object->sum, SUM_BYTES))
			r = err_set(err, -EBADMSG, "its checksum is wrong");
	}
	return r ? err_prefix(err, r, "image %s: object %s, offset 0: damaged", image_name(image),
			      name) :
		   0;
}

static int verify_objects(struct verify *verify, struct image *image, struct err *err)
{
	struct sum_stream *stream = sum_stream_new();
	uint8_t *part = malloc(PART_BYTES);
	unsigned int i;
	int r = 0;

	if (!stream || !part)
		r = err_set(err, -ENOMEM, "image %s: no memory to read it", image_name(image));
	for (i = 0; !r && i < image->manifest.n_objects; i++) {
		r = verify_object(image, &image->manifest.objects[i], part, stream, err);
		if (r == -EBADMSG || r == -ENOENT)
			r = verify_damage(verify, 0, err);
	}
	sum_stream_free(stream);
	free(part);
	return r;
}

/*
 * An encrypted one without its key: what can be said of it. `why`: how it was not opened.
 */
static int verify_locked(struct verify *verify, struct store *store, struct store_scope *scope,
			 const char *name, const struct err *why, struct err *err)
{
	struct image image = { .store = store, .scope = scope };
	int r = image_manifest_read(store, scope, name, &image.manifest, NULL, err);

	if (r)
		return r;
	r = verify_objects(verify, &image, err);
	manifest_fini(&image.manifest);
	if (!r && verify->result->damaged)
		r = err_set(err, -EBADMSG, "image %s is damaged in %" PRIu64 " of its objects",
			    name, verify->result->damaged);
	if (r)
		return r;
	err_set(err, why->code, "%s", why->text);
	return err_prefix(err, why->code, "of pages nothing is known, objects are whole");
}

int image_verify(struct store *store, struct store_scope *scope, const char *name,
		 const struct image_verify_options *options, struct image_verify_result *result,
		 struct err *err)
{
	static const struct image_verify_options none;
	struct verify verify = { options ? options : &none, result };
	const struct walk_ops ops = { .damage = verify_damage,
				      .progress = verify_progress,
				      .arg = &verify };
	const struct image_options open = { .key = verify.options->key,
					    .allow_unencrypted =
						    verify.options->allow_unencrypted };
	struct image *image;
	struct err why;
	int r = image_open(&image, store, scope, name, &open, &why);

	memset(result, 0, sizeof(*result));
	if (r == -ENOKEY)
		return verify_locked(&verify, store, scope, name, &why, err);
	if (r && err)
		*err = why;
	if (r)
		return r;
	r = verify_objects(&verify, image, err);
	if (!r)
		r = image_walk(image, verify.options->threads, &ops, err);
	image_free(image);
	if (r || !result->damaged)
		return r;
	return err_set(err, -EBADMSG,
		       "image %s is damaged in %" PRIu64 " places: %" PRIu64 " of "
		       "%" PRIu64 " pages cannot be had",
		       name, result->damaged, result->damaged_pages, result->pages);
}
