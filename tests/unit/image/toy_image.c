// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "toy_image.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

struct image *toy_image_open(struct toy_store *toy, const char *name)
{
	struct image *image;
	struct err err;

	if (image_open(&image, toy_store(toy), NULL, name, NULL, &err))
		fail_msg("%s", err.text);
	return image;
}

void toy_image_save(struct model *model, struct toy_store *toy, const char *name,
		    struct image *parent, const struct image_writer_config *config)
{
	struct err err;

	if (model_save(model, toy_store(toy), name, parent, config, &err))
		fail_msg("%s", err.text);
	assert_null(toy_store_like(toy, "/saving"));
}
