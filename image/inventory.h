/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What is in a store, and what of it is needed: for gc and delete. One thread.
 */
#ifndef POSTERN_IMAGE_INVENTORY_H
#define POSTERN_IMAGE_INVENTORY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "image/claim.h"
#include "image/manifest.h"
#include "image/name.h"
#include "store/store.h"

#define INVENTORY_OBJECTS_MAX (16u << 20)

struct inventory_object {
	char *name;
	uint64_t bytes;
	bool needed;
};

struct inventory {
	struct store *store;
	struct store_scope *scope;
	struct inventory_object *objects;	/* in the order of names */
	size_t n, room;
	int error;			/* of a listing that is under way */
};

/* Zeroes it and lists what begins with the prefix. The store's errors, -ENOMEM, -EFBIG. */
int inventory_take(struct inventory *inventory, struct store *store, struct store_scope *scope,
		   const char *prefix, struct err *err);
void inventory_fini(struct inventory *inventory);
/* NULL: it was not listed. */
struct inventory_object *inventory_find(struct inventory *inventory, const char *name);
/* Marks as needed what an open image refers to. */
struct image;
void inventory_need_image(struct inventory *inventory, const struct image *image);
/* The same of one whose index cannot be read: all that has an id which the manifest names. */
void inventory_need_named(struct inventory *inventory, const struct manifest *manifest);
/* Marks as needed what a claim's saver writes. */
void inventory_need_claim(struct inventory *inventory, const char *name, const struct claim *claim);

#endif
