// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/* See inventory.h. */
#include "image/inventory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "image/internal.h"

/* On a thread of the store's. */
static void inventory_add(void *arg, const char *object, uint64_t bytes)
{
	struct inventory *inventory = arg;
	char *name;

	if (inventory->error)
		return;
	if (inventory->n == inventory->room) {
		size_t room = inventory->room ? 2 * inventory->room : 256;
		void *more =
			room > INVENTORY_OBJECTS_MAX ?
				NULL :
				realloc(inventory->objects, room * sizeof(*inventory->objects));

		if (!more) {
			inventory->error = room > INVENTORY_OBJECTS_MAX ? -EFBIG : -ENOMEM;
			return;
		}
		inventory->objects = more;
		inventory->room = room;
	}
	name = strdup(object);
	if (!name) {
		inventory->error = -ENOMEM;
		return;
	}
	inventory->objects[inventory->n++] = (struct inventory_object){ name, bytes, false };
}

static int object_by_name(const void *a, const void *b)
{
	const struct inventory_object *x = a, *y = b;

	return strcmp(x->name, y->name);
}

int inventory_take(struct inventory *inventory, struct store *store, struct store_scope *scope,
		   const char *prefix, struct err *err)
{
	int r;

	memset(inventory, 0, sizeof(*inventory));
	inventory->store = store;
	inventory->scope = scope;
	r = store_list(store, scope, prefix, 0, inventory_add, inventory, err);
	if (!r && inventory->error)
		r = err_set(err, inventory->error, "%s: %s", store_label(store),
			    inventory->error == -EFBIG ? "more objects than can be looked through" :
							 "no memory for a list of its objects");
	if (r) {
		inventory_fini(inventory);
		return r;
	}
	if (inventory->n)
		qsort(inventory->objects, inventory->n, sizeof(*inventory->objects),
		      object_by_name);
	return 0;
}

void inventory_fini(struct inventory *inventory)
{
	size_t i;

	for (i = 0; i < inventory->n; i++)
		free(inventory->objects[i].name);
	free(inventory->objects);
	inventory->objects = NULL;
	inventory->n = inventory->room = 0;
}

struct inventory_object *inventory_find(struct inventory *inventory, const char *name)
{
	struct inventory_object key = { .name = (char *)(uintptr_t)name };

	if (!inventory->n)
		return NULL;
	return bsearch(&key, inventory->objects, inventory->n, sizeof(key), object_by_name);
}

static void inventory_need(struct inventory *inventory, const char *name)
{
	struct inventory_object *object = inventory_find(inventory, name);

	if (object)
		object->needed = true;
}

void inventory_need_image(struct inventory *inventory, const struct image *image)
{
	const struct manifest *manifest = &image->manifest;
	char name[NAME_ROOM];
	uint32_t i;

	image_name_plain(name, image_name(image), "working-set");
	inventory_need(inventory, name);
	for (i = 0; i < manifest->n_objects; i++) {
		image_name_object(name, image_name(image), manifest->objects[i].what,
				  &manifest->id);
		inventory_need(inventory, name);
	}
	for (i = 0; i < image->root.n_packs; i++) {
		image_pack_name(image, i, name);
		inventory_need(inventory, name);
	}
}

static bool is_named(const struct manifest *manifest, const struct name_parts *parts)
{
	unsigned int i;

	for (i = 0; i < manifest->n_images; i++)
		if (!memcmp(&manifest->images[i].id, &parts->id, sizeof(parts->id)) &&
		    !strcmp(manifest->images[i].name, parts->image))
			return true;
	return false;
}

void inventory_need_named(struct inventory *inventory, const struct manifest *manifest)
{
	size_t i;

	for (i = 0; i < inventory->n; i++) {
		struct name_parts parts;

		image_name_parse(&parts, inventory->objects[i].name);
		if (parts.kind == NAME_WORKING_SET ?
			    !strcmp(parts.image, manifest->images[0].name) :
			    is_named(manifest, &parts))
			inventory->objects[i].needed = true;
	}
}

void inventory_need_claim(struct inventory *inventory, const char *image, const struct claim *claim)
{
	size_t i;

	for (i = 0; i < inventory->n; i++) {
		struct name_parts parts;

		image_name_parse(&parts, inventory->objects[i].name);
		if (strcmp(parts.image, image))
			continue;
		if (parts.kind == NAME_WORKING_SET ||
		    !memcmp(&parts.id, &claim->id, sizeof(claim->id)))
			inventory->objects[i].needed = true;
	}
}
