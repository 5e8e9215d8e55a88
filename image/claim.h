/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A saver's claim to an image's name: the object NAME/saving, which is there
 * from the first byte written until the manifest stands. It says who saves and
 * on top of what, so that others keep away, gc keeps what it needs, and a dead
 * one's can be told. Calls wait for the store.
 */
#ifndef POSTERN_IMAGE_CLAIM_H
#define POSTERN_IMAGE_CLAIM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "image/manifest.h"
#include "store/store.h"

#define CLAIM_BYTES_MAX 4096

struct claim {
	struct image_id id;		/* of the image to be */
	char node[64];			/* the host's name, for people */
	/*
	 * Whose process it is: numbers of that boot of that host and of that namespace, without
	 * which pid says nothing.
	 */
	char boot[64];
	char namespace[64];
	int64_t pid;
	uint64_t start;			/* of the process, in ticks since boot */
	int64_t time_s;			/* when it was made, since 1970 */
	bool has_parent;
	struct manifest_image parent;
};

/*
 * Makes a claim for this process, and removes one of a process of this host that
 * has died. -EBUSY: somebody else has one (the text says who, since when, and
 * what to do); the store's errors. parent may be NULL.
 */
int claim_take(struct store *store, struct store_scope *scope, const char *image,
	       const struct image_id *id, const struct manifest_image *parent, struct err *err);
/* -ENOENT: there is none; -EBADMSG: it cannot be read. */
int claim_read(struct store *store, struct store_scope *scope, const char *image,
	       struct claim *claim, struct err *err);
/*
 * Is it (still) this image's? Else -ESTALE: gc took it for a dead saver's; or the store's
 * errors.
 */
int claim_check(struct store *store, struct store_scope *scope, const char *image,
		const struct image_id *id, struct err *err);
/* Removes it if it is this image's. */
int claim_drop(struct store *store, struct store_scope *scope, const char *image,
	       const struct image_id *id, struct err *err);
/*
 * Has its saver died? For certain of a process of this host; of others when it
 * is older than dead_after_s (0: never said).
 */
bool claim_is_dead(const struct claim *claim, int64_t now_s, int64_t dead_after_s);

/* Pure. -EBADMSG. */
int claim_parse(struct claim *claim, const void *json, size_t len, const char *where,
		struct err *err);

#endif
