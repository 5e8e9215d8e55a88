// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * An image, opened: the manifest, then the index's root, each checked before
 * anything in it is believed. Caches have their slots from the start, but memory
 * for pages only once they are used.
 */
#include "image/image.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/count.h"
#include "base/page.h"
#include "image/internal.h"
#include "image/sum.h"

#define LEAF_CACHE_BYTES (UINT64_C(16) << 20)
#define FRAME_CACHE_BYTES (UINT64_C(16) << 20)
/* What a leaf takes in memory when every page is data, and each span one piece. */
#define LEAF_MEMORY \
	(LEAF_PAGES * 8 + LEAF_SPANS_MAX * (sizeof(struct leaf_span) + sizeof(struct leaf_piece)))
/* As many threads can read at a time without waiting for each other. */
#define SLOTS_MIN 16u
#define SLOTS_MAX (1u << 20)

/* ---- opening ---- */

int image_manifest_read(struct store *store, struct store_scope *scope, const char *name,
			struct manifest *manifest, struct buf *text, struct err *err)
{
	char object[NAME_ROOM];
	struct buf bytes = { 0 };
	int64_t n;
	int r;

	image_name_plain(object, name, "manifest.json");
	n = store_get_all(store, scope, object, MANIFEST_BYTES_MAX, &bytes, err);
	r = n < 0 ? (int)n : manifest_parse(manifest, bytes.data, bytes.len, object, err);
	if (!r && text)
		*text = bytes;
	else
		buf_fini(&bytes);
	if (n == -ENOENT)
		return err_prefix(err, -ENOENT, "no image %s here, or one that was never finished",
				  name);
	if (n == -EFBIG)
		return err_set(err, -EBADMSG, "%s: not an image's manifest: more than %d bytes",
			       object, MANIFEST_BYTES_MAX);
	if (r)
		return err_prefix(err, r, "image %s", name);
	strcpy(manifest->images[0].name, name);
	return 0;
}

int image_manifest_id_check(struct store *store, struct store_scope *scope, const char *name,
			    const struct image_id *id, struct err *err)
{
	struct manifest manifest;
	int r = image_manifest_read(store, scope, name, &manifest, NULL, err);

	if (r)
		return r;
	if (memcmp(&manifest.id, id, sizeof(*id)))
		r = err_set(err, -EEXIST, "image %s is another one by now", name);
	manifest_fini(&manifest);
	return r;
}

/* ---- encrypted ones ---- */

static int open_refuse_key(const struct image *image, const uint8_t *given, struct err *err)
{
	char mine[IMAGE_KEY_ID_TEXT], theirs[IMAGE_KEY_ID_TEXT];

	sum_format_hex(image->manifest.key_id, IMAGE_KEY_ID_BYTES, theirs);
	if (!given)
		return err_set(err, -ENOKEY,
			       "image %s is encrypted (%s) with the key whose id is %s: give that "
			       "key",
			       image_name(image), image->manifest.encryption, theirs);
	sum_format_hex(given, IMAGE_KEY_ID_BYTES, mine);
	return err_set(err, -EKEYREJECTED,
		       "image %s is encrypted with the key whose id is %s, and the one that was "
		       "given has the id %s: give the other, or save without this image as parent",
		       image_name(image), theirs, mine);
}

static int open_signed(struct image *image, const struct image_key *key, const struct buf *text,
		       struct err *err)
{
	struct manifest *manifest = &image->manifest;
	char object[NAME_ROOM];
	int r;

	if (!key || memcmp(image_key_id(key), manifest->key_id, IMAGE_KEY_ID_BYTES))
		return open_refuse_key(image, key ? image_key_id(key) : NULL, err);
	image_name_plain(object, image_name(image), "manifest.json");
	r = seal_new(&image->seal, key, manifest->images, manifest->n_images, err);
	if (!r)
		r = manifest_unseal(manifest, image->seal, text->data, object, err);
	if (r)
		return err_prefix(err, r, "image %s", image_name(image));
	if (strcmp(manifest->name, image_name(image)))
		return err_set(err, -EKEYREJECTED,
			       "image %s was saved as %s, and somebody has moved it: give it its "
			       "name back",
			       image_name(image), manifest->name);
	return 0;
}

static int open_manifest(struct image *image, const char *name, const struct image_options *options,
			 struct err *err)
{
	const struct image_key *key = options ? options->key : NULL;
	struct buf text = { 0 };
	int r = image_manifest_read(image->store, image->scope, name, &image->manifest, &text, err);

