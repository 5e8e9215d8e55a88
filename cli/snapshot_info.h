/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What an image is, as JSON and as text. All of an image's texts come from
 * outside: none reaches a terminal with its control characters.
 */
#ifndef POSTERN_CLI_SNAPSHOT_INFO_H
#define POSTERN_CLI_SNAPSHOT_INFO_H

#include <jansson.h>
#include <stdio.h>

#include "image/image.h"

/*
 * All that `info` says. key: of an encrypted image. Waits for the store, for the working set.
 * NULL: no memory.
 */
struct image_key;
json_t *snapshot_info_json(struct image *image, struct store *store, struct store_scope *scope,
			   const struct image_key *key);
/*
 * Of an encrypted one whose key is not here: what its manifest says in the clear, and what the
 * store lists of it. listed: false where it lists nothing. NULL: no memory.
 */
struct snapshot_listed {
	bool listed;
	uint64_t objects, bytes;
};

json_t *snapshot_locked_json(const char *name, const struct manifest *manifest,
			     const struct snapshot_listed *listed);
/* The same for people. */
void snapshot_info_put(FILE *out, const json_t *info);

/* A line of `list`: of a manifest, or of why there is none. NULL: no memory. */
json_t *snapshot_entry_json(const char *name, const struct manifest *manifest,
			    const struct err *err);
void snapshot_entries_put(FILE *out, const json_t *entries);

#endif
