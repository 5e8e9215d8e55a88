/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A working set: the pages that a restored guest touches first, in that order,
 * with the time of each touch since it ran. Whoever restores the image reads
 * them ahead (docs/image.md, The working set).
 *
 * Several runs are merged into one. A page that a run touched gains, one that it
 * did not loses half; what has lost too much goes. So a set follows what guests
 * do today, and one that runs for long cannot fill it: a run's touches count up
 * to a time and up to a number of pages, and so does the set.
 *
 * Pure but for load and save, which wait for the store. One thread at a time.
 */
#ifndef POSTERN_IMAGE_WORKING_SET_H
#define POSTERN_IMAGE_WORKING_SET_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/types.h"
#include "image/key.h"
#include "image/manifest.h"
#include "store/store.h"

#define WORKING_SET_VERSION 1
#define WORKING_SET_PAGES_MAX (1u << 20)	/* 4 GiB */
#define WORKING_SET_US_MAX 3600000000u		/* an hour */
#define WORKING_SET_SCORE_MAX 65535u

struct working_set_page {
	uint64_t gfn;
	uint32_t first_us;	/* its first touch after the guest ran; smoothed over runs */
	uint16_t score;		/* how surely it is touched; the most: by every run */
};

/* Zeroed: empty. */
struct working_set {
	struct image_id id;		/* of the image that it is of */
	uint32_t runs;			/* that were merged */
	struct working_set_page *pages;	/* by first_us, then by gfn; no page twice */
	uint32_t n_pages;
};

struct working_set_limits {
	uint32_t us;		/* touches after this time do not count; 0: 10 s */
	uint32_t pages;		/* of a run, and of the set; 0: 65536, 256 MiB */
};

void working_set_fini(struct working_set *set);

/* A run's touches in any order; the first of a page counts. */
struct working_set_touch {
	uint64_t gfn;
	uint32_t us;
};

struct working_set_run {
	const struct working_set_touch *touches;
	size_t n;
	/*
	 * Of a page that the set has and the run has not: can nobody know whether it was touched?
	 * Then it stays as it was. (A page that was here before anybody asked for it raises no
	 * event.) NULL: of each it is known.
	 */
	bool (*unseen)(void *arg, uint64_t gfn);
	void *arg;
};

/*
 * Merges one run into a set that may be empty; limits may be NULL. -EINVAL: too
 * many touches (more than WORKING_SET_PAGES_MAX) or a page that cannot be; -ENOMEM:
 * the set is as it was.
 */
int working_set_merge_run(struct working_set *set, const struct working_set_run *run,
			  const struct working_set_limits *limits, struct err *err);
/* The same, where of each page it is known. */
int working_set_merge(struct working_set *set, const struct working_set_touch *touches, size_t n,
		      const struct working_set_limits *limits, struct err *err);

/* -EBADMSG, -EPROTO (another version), -ENOMEM; where names it in texts. */
int working_set_decode(struct working_set *set, const void *data, size_t len, const char *where,
		       struct err *err);
/* Opens what an encrypted image's has in the store, in its place. As working_set_load. */
int working_set_unseal(struct buf *bytes, const struct image_key *key, const struct image_id *id,
		       const char *where, struct err *err);
int working_set_encode(const struct working_set *set, struct buf *out, struct err *err);

/*
 * That of an image; key: of an encrypted one, else NULL. -ENOENT: it has none;
 * -ESTALE: it is of another image that had this name; -ENOKEY: it is encrypted,
 * and there is no key; -EBADMSG: it is not, or with another one; decode's and the
 * store's errors. id NULL: it is not known yet, and set->id tells. save replaces
 * it; replace looks first whether the image is still there: -ENOENT, -EEXIST: it
 * has gone, or is another one by now, and nothing was written.
 */
int working_set_load(struct working_set *set, struct store *store, struct store_scope *scope,
		     const char *image, const struct image_id *id, const struct image_key *key,
		     struct err *err);
int working_set_save(const struct working_set *set, struct store *store, struct store_scope *scope,
		     const char *image, const struct image_key *key, struct err *err);
int working_set_replace(const struct working_set *set, struct store *store,
			struct store_scope *scope, const char *image, const struct image_key *key,
			struct err *err);

#endif
