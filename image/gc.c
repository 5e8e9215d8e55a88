// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * What nobody needs goes (operations.h). In this order, so that it is safe beside
 * savers and whoever deletes, without any lock between them:
 *
 *   1. all objects are listed: only what is there now may go
 *   2. all claims are read: what a live saver writes stays; a dead one's claim goes
 *   3. all manifests are read: what an image refers to stays
 *
 * A saver whose objects were seen in 1 has its claim until its manifest stands,
 * so either 2 or 3 meets it. A saver that claims later writes objects of other
 * names, and refers to those of its parent, an image that 3 has met, or that was
 * deleted: then the saver notices in the end, and its image does not come to be
 * (writer.c). An image whose root cannot be read may need anything: then nothing
 * goes. But for one that is encrypted with a key that is not here: whose packs it
 * may need its manifest says, and of those all stay.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "image/gc_internal.h"
#include "image/internal.h"

/* Calls each for all objects of that kind that are there now. Its errors end it. */
static int for_each(struct gc *gc, enum name_kind kind,
		    int (*each)(struct gc *gc, const char *image, struct err *err), struct err *err)
{
	struct inventory now;
	size_t i;
	int r = inventory_take(&now, gc->store, gc->scope, "", err);

	if (r)
		return r;
	for (i = 0; !r && i < now.n; i++) {
		struct name_parts parts;

		image_name_parse(&parts, now.objects[i].name);
		if (parts.kind == kind)
			r = each(gc, parts.image, err);
	}
	inventory_fini(&now);
	return r;
}

/* ---- claims ---- */

/* Of that image, whatever they are: a claim that cannot be read is somebody's. */
static void need_all_of(struct gc *gc, const char *image)
{
	size_t i;

	for (i = 0; i < gc->inventory.n; i++) {
		struct name_parts parts;

		image_name_parse(&parts, gc->inventory.objects[i].name);
		if (!strcmp(parts.image, image))
			gc->inventory.objects[i].needed = true;
	}
}

static int see_claim(struct gc *gc, const char *image, struct err *err)
{
	char object[NAME_ROOM];
	struct claim claim;
	int r = claim_read(gc->store, gc->scope, image, &claim, err);

	if (r == -ENOENT)
		return 0;
	if (r == -EBADMSG || r == -EPROTO) {
		need_all_of(gc, image);
		return 0;
	}
	if (r)
		return r;
	if (!claim_is_dead(&claim, time(NULL), gc->options->dead_after_s)) {
		inventory_need_claim(&gc->inventory, image, &claim);
		return 0;
	}
	if (gc->only)
		return 0;
	image_name_plain(object, image, "saving");
	if (!gc->options->dry_run)
		r = claim_drop(gc->store, gc->scope, image, &claim.id, err);
	if (r)
		return r;
	gc->result->claims++;
	if (gc->options->removed)
		gc->options->removed(gc->options->arg, object, 0);
	return 0;
}

/* ---- images ---- */

/* Does it name packs of that image? */
static bool names_image(const struct manifest *manifest, const char *image)
{
	unsigned int i;

	for (i = 0; i < manifest->n_images; i++)
		if (!strcmp(manifest->images[i].name, image))
			return true;
	return false;
}

/* Its key is not here: what it needs is known by the names in its manifest alone. */
static int see_locked(struct gc *gc, const char *name, const struct err *why, struct err *err)
{
	struct manifest manifest;
	int r = image_manifest_read(gc->store, gc->scope, name, &manifest, NULL, err);

	if (r)
		return r;
	inventory_need_named(&gc->inventory, &manifest);
	manifest_fini(&manifest);
	gc->result->locked++;
	if (gc->options->locked)
		gc->options->locked(gc->options->arg, name, why);
	return 0;
}

static int see_whole(struct gc *gc, const char *name, struct err *err)
{
	const struct image_options options = { .key = gc->options->key, .allow_unencrypted = true };
	struct image *image;
	struct err why;
	int r = image_open(&image, gc->store, gc->scope, name, &options, &why);

	if (!r) {
		inventory_need_image(&gc->inventory, image);
		image_free(image);
		return 0;
	}
	if (r == -ENOKEY || r == -EKEYREJECTED)
		return see_locked(gc, name, &why, err);
	if (err)
		*err = why;
	return r;
}