	if (r)
		return r;
	if (image->manifest.encrypted)
		r = open_signed(image, key, &text, err);
	else if (key && !options->allow_unencrypted)
		r = err_set(err, -EKEYREJECTED,
			    "image %s is not encrypted, although a key was given: somebody may "
			    "have put it in the place of one that was. If it is what you want, "
			    "allow unencrypted ones: --allow-unencrypted",
			    name);
	buf_fini(&text);
	return r;
}

/* ---- objects ---- */

/* What was read of an object, opened in its place. Returns its length. */
static int64_t object_open(struct image *image, const char *what, uint8_t *data, uint64_t bytes,
			   const char *name, struct err *err)
{
	const struct seal_whole whole = { .part = SEAL_OBJECT, .what = what };
	int r = -EBADMSG;

	if (!image->seal)
		return (int64_t)bytes;
	if (bytes >= SEAL_TAG_BYTES)
		r = seal_open_whole(image->seal, &whole, data, bytes - SEAL_TAG_BYTES, data);
	if (!r)
		return (int64_t)(bytes - SEAL_TAG_BYTES);
	if (r == -EBADMSG)
		count_add(&image->damaged, 1);
	return err_set(err, r, "image %s: object %s, offset 0: %s", image_name(image), name,
		       r == -ENOMEM ? "no memory to open it" :
				      "damaged or altered: it cannot be opened with the key");
}

static int get_object(struct image *image, const struct manifest_object *object, struct buf *out,
		      struct err *err)
{
	char name[NAME_ROOM];
	uint8_t sum[SUM_BYTES];
	size_t start = out->len;
	int64_t n;

	image_name_object(name, image_name(image), object->what, &image->manifest.id);
	if (!buf_reserve(out, object->bytes + 1))
		return err_set(err, -ENOMEM, "image %s: no memory for %s", image_name(image), name);
	/* One byte more than there should be, so that one that is too long is noticed, too. */
	n = store_get(image->store, image->scope, name, 0, out->data + start, object->bytes + 1,
		      STORE_UP_TO | STORE_URGENT, err);
	if (n < 0)
		return err_prefix(err, (int)n, "image %s", image_name(image));
	count_add(&image->bytes, (uint64_t)n);
	sum_bytes(out->data + start, (size_t)n, sum);
	if ((uint64_t)n != object->bytes || memcmp(sum, object->sum, SUM_BYTES)) {
		count_add(&image->damaged, 1);
		return err_set(err, -EBADMSG, "image %s: object %s, offset 0: damaged: %s",
			       image_name(image), name,
			       (uint64_t)n != object->bytes ?
				       "it is not as long as the manifest says" :
				       "its checksum is wrong");
	}
	n = object_open(image, object->what, out->data + start, (uint64_t)n, name, err);
	if (n < 0)
		return (int)n;
	out->len = start + (size_t)n;
	return 0;
}

/* Do root and manifest speak of the same image? */
static bool root_fits(const struct image *image)
{
	const struct manifest *manifest = &image->manifest;
	uint64_t data = 0, absent = 0;
	uint32_t i;

	for (i = 0; i < image->root.n_leaves; i++) {
		data += image->root.leaves[i].data_pages;
		absent += image->root.leaves[i].absent_pages;
	}
	return !memcmp(&image->root.id, &manifest->id, sizeof(manifest->id)) &&
	       image->root.span_pages == manifest->span_pages && data == manifest->data_pages &&
	       absent == manifest->absent_pages;
}

static int open_root(struct image *image, struct err *err)
{
	const struct manifest_object *object = manifest_find(&image->manifest, "index");
	struct buf bytes = { 0 };
	char name[NAME_ROOM];
	int r;

	image_name_object(name, image_name(image), "index", &image->manifest.id);
	r = get_object(image, object, &bytes, err);
	if (!r)
		r = root_decode(&image->root, bytes.data, bytes.len, image->manifest.n_images, name,
				err);
	if (!r && image->seal)
		r = root_take_tags(&image->root, SEAL_TAG_BYTES, name, err);
	buf_fini(&bytes);
	if (!r && !root_fits(image))
		r = err_set(err, -EBADMSG,
			    "image %s: object %s, offset 0: damaged: it is of another "
			    "image",
			    image_name(image), name);
	return r;
}

/* ---- caches ---- */

static unsigned int slots_for(uint64_t bytes, uint64_t each)
{
	uint64_t n = bytes / each;

	return n < SLOTS_MIN ? SLOTS_MIN : n > SLOTS_MAX ? SLOTS_MAX : (unsigned int)n;
}

