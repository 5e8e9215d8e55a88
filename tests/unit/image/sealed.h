/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Two encrypted images, one on top of the other, for what is tested of them.
 */
#ifndef POSTERN_TESTS_UNIT_IMAGE_SEALED_H
#define POSTERN_TESTS_UNIT_IMAGE_SEALED_H

#include "image/key.h"
#include "model.h"
#include "toy_store.h"

#define SECRET_LINE "password=swordfish-and-more"

/* "base" and "web", and all that images can have. */
struct pair {
	struct toy_store *toy;
	struct model model;
	struct image_key *key, *other;
};

/* Each fails the test where it cannot do what it is for. */
struct image_key *key_of(uint8_t first);
void save_with(struct pair *pair, const char *name, const char *on, int level,
	       const struct image_key *key);
void pair_init(struct pair *pair);
void pair_fini(struct pair *pair);
int open_with(struct pair *pair, const char *name, const struct image_key *key,
	      struct image **image, struct err *err);
struct image *open_right(struct pair *pair, const char *name);
/* It is refused, and the text has `text`. */
void check_refused(struct pair *pair, const char *name, const struct image_key *key, int error,
		   const char *text);
struct toy_object *object_like(struct pair *pair, const char *part);
/* Each page of web is right, or an error: -EBADMSG. Returns how many are the latter. */
uint64_t count_damaged(struct pair *pair, struct image *image);
/* The text of a manifest with `to` in place of `from`, and a checksum that fits. */
void sealed_forge(struct toy_object *object, const char *from, const char *to);

#endif
