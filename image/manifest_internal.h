/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What the files of manifests share: manifest.c reads one, manifest_format.c
 * writes one, and manifest_sealed.c has what an encrypted image's has beyond.
 */
#ifndef POSTERN_IMAGE_MANIFEST_INTERNAL_H
#define POSTERN_IMAGE_MANIFEST_INTERNAL_H

#include "image/json.h"
#include "image/manifest.h"

/* value: the object, or NULL: there are none. */
void manifest_read_options(struct json_reading *reading, const json_t *value,
			   struct manifest_machine *machine);
/* text: all of it, up to the checksum's comma at `len`. */
void manifest_read_sealed(struct json_reading *reading, const json_t *top,
			  struct manifest *manifest, const char *text, size_t len);

/* Adds its members to `top`. 0 or -1: no memory, or options that are no object. */
int manifest_format_sealed(const struct manifest *manifest, struct seal *seal, json_t *top);
/* Of what stands in out from start on. 0 or -ENOMEM. */
int manifest_add_signature(struct buf *out, size_t start, const struct seal *seal);

#endif
