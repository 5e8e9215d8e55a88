/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Where an image is, as people write it: a store's URL (store/store.h) with the image's name behind
 * it, before its parameters if it has any:
 *
 *     /var/lib/images/web1          dir:images/web1          https://host/images/web1
 *     s3://bucket/prefix/web1?region=eu-1
 *
 * Pure.
 */
#ifndef POSTERN_SNAPSHOT_PLACE_H
#define POSTERN_SNAPSHOT_PLACE_H

#include <stdbool.h>

#include "base/err.h"
#include "image/manifest.h"
#include "store/url.h"

struct snapshot_place {
	char store[STORE_URL_MAX];
	char name[IMAGE_NAME_MAX];
	bool far;		/* not a folder of this host */
};

/* -EINVAL: there is no name, or one that cannot be. What the store is, store_open looks at. */
int snapshot_place_parse(struct snapshot_place *place, const char *text, struct err *err);

#endif
