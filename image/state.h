/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What the object "state" of an image holds (docs/image.md, The state): the
 * machine's state as machine_save has it, and the early pages, which are in
 * memory before it is loaded. Pure.
 */
#ifndef POSTERN_IMAGE_STATE_H
#define POSTERN_IMAGE_STATE_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/types.h"

#define IMAGE_STATE_VERSION 1
#define IMAGE_STATE_MACHINE_MAX (8u << 20)
#define IMAGE_STATE_PAGES_MAX 4096u

struct image_state {
	/* all three point into what was decoded, or are the encoder's caller's */
	const void *machine;
	size_t machine_bytes;		/* 1 to IMAGE_STATE_MACHINE_MAX */
	unsigned int n_pages;		/* at most IMAGE_STATE_PAGES_MAX */
	const uint8_t *pages;		/* decoded: records; use image_state_page */
};

/* Encoding: begin, then each early page once, in ascending order. -EINVAL, -ENOMEM. */
int image_state_begin(struct buf *out, const void *machine, size_t machine_bytes, struct err *err);
int image_state_add_page(struct buf *out, gfn_t gfn, const void *page, struct err *err);

/* -EPROTO: another version; -EBADMSG: it is not what it claims to be. `where` names it in texts. */
int image_state_decode(struct image_state *state, const void *data, size_t len, const char *where,
		       struct err *err);
/* The i-th early page's number and its PAGE_BYTES, at any address. */
gfn_t image_state_page(const struct image_state *state, unsigned int i, const uint8_t **page);

#endif
