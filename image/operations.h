/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What is done with whole images: listed, verified, compacted, deleted, and
 * what nobody refers to collected. All of them wait for the store, say how far
 * they are, and end with -ECANCELED when the scope is cancelled. Any thread, and
 * beside savers, readers and each other.
 */
#ifndef POSTERN_IMAGE_OPERATIONS_H
#define POSTERN_IMAGE_OPERATIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "image/image.h"

#define IMAGE_THREADS_MAX 16u

/* ---- verify ---- */

struct image_verify_options {
	unsigned int threads;	/* 0: 1 */
	/* As of struct image_options. Without the key of an encrypted one: see image_verify */
	const struct image_key *key;
	bool allow_unencrypted;
	/* Each piece of damage, one at a time, on any of the threads. May be NULL. */
	void (*damage)(void *arg, const struct err *err);
	/* Pages so far, and all; now and then, one at a time. May be NULL. */
	void (*progress)(void *arg, uint64_t done, uint64_t pages);
	void *arg;
};

struct image_verify_result {
	uint64_t pages;		/* of data that were looked at, wrong ones too */
	uint64_t damaged_pages;	/* of them, wrong, or of no pack that is there */
	uint64_t damaged;	/* pieces of damage that were told: pages, frames, objects */
};

/*
 * Reads every page and object of an image, those in packs of others too. 0: all
 * are right; -EBADMSG: there is damage (the text says how much); image_open's
 * errors, and the store's that are none of the image's. -ENOKEY: there is no key;
 * of an encrypted image only its manifest and objects were then compared with
 * their checksums, and those were right.
 */
int image_verify(struct store *store, struct store_scope *scope, const char *name,
		 const struct image_verify_options *options, struct image_verify_result *result,
		 struct err *err);

/* ---- compact ---- */

struct image_compact_options {
	int level;		/* zstd's, as image_writer_config's */
	unsigned int threads;	/* 0: 1 */
	/*
	 * Of `from`, and `to` is encrypted with it, also when it is allowed that `from` is not.
	 * NULL: neither is.
	 */
	const struct image_key *key;
	bool allow_unencrypted;
	void (*progress)(void *arg, uint64_t done, uint64_t pages);
	void *arg;
};

/*
 * Writes image `to`, which holds what `from` does and needs no other image; of
 * each span one frame. `from` stays what it is, whatever happens; delete it
 * afterwards. -EEXIST, -EBUSY: as image_writer_new; -EBADMSG: `from` is damaged;
 * -ENOENT: it, or an object that it needs, is gone.
 */
int image_compact(struct store *store, struct store_scope *scope, const char *from, const char *to,
		  const struct image_compact_options *options, struct err *err);

/* ---- gc, delete, list ---- */

struct image_gc_options {
	/* Claims of other hosts' savers that are older are taken for dead ones'. 0: none is. */
	int64_t dead_after_s;
	bool dry_run;		/* removes nothing, and tells the same */
	/* Of encrypted images; those that have another, or all when it is NULL, are `locked`. */
	const struct image_key *key;
	/*
	 * An image whose index cannot be read for want of its key: of the packs of all images
	 * that its manifest names nothing goes. May be NULL.
	 */
	void (*locked)(void *arg, const char *image, const struct err *why);
	/* Each object that goes, one at a time, on any of several threads. May be NULL. */
	void (*removed)(void *arg, const char *object, uint64_t bytes);
	void *arg;
};

struct image_gc_result {
	uint64_t images;	/* that are whole */
	uint64_t locked; /* of them, encrypted with another key than the one given */
	uint64_t objects;	/* removed */
	uint64_t bytes;		/* of them, as far as the store said */
	uint64_t claims;	/* of dead savers, removed */
};

/*
 * Removes packs and other objects of images that no image of the store needs,
 * and claims of dead savers with what these have written. What is no object of
 * an image is left alone. Nothing is removed when an image cannot be read
 * (-EBADMSG, -EPROTO): what that one needs is not known. Of an encrypted one
 * whose key is not there it is known by name which images' packs it may need.
 */
int image_gc(struct store *store, struct store_scope *scope, const struct image_gc_options *options,
	     struct image_gc_result *result, struct err *err);

/*
 * Deletes an image: first its manifest, then those of its objects that no other
 * image needs. -ENOENT: no such image; -EBUSY: one is being saved on top of it.
 * After another error the image is gone, and gc removes the rest.
 */
int image_delete(struct store *store, struct store_scope *scope, const char *name, struct err *err);

/* Tells the name of each whole image, in order. */
int image_list(struct store *store, struct store_scope *scope,
	       void (*each)(void *arg, const char *name), void *arg, struct err *err);

#endif
