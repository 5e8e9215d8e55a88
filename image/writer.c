// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * A writer's life. The order at its end is what makes an image whole or not
 * there: packs, then index and other objects, then the manifest; and the claim
 * is looked at before the manifest is written and again afterwards: before, so
 * that little is left to chance when this process is killed in between. Whoever
 * takes a saver for dead (gc) first removes its claim and then looks for a
 * manifest; so one of the two sees the other, and no image loses a pack. The same
 * goes for the parent: whoever deletes that first removes its manifest.
 */
#include "image/writer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/clock.h"
#include "image/claim.h"
#include "image/internal.h"
#include "image/purge.h"
#include "image/sum.h"
#include "image/writer_internal.h"

#define PACK_BYTES_MIN (UINT64_C(4) << 20)
/* A guest's memory has at least so many packs, so that they take little of ours while they fill. */
#define PACKS_A_GUEST 512
/* Of its memory, what may be written as it is in a hurry. */
#define HURRY_PART 4
#define CLEAN_NS (5 * NS_PER_SEC)

int writer_fail(struct image_writer *writer, const struct err *why)
{
	pthread_mutex_lock(&writer->lock);
	if (!writer->error.code)
		writer->error = *why;
	pthread_mutex_unlock(&writer->lock);
	return why->code;
}

int writer_error(struct image_writer *writer, struct err *err)
{
	int r;

	pthread_mutex_lock(&writer->lock);
	r = writer->error.code;
	if (r && err)
		*err = writer->error;
	pthread_mutex_unlock(&writer->lock);
	return r;
}

/* ---- the beginning ---- */

static bool same_ranges(const struct manifest_machine *a, const struct manifest_machine *b)
{
	unsigned int i;

	for (i = 0; i < a->n_ranges && i < b->n_ranges; i++)
		if (a->ranges[i].base.v != b->ranges[i].base.v ||
		    a->ranges[i].len_bytes != b->ranges[i].len_bytes)
			return false;
	return a->n_ranges == b->n_ranges;
}

static int check_config(const struct image_writer_config *config, const char *name, struct err *err)
{
	if (config->level > CODEC_LEVEL_MAX)
		return err_set(err, -EINVAL, "image %s: compression level %d, at most %d can be",
			       name, config->level, CODEC_LEVEL_MAX);
	if (config->pack_bytes > IMAGE_PACK_MAX)
		return err_set(err, -EINVAL, "image %s: packs of more than 64 MiB", name);
	if (!config->machine.n_ranges || config->machine.n_ranges > MEMORY_REGIONS_MAX)
		return err_set(err, -EINVAL, "image %s: %u memory ranges", name,
			       config->machine.n_ranges);
	if (config->rest == IMAGE_REST_KEPT && !config->parent)
		return err_set(err, -EINVAL, "image %s has no parent to keep pages of", name);
	if (!config->parent)
		return 0;
	if (!same_ranges(&config->machine, &image_manifest(config->parent)->machine))
		return err_set(err, -EINVAL,
			       "image %s has other memory than its parent %s: save it "
			       "without a parent",
			       name, image_name(config->parent));
	if (image_manifest(config->parent)->span_pages != IMAGE_SPAN_PAGES)
		return err_set(err, -EINVAL,
			       "image %s: its parent %s has spans of %u pages: compact "
			       "that one first",
			       name, image_name(config->parent),
			       image_manifest(config->parent)->span_pages);
	return 0;
}

/* Frames of the parent's are kept, and stay under its key. */
static int check_key(const struct image_writer_config *config, const char *name, struct err *err)
{
	char ours[IMAGE_KEY_ID_TEXT], theirs[IMAGE_KEY_ID_TEXT];
	const struct seal *seal = config->parent ? config->parent->seal : NULL;

	if (!config->parent || (!seal && !config->key))
		return 0;
	if (!seal)
		return err_set(err, -EKEYREJECTED,
			       "image %s is to be encrypted, and its parent %s is not: save it "
			       "without a parent, or compact that one with the key first",
			       name, image_name(config->parent));
	sum_format_hex(seal_key_id(seal), IMAGE_KEY_ID_BYTES, theirs);
	if (!config->key)
		return err_set(err, -EKEYREJECTED,
			       "image %s: its parent %s is encrypted with the key whose id is %s: "
			       "save with that key",
			       name, image_name(config->parent), theirs);
	if (!memcmp(image_key_id(config->key), seal_key_id(seal), IMAGE_KEY_ID_BYTES))
		return 0;
	sum_format_hex(image_key_id(config->key), IMAGE_KEY_ID_BYTES, ours);
	return err_set(err, -EKEYREJECTED,
		       "image %s: its parent %s is encrypted with the key whose id is %s, and the "
		       "one that was given has the id %s: save with that key, or without a parent",
		       name, image_name(config->parent), theirs, ours);
}

