/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Writes an image into a store (docs/image.md). Spans may come in any order and
 * from several threads; frames are compressed on the thread that brings them,
 * gathered in packs, and packs are written while more come. The manifest comes
 * last: an image is there whole or not at all, whenever the writer dies.
 *
 * Memory: at most three packs (IMAGE_PACK_MAX each, less for a small guest), a
 * compressor a thread that brings spans, and 0.3 % of the pages whose leaf of
 * the index (64 MiB of the guest) is not complete yet.
 *
 * Threads: any for all but finish, abort and free, which come last and alone.
 * Calls may wait for the store; they end with -ECANCELED when the scope is
 * cancelled. Once a call has failed with anything else than -EINVAL every
 * further one, finish too, fails with the same error.
 */
#ifndef POSTERN_IMAGE_WRITER_H
#define POSTERN_IMAGE_WRITER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/types.h"
#include "image/image.h"
#include "image/manifest.h"
#include "store/store.h"

#define IMAGE_SPAN_PAGES 16		/* a writer's spans; a bit of a mask each */
#define IMAGE_PACK_MAX (UINT64_C(64) << 20)

/* What pages are that nobody named by the time of image_writer_finish. */
enum image_rest {
	IMAGE_REST_REFUSED,	/* finish fails with -EINVAL, and names the first */
	IMAGE_REST_ZERO,
	IMAGE_REST_KEPT,	/* as in the parent: an incremental image names what has changed */
	IMAGE_REST_ABSENT,
};

struct image_writer_config {
	struct manifest_machine machine;	/* copied, options too */
	/*
	 * Open, in the same store; outlives the writer; NULL: none. It is encrypted with
	 * this key, too, or neither is.
	 */
	struct image *parent;
	const struct image_key *key; /* until image_writer_new returns; NULL: not encrypted */
	enum image_rest rest;
	int level;		/* zstd's, 1 to 19; 0: the default (1); negative: none, all raw */
	size_t pack_bytes;	/* of a full pack; 0: by the guest's size */
	/* NULL: a random one. For tests: with a key no two images may ever have the same */
	const struct image_id *id;
	int64_t time_s;		/* since 1970, when the machine was as it is saved; 0: now */
};

struct image_writer_stats {
	uint64_t data_pages;	/* brought and not zero */
	uint64_t zero_pages;
	uint64_t kept_pages;	/* known once they are: before finish those named one by one */
	uint64_t absent_pages;
	uint64_t hurried_pages; /* of data_pages: not compressed, see image_writer_hurry */
	uint64_t stored_bytes;	/* of frames, so far */
	uint64_t written_bytes;	/* packs that the store has confirmed */
	unsigned int packs;
};

struct image_writer;

/*
 * Claims the name. -EEXIST: there is such an image; -EBUSY: another saver has
 * claimed it (the text says who and since when, and how to remove a dead one's
 * claim; that of a process of this host that has died is removed at once);
 * -EINVAL: config; -EKEYREJECTED: its parent has another key, or just one of the
 * two has any; -ENOSYS: the library for encryption is missing; -ENOMEM; the
 * store's errors.
 */
int image_writer_new(struct image_writer **out, struct store *store, struct store_scope *scope,
		     const char *name, const struct image_writer_config *config, struct err *err);

/*
 * Pages of the span that begins at `first` (a multiple of IMAGE_SPAN_PAGES)
 * whose bits are in the mask; page first + i is at data + i * PAGE_BYTES. Zero
 * pages are found here, and those that are in the parent byte for byte: they are
 * kept. Each page once: -EINVAL when it was named before, or is of no memory range.
 * data: at a boundary of 64 bytes; it does not change before the return.
 */
int image_writer_span(struct image_writer *writer, gfn_t first, uint32_t mask, const void *data,
		      struct err *err);
/*
 * Somebody waits for spans to be taken. While that is so, they are written as they are where it is
 * compression that takes the time: a pack can begin at once, so the store is not behind. At most a
 * quarter of the memory, which bounds how much larger the image gets; image_compact compresses it.
 * Any thread, never sleeps.
 */
void image_writer_hurry(struct image_writer *writer, bool hurry);
/*
 * The same for n pages without data, from any page on. keep: as in the parent, whatever they
 * are there.
 */
int image_writer_zero(struct image_writer *writer, gfn_t first, uint64_t n, struct err *err);
int image_writer_keep(struct image_writer *writer, gfn_t first, uint64_t n, struct err *err);
/* Not here, and no place to name: who restores is told -ENODATA, never zeros. */
int image_writer_absent(struct image_writer *writer, gfn_t first, uint64_t n, struct err *err);

/* An object, IMAGE_STATE and the like: [a-z0-9-], at most 31, each once. Written on return. */
int image_writer_object(struct image_writer *writer, const char *what, const void *data, size_t len,
			struct err *err);

void image_writer_stats(struct image_writer *writer, struct image_writer_stats *stats);
/* The image's id, known from the start. */
const struct image_id *image_writer_id(const struct image_writer *writer);

/*
 * Writes what is left, the index and the manifest. 0: the image is there, for
 * ever and whole. Then, or after a failure, image_writer_free; which after a
 * failure, or without a finish, also removes what had been written and the
 * claim, as far as the store lets it (gc removes the rest).
 */
int image_writer_finish(struct image_writer *writer, struct err *err);
void image_writer_free(struct image_writer *writer);

#endif
