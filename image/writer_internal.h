/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * An image that is being written, for the files that do it: writer.c (its life
 * and its end), writer_pages.c (what it is told of pages), writer_index.c (the
 * index that comes of it), writer_fold.c (long
 * chains), writer_same.c (what has not changed after all).
 */
#ifndef POSTERN_IMAGE_WRITER_INTERNAL_H
#define POSTERN_IMAGE_WRITER_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "image/codec.h"
#include "image/leaf_builder.h"
#include "image/packer.h"
#include "image/writer.h"

/*
 * A pack's number until the root is written: the writer's own, or with this bit of another
 * image.
 */
#define PACK_FOREIGN 0x80000000u

struct writer_encoder {
	struct writer_encoder *next;
	struct codec_encoder *codec;
	uint8_t gathered[];	/* a span's bytes: pages that were not next to each other */
};

struct writer_leaf {
	uint32_t number;
	bool sealed;			/* it is in the root, or all zeros */
	struct leaf_builder *builder;	/* NULL: nothing is known of it, or it is sealed */
};

struct image_writer {
	struct store *store;
	struct store_scope *scope;
	char name[IMAGE_NAME_MAX];
	struct image *parent;
	enum image_rest rest;
	int level;
	struct manifest manifest;	/* of the image to be */
	struct seal *seal; /* NULL: it is not encrypted */
	struct packer *packer;
	bool claimed, finished;
	atomic_bool hurry;
	_Atomic int64_t hurry_left; /* bytes that may still be written as they are */
	/* nobody knows whether the manifest was written: nothing is removed */
	bool may_be_whole;

	pthread_mutex_t lock;		/* guards the rest */
	struct writer_leaf *leaves;	/* of all ranges, ascending */
	uint32_t n_leaves;
	struct writer_encoder *encoders;
	/* leaves and refs so far, packs of others; refs as PACK_FOREIGN says */
	struct root root;
	uint32_t leaves_room, refs_room, packs_room;
	/* of the parent's packs: number in root.packs, + 1; 0: none yet */
	uint32_t *pack_map;
	/* of the parent's images: number in manifest.images; 0: none yet */
	uint32_t *image_map;
	struct image_writer_stats stats;
	struct err error;		/* code 0: none so far */
};

/* Notes an error that stays; returns its code. Takes the lock. */
int writer_fail(struct image_writer *writer, const struct err *why);
/* The error that stays, or 0. Takes the lock. */
int writer_error(struct image_writer *writer, struct err *err);

/* ---- writer_pages.c ---- */

/* Makes the table of leaves. 0 or -ENOMEM. */
int writer_new_leaves(struct image_writer *writer);
void writer_free_leaves(struct image_writer *writer);
/* What nobody has named gets config's `rest`, and all leaves are sealed. */
int writer_finish_leaves(struct image_writer *writer, struct err *err);

/* ---- writer_index.c ---- */

/*
 * Puts a leaf whose pages are all named into a pack and into the root; frees builder. No lock
 * is held.
 */
int writer_seal(struct image_writer *writer, struct leaf_builder *builder, struct err *err);
/* The leaf is the parent's in all of its pages. */
int writer_keep_leaf(struct image_writer *writer, uint32_t number, struct err *err);
/* The root as it is to be written; all packs are known. Fills in the manifest's counts. */
int writer_encode_root(struct image_writer *writer, struct buf *out, struct err *err);

/* ---- writer_fold.c ---- */

/*
 * Writes what a leaf keeps of the parent's in too many pieces as one, before it is sealed. The
 * builder is nobody else's. 0, -ENOMEM, or a pack that could not be written.
 */
int writer_fold(struct image_writer *writer, struct leaf_builder *builder,
		const struct leaf *parent, const struct root_leaf *entry, struct err *err);

/* ---- writer_same.c ---- */

/*
 * Of a span's pages, those that the parent has, byte for byte. There is a parent. What cannot be
 * read of it is not among them.
 */
uint32_t writer_same(struct image_writer *writer, gfn_t first, uint32_t mask, const uint8_t *data);

#endif
