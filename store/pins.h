/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Which version of each object was first seen at a web server: its ETag, or else when it was
 * changed last, and its length. Objects are never changed; where one is all the same, a reader must
 * not put parts of two versions together. Bounded: of very many objects those seen longest ago are
 * forgotten, and pinned anew. Any thread.
 */
#ifndef POSTERN_STORE_PINS_H
#define POSTERN_STORE_PINS_H

#include <stdbool.h>

#include "base/err.h"
#include "store/web_answer.h"

struct pins;

/* NULL: no memory. */
struct pins *pins_new(void);
void pins_free(struct pins *pins);

/*
 * An answer with bytes of the object. 0: it is of the version pinned, or is
 * pinned now. -ESTALE with err set: of another. `whole`: it has the object from
 * its first byte to its last, so that it is nobody's other half: it is pinned
 * instead. -ENOMEM.
 */
int pins_check(struct pins *pins, const char *object, const struct web_answer *answer, bool whole,
	       struct err *err);
/* What If-Match can name of the version pinned, a strong ETag; false: there is none. */
bool pins_etag(struct pins *pins, const char *object, char etag[WEB_TAG_MAX]);
/* The object was written or removed. */
void pins_forget(struct pins *pins, const char *object);

#endif