static int fill_manifest(struct image_writer *writer, const struct image_writer_config *config)
{
	struct manifest *manifest = &writer->manifest;
	const struct image *parent = config->parent;

	manifest->machine = config->machine;
	manifest->machine.options = NULL;
	if (config->machine.options) {
		manifest->machine.options = strdup(config->machine.options);
		if (!manifest->machine.options)
			return -ENOMEM;
	}
	manifest->version = IMAGE_VERSION;
	manifest->time_s = config->time_s ? config->time_s : time(NULL);
	manifest->span_pages = IMAGE_SPAN_PAGES;
	strcpy(manifest->compression, config->level < 0 ? "none" : "zstd");
	strcpy(manifest->encryption, config->key ? SEAL_ENCRYPTION : "none");
	strcpy(manifest->name, writer->name);
	manifest->images = calloc(MANIFEST_IMAGES_MAX, sizeof(*manifest->images));
	if (!manifest->images)
		return -ENOMEM;
	if (config->id)
		manifest->id = *config->id;
	else if (getrandom(manifest->id.bytes, IMAGE_ID_BYTES, 0) != IMAGE_ID_BYTES)
		return -EIO;
	manifest->images[0].id = manifest->id;
	manifest->n_images = 1;
	manifest->has_parent = parent != NULL;
	if (!parent)
		return 0;
	manifest->parent = parent->manifest.images[0];
	/* What is kept may be compressed, whatever is done here. */
	strcpy(manifest->compression, "zstd");
	return 0;
}

/* Is the parent still what it was? -ESTALE: it was deleted. */
static int check_parent(struct image_writer *writer, struct err *err)
{
	const struct manifest_image *parent = &writer->manifest.parent;
	int r;

	if (!writer->parent)
		return 0;
	r = image_manifest_id_check(writer->store, writer->scope, parent->name, &parent->id, err);
	if (r == -ENOENT || r == -EEXIST)
		return err_set(err, -ESTALE,
			       "image %s: its parent %s was deleted: save it without a "
			       "parent",
			       writer->name, parent->name);
	return r;
}

/* Is there such an image already? And is the parent still here? */
static int writer_look_around(struct image_writer *writer, struct err *err)
{
	char object[NAME_ROOM];
	uint8_t byte;
	int64_t n;

	image_name_plain(object, writer->name, "manifest.json");
	n = store_get(writer->store, writer->scope, object, 0, &byte, 1, STORE_UP_TO, err);
	if (n >= 0)
		return err_set(err, -EEXIST,
			       "image %s is there already: delete it first, or take "
			       "another name",
			       writer->name);
	if (n != -ENOENT)
		return (int)n;
	return check_parent(writer, err);
}

static size_t pack_bytes_for(const struct image_writer *writer,
			     const struct image_writer_config *config)
{
	uint64_t bytes = manifest_pages(&writer->manifest) * PAGE_BYTES / PACKS_A_GUEST;

	if (config->pack_bytes)
		return config->pack_bytes;
	if (bytes < PACK_BYTES_MIN)
		return PACK_BYTES_MIN;
	return bytes > IMAGE_PACK_MAX ? IMAGE_PACK_MAX : bytes & ~(PAGE_BYTES - 1);
}

static int make_tables(struct image_writer *writer, const struct image_writer_config *config)
{
	int r = fill_manifest(writer, config);

	if (!r)
		r = writer_new_leaves(writer);
	if (r || !writer->parent)
		return r;
	writer->pack_map = calloc(writer->parent->root.n_packs + 1, sizeof(uint32_t));
	writer->image_map = calloc(writer->parent->manifest.n_images, sizeof(uint32_t));
	return writer->pack_map && writer->image_map ? 0 : -ENOMEM;
}

static int writer_start(struct image_writer *writer, const struct image_writer_config *config,
			struct err *err)
{
	const struct image_id *id = &writer->manifest.id;
	struct packer_config packs = { .store = writer->store,
				       .scope = writer->scope,
				       .name = writer->name };
	int r = make_tables(writer, config);

	if (r)
		return err_set(err, r, "image %s: no memory", writer->name);
	writer->hurry_left = (int64_t)(manifest_pages(&writer->manifest) / HURRY_PART * PAGE_BYTES);
	if (config->key)
		r = seal_new(&writer->seal, config->key, writer->manifest.images, 1, err);
	if (r)
		return err_prefix(err, r, "image %s", writer->name);
	r = claim_take(writer->store, writer->scope, writer->name, id,
		       writer->parent ? &writer->manifest.parent : NULL, err);
	if (r)
		return r;
	writer->claimed = true;
	r = writer_look_around(writer, err);
	if (r)
		return r;
	packs.id = *id;
	packs.pack_bytes = pack_bytes_for(writer, config);
	packs.seal = writer->seal;
	return packer_new(&writer->packer, &packs, err);
}

