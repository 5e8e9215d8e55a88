/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Images of a model in a made-up store; a test fails where one cannot be saved or
 * opened.
 */
#ifndef POSTERN_TESTS_IMAGE_TOY_IMAGE_H
#define POSTERN_TESTS_IMAGE_TOY_IMAGE_H

#include "model.h"
#include "toy_store.h"

struct image *toy_image_open(struct toy_store *toy, const char *name);
/* parent and config may be NULL. No claim is left. */
void toy_image_save(struct model *model, struct toy_store *toy, const char *name,
		    struct image *parent, const struct image_writer_config *config);

#endif
