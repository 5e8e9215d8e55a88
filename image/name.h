/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What an image's objects are called. An image called "team/db" with the id
 * ID (32 hexadecimal digits) has
 *
 *     team/db/manifest.json	the last that is written
 *     team/db/saving		a saver's claim, while it writes
 *     team/db/working-set	replaced as a whole now and then
 *     team/db/WHAT.ID		"index", "state", "boot-kernel" ..., and packs: "pack-0" ...
 *
 * Since packs and the like have the id in their names, an image that is saved
 * again under a name that had another before meets nothing of that one, and an
 * image on top of that other one keeps its packs. Pure; any thread.
 */
#ifndef POSTERN_IMAGE_NAME_H
#define POSTERN_IMAGE_NAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "image/manifest.h"

/* Room for any object's name. */
#define NAME_ROOM 256
/* Of an object: [a-z0-9-], with the 0. */
#define WHAT_ROOM 32

/* May an image be called so? -EINVAL. */
int image_name_check(const char *name, struct err *err);
bool image_what_is_valid(const char *what);

void image_name_plain(char out[NAME_ROOM], const char *image, const char *base);
void image_name_object(char out[NAME_ROOM], const char *image, const char *what,
		       const struct image_id *id);
void image_name_pack(char out[NAME_ROOM], const char *image, uint32_t number,
		     const struct image_id *id);

enum name_kind {
	NAME_FOREIGN,	/* none of ours */
	NAME_MANIFEST,
	NAME_CLAIM,
	NAME_WORKING_SET,
	NAME_OBJECT,
	NAME_PACK,
};

struct name_parts {
	enum name_kind kind;
	char image[IMAGE_NAME_MAX];
	char what[WHAT_ROOM];		/* NAME_OBJECT */
	struct image_id id;		/* NAME_OBJECT, NAME_PACK */
	uint32_t number;		/* NAME_PACK */
};

/* The other way round. */
void image_name_parse(struct name_parts *parts, const char *object);

#endif