int image_writer_new(struct image_writer **out, struct store *store, struct store_scope *scope,
		     const char *name, const struct image_writer_config *config, struct err *err)
{
	struct image_writer *writer;
	int r = image_name_check(name, err);

	if (!r)
		r = check_config(config, name, err);
	if (!r)
		r = check_key(config, name, err);
	if (r)
		return r;
	writer = calloc(1, sizeof(*writer));
	if (!writer)
		return err_set(err, -ENOMEM, "image %s: no memory", name);
	writer->store = store;
	writer->scope = scope;
	strcpy(writer->name, name);
	writer->parent = config->parent;
	writer->rest = config->rest;
	writer->level = config->level ? config->level : CODEC_LEVEL_DEFAULT;
	pthread_mutex_init(&writer->lock, NULL);
	r = writer_start(writer, config, err);
	if (r) {
		image_writer_free(writer);
		return r;
	}
	*out = writer;
	return 0;
}

void image_writer_hurry(struct image_writer *writer, bool hurry)
{
	atomic_store_explicit(&writer->hurry, hurry, memory_order_relaxed);
}

/* ---- objects ---- */

/* A place in the manifest, so that no other thread writes one called so. */
static int note_object(struct image_writer *writer, const char *what, struct err *err)
{
	struct manifest *manifest = &writer->manifest;
	int r = 0;

	pthread_mutex_lock(&writer->lock);
	if (!image_what_is_valid(what) || manifest_find(manifest, what))
		r = err_set(err, -EINVAL,
			    "image %s: an object cannot be called %.32s, or is there "
			    "already",
			    writer->name, what);
	else if (manifest->n_objects == MANIFEST_OBJECTS_MAX)
		r = err_set(err, -EINVAL, "image %s: more than %d objects", writer->name,
			    MANIFEST_OBJECTS_MAX);
	else
		strcpy(manifest->objects[manifest->n_objects++].what, what);
	pthread_mutex_unlock(&writer->lock);
	return r;
}

static int write_object(struct image_writer *writer, const char *what, const void *data, size_t len,
			struct err *err)
{
	struct manifest_object *object;
	char name[NAME_ROOM];
	struct err why;
	int64_t n;

	image_name_object(name, writer->name, what, &writer->manifest.id);
	n = store_put(writer->store, writer->scope, name, data, len, 0, &why);
	if (n < 0) {
		err_prefix(&why, (int)n, "image %s", writer->name);
		if (err)
			*err = why;
		return writer_fail(writer, &why);
	}
	pthread_mutex_lock(&writer->lock);
	object = (struct manifest_object *)(uintptr_t)manifest_find(&writer->manifest, what);
	object->bytes = len;
	sum_bytes(data, len, object->sum);
	pthread_mutex_unlock(&writer->lock);
	return 0;
}

static int put_object(struct image_writer *writer, const char *what, const void *data, size_t len,
		      struct err *err)
{
	const struct seal_whole whole = { .part = SEAL_OBJECT, .what = what };
	uint8_t *sealed;
	struct err why;
	int r = note_object(writer, what, err);

	if (r || !writer->seal)
		return r ? r : write_object(writer, what, data, len, err);
	sealed = malloc(len + SEAL_TAG_BYTES);
	r = sealed ? seal_whole(writer->seal, &whole, data, len, sealed) : -ENOMEM;
	if (!r) {
		r = write_object(writer, what, sealed, len + SEAL_TAG_BYTES, err);
	} else {
		err_set(&why, r, "image %s: no memory to encrypt its object %s", writer->name,
			what);
		if (err)
			*err = why;
		writer_fail(writer, &why);
	}
	free(sealed);
	return r;
}

int image_writer_object(struct image_writer *writer, const char *what, const void *data, size_t len,
			struct err *err)
{
	int r = writer_error(writer, err);
	uint32_t number;

	if (r)
		return r;
	if (!strcmp(what, "index") || sscanf(what, "pack-%u", &number) == 1)
		return err_set(err, -EINVAL, "image %s: an object cannot be called %s",
			       writer->name, what);
	if (len > STORE_OBJECT_MAX - SEAL_TAG_BYTES)
		return err_set(err, -EINVAL, "image %s: object %s has more than 1 GiB",
			       writer->name, what);
	return put_object(writer, what, data, len, err);
}

/* ---- the end ---- */

static int put_index(struct image_writer *writer, struct err *err)
{
	struct buf bytes = { 0 };
	int r = writer_encode_root(writer, &bytes, err);

	if (!r)
		r = put_object(writer, "index", bytes.data, bytes.len, err);
	buf_fini(&bytes);
	return r;
}