static int open_caches(struct image *image, const struct image_options *options, struct err *err)
{
	uint64_t leaf_bytes =
		options && options->leaf_cache_bytes ? options->leaf_cache_bytes : LEAF_CACHE_BYTES;
	uint64_t frame_bytes = options && options->frame_cache_bytes ? options->frame_cache_bytes :
								       FRAME_CACHE_BYTES;
	unsigned int leaves = slots_for(leaf_bytes, LEAF_MEMORY), frames;

	image->span_bytes = image->root.span_pages * PAGE_BYTES;
	frames = slots_for(frame_bytes, image->span_bytes);
	image->frames_bytes = frames * image->span_bytes;
	image->leaves = calloc(leaves, sizeof(struct leaf *));
	image->frames = page_buffer_new(image->frames_bytes);
	image->handed_out = calloc(frames, sizeof(*image->handed_out));
	image->leaf_cache = cache_new(leaves, &image_leaf_ops, image);
	image->frame_cache = cache_new(frames, &image_frame_ops, image);
	if (!image->leaves || !image->frames || !image->handed_out || !image->leaf_cache ||
	    !image->frame_cache)
		return err_set(err, -ENOMEM, "image %s: no memory", image_name(image));
	return 0;
}

int image_open(struct image **out, struct store *store, struct store_scope *scope, const char *name,
	       const struct image_options *options, struct err *err)
{
	struct image *image;
	int r = image_name_check(name, err);

	if (r)
		return r;
	image = calloc(1, sizeof(*image));
	if (!image)
		return err_set(err, -ENOMEM, "image %s: no memory", name);
	image->store = store;
	image->scope = scope;
	pthread_mutex_init(&image->lock, NULL);
	r = open_manifest(image, name, options, err);
	if (!r && options && options->known)
		options->known(options->known_arg, &image->manifest);
	if (!r)
		r = open_root(image, err);
	if (!r)
		r = open_caches(image, options, err);
	if (r) {
		image_free(image);
		return r;
	}
	*out = image;
	return 0;
}

static void clear_frame(void *arg, unsigned int slot)
{
	struct image *image = arg;

	page_buffer_clear(image->frames + slot * image->span_bytes, image->span_bytes);
}

void image_drop_caches(struct image *image)
{
	cache_empty(image->frame_cache, clear_frame);
	cache_empty(image->leaf_cache, NULL);
	image_free_scratch(image);
}

void image_free(struct image *image)
{
	if (!image)
		return;
	cache_free(image->frame_cache);
	cache_free(image->leaf_cache);
	page_buffer_free(image->frames, image->frames_bytes);
	free(image->handed_out);
	free(image->leaves);
	image_free_scratch(image);
	seal_free(image->seal);
	root_fini(&image->root);
	manifest_fini(&image->manifest);
	pthread_mutex_destroy(&image->lock);
	free(image);
}

/* ---- what is asked of it ---- */

const struct manifest *image_manifest(const struct image *image)
{
	return &image->manifest;
}

const char *image_name(const struct image *image)
{
	return image->manifest.images[0].name;
}

void image_stats(const struct image *image, struct image_stats *stats)
{
	*stats = (struct image_stats){
		.pages = count_get(&image->pages),
		.zero_pages = count_get(&image->zero_pages),
		.frames = count_get(&image->n_frames),
		.frame_hits = count_get(&image->frame_hits),
		.leaves = count_get(&image->n_leaves),
		.bytes = count_get(&image->bytes),
		.damaged = count_get(&image->damaged),
	};
}

void image_packs(const struct image *image, struct image_packs *packs)
{
	const struct root *root = &image->root;
	uint32_t i;

	*packs = (struct image_packs){ 0 };
	for (i = 0; i < root->n_packs; i++) {
		if (root->packs[i].image) {
			packs->others++;
			packs->others_bytes += root->packs[i].bytes;
		} else {
			packs->own++;
			packs->own_bytes += root->packs[i].bytes;
		}
	}
}

bool image_has_object(const struct image *image, const char *what, uint64_t *bytes)
{
	const struct manifest_object *object = manifest_find(&image->manifest, what);

	if (object && bytes)
		*bytes = object->bytes - (image->seal ? SEAL_TAG_BYTES : 0);
	return object != NULL;
}

int image_get_object(struct image *image, const char *what, struct buf *out, struct err *err)
{
	const struct manifest_object *object = manifest_find(&image->manifest, what);

	if (!object)
		return err_set(err, -ENOENT, "image %s has no object %.32s", image_name(image),
			       what);
	return get_object(image, object, out, err);
}
