/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A writer's packs: what is added is gathered until a pack is full, and written
 * by threads of the packer's while the next one fills. Whoever adds waits only
 * when all of PACKER_BUFFERS are being written.
 *
 * Threads: any may add; the rest alone. Errors stay: after one, all calls fail
 * with it.
 */
#ifndef POSTERN_IMAGE_PACKER_H
#define POSTERN_IMAGE_PACKER_H

#include <stdbool.h>

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "image/manifest.h"
#include "image/seal.h"
#include "image/sum.h"
#include "store/store.h"

#define PACKER_BUFFERS 3
#define PACKER_THREADS 2

struct packer;

struct packer_pack {
	uint64_t bytes;
	uint8_t sum[SUM_BYTES];
};

struct packer_place {
	uint32_t pack;		/* its number */
	uint32_t offset;
};

struct packer_config {
	struct store *store;
	struct store_scope *scope;
	const char *name; /* of the image; borrowed */
	struct image_id id;
	size_t pack_bytes; /* of a full one */
	struct seal *seal; /* what is added is sealed with it; NULL: it is not. Borrowed */
};
int packer_new(struct packer **out, const struct packer_config *config, struct err *err);
/*
 * Adds len bytes, at most a pack's (with the tag, where it is sealed: on the calling thread),
 * and says where. -ENOMEM, or the store's errors for a pack before.
 */
int packer_add(struct packer *packer, enum seal_kind kind, const void *data, size_t len,
	       struct packer_place *place, struct err *err);
/* Writes the last pack, and waits for all. Then packer_packs has all of them. */
int packer_finish(struct packer *packer, struct err *err);
/*
 * How many there are, those that are not written yet too; *packs (may be NULL): valid after
 * packer_finish.
 */
uint32_t packer_packs(struct packer *packer, const struct packer_pack **packs);
/* Of packs that the store has confirmed; and of all that was added. */
void packer_progress(struct packer *packer, uint64_t *written, uint64_t *added);
/* Would a full pack be followed by another at once? Else the store is behind. Any thread. */
bool packer_has_room(struct packer *packer);
/* Ends the threads: what is not written is given up, and nothing is written any more. */
void packer_stop(struct packer *packer);
/* Stops as well. NULL is allowed. */
void packer_free(struct packer *packer);

#endif
