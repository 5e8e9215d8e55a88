/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What gc.c, which finds out what is needed, and gc_sweep.c, which removes the rest, share.
 */
#ifndef POSTERN_IMAGE_GC_INTERNAL_H
#define POSTERN_IMAGE_GC_INTERNAL_H

#include "image/inventory.h"
#include "image/operations.h"

struct gc {
	struct store *store;
	struct store_scope *scope;
	const struct image_gc_options *options;
	struct image_gc_result *result;
	const char *only; /* NULL, or the one image whose objects may go */
	struct inventory inventory; /* of step 1 */
};

/* Removes what may go, several objects at a time. 0, or the first error. */
int gc_sweep(struct gc *gc, struct err *err);

#endif
