/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Removes many objects, several at a time, within a time of its own: what a
 * writer that has failed leaves behind it. What could not be removed in time is
 * left to gc.
 */
#ifndef POSTERN_IMAGE_PURGE_H
#define POSTERN_IMAGE_PURGE_H

#include <stdbool.h>
#include <stdint.h>

#include "store/store.h"

struct purge;

/* NULL: no memory. All of it is to take no longer than about time_ns. */
struct purge *purge_new(struct store *store, int64_t time_ns);
/* Waits while too many are under way. NULL is allowed: does nothing. */
void purge_add(struct purge *purge, const char *object);
/* Waits for all so far; true: all are gone. */
bool purge_wait(struct purge *purge);
void purge_free(struct purge *purge);

#endif
