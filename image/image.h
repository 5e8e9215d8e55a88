/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A machine's image in a store, read: what docs/image.md describes. Opening
 * one reads its manifest and the index's root, nothing of a page; the rest is
 * read when it is asked for, and kept in bounded caches. Every page is checked
 * against its checksum before it is handed out.
 *
 * Threads: after image_open any number may call all but image_free. Calls wait
 * for the store, and end with -ECANCELED when the scope is cancelled. The store
 * and the scope outlive the image.
 */
#ifndef POSTERN_IMAGE_IMAGE_H
#define POSTERN_IMAGE_IMAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/types.h"
#include "image/manifest.h"
#include "store/store.h"

struct image;

struct image_key; /* image/key.h */

struct image_options {
	/* Bounds of what an open image keeps in memory; 0: the default. */
	uint64_t leaf_cache_bytes;	/* parts of the index */
	uint64_t frame_cache_bytes;	/* decoded frames */
	/* That it is encrypted with; needed until image_open returns. NULL: none. */
	const struct image_key *key;
	/* One that is not encrypted will do, too, although a key is given. */
	bool allow_unencrypted;
	/* Told what the manifest says once that is known to be right, before more is read, by
	 * image_open's thread; the image may yet turn out bad. NULL: nobody. */
	void (*known)(void *arg, const struct manifest *manifest);
	void *known_arg;
};

struct image_stats {
	uint64_t pages;			/* handed out, zero ones not counted */
	uint64_t zero_pages;
	uint64_t frames;		/* read and decoded */
	uint64_t frame_hits;		/* found decoded, or being decoded by another thread */
	uint64_t leaves;		/* read */
	uint64_t bytes;			/* read from the store */
	uint64_t damaged;		/* reads that ended with -EBADMSG */
};

/*
 * name: of the image in the store, "db" or "team/db". options may be NULL.
 * -ENOENT: no such image, or a half one (a saver has not finished, or died);
 * -EPROTO: a version or an encryption that is not known here; -EBADMSG:
 * damaged, or altered; -ENOKEY: it is encrypted, and there is no key;
 * -EKEYREJECTED: the key is another one, or the image is not encrypted although
 * there is a key, or it was saved under another name; -ENOMEM; the store's
 * errors. The text says what to do.
 */
int image_open(struct image **out, struct store *store, struct store_scope *scope, const char *name,
	       const struct image_options *options, struct err *err);
/* No other call is under way. NULL is allowed. */
void image_free(struct image *image);

/*
 * Gives back the memory of what was read and may be asked for again; then it is read again. For
 * who keeps an image that nobody reads for now. Any thread, whatever is under way.
 */
void image_drop_caches(struct image *image);

/* Both valid until image_free. */
const struct manifest *image_manifest(const struct image *image);
const char *image_name(const struct image *image);
void image_stats(const struct image *image, struct image_stats *stats);

/* The packs that the index names: the image's own, and those of other images. */
struct image_packs {
	uint32_t own, others;
	uint64_t own_bytes, others_bytes;	/* of all of each pack, whatever of it is needed */
};
void image_packs(const struct image *image, struct image_packs *packs);

/*
 * An image's manifest alone, its name in images[0]; to be given to manifest_fini. Of an
 * encrypted one the signature is not looked at, and options are not there. text, which may
 * be NULL, gets what was read. image_open's errors, but for those of keys.
 */
int image_manifest_read(struct store *store, struct store_scope *scope, const char *name,
			struct manifest *manifest, struct buf *text, struct err *err);

/*
 * Pages from `first` on, at most n: returns how many, at least 1, as many as
 * can be had at once. They are in data (a multiple of PAGE_BYTES at any
 * address), or *zero is true and data was not touched. Data ends at the latest
 * with the span, a run of zero pages at the latest with the leaf (64 MiB).
 * Whoever asks for more pages than a span has (64 KiB) is taken to fill a guest,
 * in order and in no hurry: what lies next to them is read with them.
 *
 * -ENODATA: page `first` is not in the image: it had not come when this was
 * saved (docs/image.md, Absent pages); -ERANGE: it is of no memory range of the
 * manifest; -EBADMSG: damaged (the text names image, object, offset, page);
 * -ENOENT: an object is gone; the store's errors; -ENOMEM.
 */
int64_t image_read(struct image *image, gfn_t first, uint64_t n, void *data, bool *zero,
		   struct err *err);

/*
 * The same, also of fewer pages, for whoever nobody waits for: what is wanted soon. The n pages
 * are read with one request as far as they lie together. Data has room for all of them, and may
 * go on beyond the span.
 */
int64_t image_read_soon(struct image *image, gfn_t first, uint64_t n, void *data, bool *zero,
			struct err *err);

enum image_page {
	IMAGE_PAGE_ZERO,
	IMAGE_PAGE_DATA,
	IMAGE_PAGE_ABSENT,
};

/*
 * What the pages from `first` on are, without reading them (but perhaps a leaf
 * of the index): returns how many of the n are of that kind, at least 1, or an
 * error as image_read's but -ENODATA.
 */
int64_t image_look(struct image *image, gfn_t first, uint64_t n, enum image_page *kind,
		   struct err *err);

/*
 * An object of the image, IMAGE_STATE and the like, whole, appended to `out`; checked
 * against the manifest. -ENOENT: it has none such. image_has_object asks the
 * manifest alone; bytes, which may be NULL: how long it is, opened.
 */
#define IMAGE_STATE "state"
#define IMAGE_BOOT_KERNEL "boot-kernel"
#define IMAGE_BOOT_INITRD "boot-initrd"
#define IMAGE_BOOT_CMDLINE "boot-cmdline"
int image_get_object(struct image *image, const char *what, struct buf *out, struct err *err);
bool image_has_object(const struct image *image, const char *what, uint64_t *bytes);

#endif