static int see_image(struct gc *gc, const char *name, struct err *err)
{
	struct manifest manifest;
	bool matters = true;
	int r = 0;

	if (gc->only) {
		r = image_manifest_read(gc->store, gc->scope, name, &manifest, NULL, err);
		matters = !r && names_image(&manifest, gc->only);
		if (!r)
			manifest_fini(&manifest);
	}
	if (!r && matters)
		r = see_whole(gc, name, err);
	if (!r)
		gc->result->images++;
	/* Deleted a moment ago; or its index is gone, and then what it needs is not known. */
	if (r == -ENOENT && image_manifest_id_check(gc->store, gc->scope, name,
						    &(struct image_id){ 0 }, NULL) == -ENOENT)
		return 0;
	return r ? err_prefix(err, r,
			      "nothing was removed, since not all images can be read: delete "
			      "this one or bring back what it lacks") :
		   0;
}

static int gc_run(struct gc *gc, struct err *err)
{
	char prefix[NAME_ROOM] = "";
	int r;

	if (gc->only)
		image_name_plain(prefix, gc->only, "");
	r = inventory_take(&gc->inventory, gc->store, gc->scope, prefix, err);
	if (r)
		return r;
	r = for_each(gc, NAME_CLAIM, see_claim, err);
	if (!r)
		r = for_each(gc, NAME_MANIFEST, see_image, err);
	if (!r)
		r = gc_sweep(gc, err);
	inventory_fini(&gc->inventory);
	return r;
}

int image_gc(struct store *store, struct store_scope *scope, const struct image_gc_options *options,
	     struct image_gc_result *result, struct err *err)
{
	static const struct image_gc_options none;
	struct gc gc = { .store = store,
			 .scope = scope,
			 .options = options ? options : &none,
			 .result = result };

	memset(result, 0, sizeof(*result));
	return gc_run(&gc, err);
}

/* ---- delete ---- */

static int refuse_parent(struct gc *gc, const char *image, struct err *err)
{
	struct claim claim;
	int r = claim_read(gc->store, gc->scope, image, &claim, err);

	if (r == -ENOENT)
		return 0;
	if (r == -EBADMSG || r == -EPROTO)
		return err_prefix(err, -EBUSY, "image %s is claimed by a saver", image);
	if (r)
		return r;
	if (!claim.has_parent || strcmp(claim.parent.name, gc->only) || claim_is_dead(&claim, 0, 0))
		return 0;
	return err_set(err, -EBUSY,
		       "image %s is being saved on top of %s: delete it when that is "
		       "done; if its saver is dead, gc with an age for claims removes the claim",
		       image, gc->only);
}

int image_delete(struct store *store, struct store_scope *scope, const char *name, struct err *err)
{
	static const struct image_gc_options none;
	struct image_gc_result result = { 0 };
	struct gc gc = { .store = store,
			 .scope = scope,
			 .options = &none,
			 .result = &result,
			 .only = name };
	char object[NAME_ROOM];
	uint8_t byte;
	int64_t n;
	int r = image_name_check(name, err);

	if (r)
		return r;
	image_name_plain(object, name, "manifest.json");
	n = store_get(store, scope, object, 0, &byte, 1, STORE_UP_TO, err);
	if (n < 0)
		return n == -ENOENT ? err_prefix(err, -ENOENT,
						 "no image %s here, or one that was "
						 "never finished",
						 name) :
				      (int)n;
	r = for_each(&gc, NAME_CLAIM, refuse_parent, err);
	if (!r)
		r = store_delete(store, scope, object, err);
	if (r)
		return r;
	r = gc_run(&gc, err);
	return r ? err_prefix(err, r,
			      "image %s is deleted, but not all of its objects are removed: "
			      "gc does",
			      name) :
		   0;
}

/* ---- list ---- */

int image_list(struct store *store, struct store_scope *scope,
	       void (*each)(void *arg, const char *name), void *arg, struct err *err)
{
	struct inventory now;
	size_t i;
	int r = inventory_take(&now, store, scope, "", err);

	if (r)
		return r;
	for (i = 0; i < now.n; i++) {
		struct name_parts parts;

		image_name_parse(&parts, now.objects[i].name);
		if (parts.kind == NAME_MANIFEST)
			each(arg, parts.image);
	}
	inventory_fini(&now);
	return 0;
}