static int put_manifest(struct image_writer *writer, struct err *err)
{
	char object[NAME_ROOM];
	struct buf text = { 0 };
	struct err why;
	int64_t n;
	int r = manifest_format(&writer->manifest, writer->seal, &text, err);

	if (r) {
		buf_fini(&text);
		return r;
	}
	image_name_plain(object, writer->name, "manifest.json");
	n = store_put(writer->store, writer->scope, object, text.data, text.len, STORE_NEW, err);
	buf_fini(&text);
	if (n >= 0)
		return 0;
	/* It may have been written all the same. */
	r = image_manifest_id_check(writer->store, writer->scope, writer->name,
				    &writer->manifest.id, &why);
	if (!r)
		return 0;
	if (r == -EEXIST)
		return err_set(err, r, "image %s: another saver was faster", writer->name);
	writer->may_be_whole = r != -ENOENT;
	return (int)n;
}

/*
 * The claim is gone, or the parent: somebody may have removed packs that are needed before the
 * manifest was there to be seen.
 */
static int take_back(struct image_writer *writer, struct err *err)
{
	char object[NAME_ROOM];
	struct err why;

	image_name_plain(object, writer->name, "manifest.json");
	if (store_delete(writer->store, NULL, object, &why)) {
		writer->may_be_whole = true;
		return err_prefix(err, -ESTALE,
				  "image %s may have lost packs and could not be "
				  "removed (%.100s): delete it",
				  writer->name, why.text);
	}
	return -ESTALE;
}

static int writer_end(struct image_writer *writer, struct err *err)
{
	const struct image_id *id = &writer->manifest.id;
	int r = writer_finish_leaves(writer, err);

	if (!r)
		r = packer_finish(writer->packer, err);
	if (!r)
		r = put_index(writer, err);
	if (!r)
		r = claim_check(writer->store, writer->scope, writer->name, id, err);
	if (!r)
		r = check_parent(writer, err);
	if (!r)
		r = put_manifest(writer, err);
	if (r)
		return r;
	r = claim_check(writer->store, writer->scope, writer->name, id, err);
	if (!r)
		r = check_parent(writer, err);
	if (r == -ESTALE)
		return take_back(writer, err);
	/* It is there. A claim that cannot be removed now is removed by gc. */
	writer->finished = true;
	claim_drop(writer->store, writer->scope, writer->name, id, NULL);
	return 0;
}

int image_writer_finish(struct image_writer *writer, struct err *err)
{
	struct err why = { 0 };
	int r = writer_error(writer, err);

	if (r)
		return r;
	r = writer_end(writer, &why);
	if (!r)
		return 0;
	if (err)
		*err = why;
	return r == -EINVAL ? r : writer_fail(writer, &why);
}

/* Removes what a writer that did not finish has written; the claim last. */
static void clean(struct image_writer *writer)
{
	struct purge *purge = purge_new(writer->store, CLEAN_NS);
	const struct image_id *id = &writer->manifest.id;
	uint32_t packs = writer->packer ? packer_packs(writer->packer, NULL) : 0, i;
	char object[NAME_ROOM];

	for (i = 0; i < packs; i++) {
		image_name_pack(object, writer->name, i, id);
		purge_add(purge, object);
	}
	for (i = 0; i < writer->manifest.n_objects; i++) {
		image_name_object(object, writer->name, writer->manifest.objects[i].what, id);
		purge_add(purge, object);
	}
	/* It may be another's by now. */
	if (purge_wait(purge))
		claim_drop(writer->store, NULL, writer->name, id, NULL);
	purge_free(purge);
}

void image_writer_free(struct image_writer *writer)
{
	if (!writer)
		return;
	/* Its threads write no more from here on. */
	if (writer->packer)
		packer_stop(writer->packer);
	if (writer->claimed && !writer->finished && !writer->may_be_whole)
		clean(writer);
	packer_free(writer->packer);
	writer_free_leaves(writer);
	root_fini(&writer->root);
	seal_free(writer->seal);
	manifest_fini(&writer->manifest);
	free(writer->pack_map);
	free(writer->image_map);
	pthread_mutex_destroy(&writer->lock);
	free(writer);
}

/* ---- what is asked of it ---- */

void image_writer_stats(struct image_writer *writer, struct image_writer_stats *stats)
{
	pthread_mutex_lock(&writer->lock);
	*stats = writer->stats;
	pthread_mutex_unlock(&writer->lock);
	packer_progress(writer->packer, &stats->written_bytes, &stats->stored_bytes);
	stats->packs = packer_packs(writer->packer, NULL);
}

const struct image_id *image_writer_id(const struct image_writer *writer)
{
	return &writer->manifest.id;
}
