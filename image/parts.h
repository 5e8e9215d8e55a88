/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Frames of one leaf after the other, for whoever goes through all of an image: those that lie
 * close to each other in a pack are read by one request. For one thread.
 */
#ifndef POSTERN_IMAGE_PARTS_H
#define POSTERN_IMAGE_PARTS_H

#include "image/internal.h"

struct parts;

/* NULL: no memory. */
struct parts *parts_new(struct image *image);
void parts_free(struct parts *parts);
/* What was read is of another leaf from now on. */
void parts_begin(struct parts *parts);
/*
 * Decodes want's piece to out, leaf_piece_bytes of it; sums are not looked at. Of its leaf's spans
 * number `span` is the piece's; those before `end` will be wanted as well. 0, or image_read's
 * errors, of this piece alone.
 */
int parts_decode(struct parts *parts, const struct image_want *want, uint32_t span, uint32_t end,
		 void *out, struct err *err);

#endif
