// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * See working_set.h. Field by field:
 *
 *   header  0 magic 8, 8 version 4, 12 runs 4, 16 id 16, 32 pages 4, 36 zero 4
 *   page    0 gfn 8, 8 first touch in us 4, 12 score 2, 14 zero 2
 *   end     0 xxh3-128 of all that stands before 16
 *
 * and of an encrypted image's all of that is sealed, behind
 *
 *   header  0 magic 8, 8 version 4, 12 zero 4, 16 id 16, 32 nonce 12
 *
 * Merging: a page's score is halved by each run, and a run that touches it adds
 * the other half. So after one touch it is a half, and it goes with the fourth
 * run in a row that did without it. The time is the mean of the last one and of
 * what was known.
 */
#include "image/working_set.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/bytes.h"
#include "base/state_version.h"
#include "image/index.h"
#include "image/internal.h"
#include "image/name.h"
#include "image/seal.h"
#include "image/sum.h"

#define SET_MAGIC "PSTNWSET"
#define HEADER_BYTES 40u
#define PAGE_ENTRY_BYTES 16u
/* An encrypted one's header, and behind all of it is the tag. */
#define SEALED_MAGIC "PSTNWSEC"
#define SEALED_BYTES 44u
#define SET_BYTES_MAX                                                                     \
	(SEALED_BYTES + HEADER_BYTES + (size_t)PAGE_ENTRY_BYTES * WORKING_SET_PAGES_MAX + \
	 SUM_BYTES + SEAL_TAG_BYTES)

#define SCORE_TOUCHED (WORKING_SET_SCORE_MAX / 2 + 1)
#define SCORE_GONE (WORKING_SET_SCORE_MAX / 16)
#define DEFAULT_US 10000000u
#define DEFAULT_PAGES 65536u

void working_set_fini(struct working_set *set)
{
	free(set->pages);
	memset(set, 0, sizeof(*set));
}

/* ---- merging ---- */

static int page_by_gfn(const void *a, const void *b)
{
	const struct working_set_page *x = a, *y = b;

	if (x->gfn != y->gfn)
		return x->gfn < y->gfn ? -1 : 1;
	return x->first_us < y->first_us ? -1 : x->first_us > y->first_us;
}

static int page_by_time(const void *a, const void *b)
{
	const struct working_set_page *x = a, *y = b;

	if (x->first_us != y->first_us)
		return x->first_us < y->first_us ? -1 : 1;
	return x->gfn < y->gfn ? -1 : x->gfn > y->gfn;
}

/* The surest first, and of those the earliest. */
static int page_by_score(const void *a, const void *b)
{
	const struct working_set_page *x = a, *y = b;

	if (x->score != y->score)
		return x->score > y->score ? -1 : 1;
	return page_by_time(a, b);
}

/* The first n of a run's pages, by time, each once; sorted by gfn. Returns how many. */
static uint32_t run_pages(struct working_set_page *run, uint32_t n, uint32_t max)
{
	uint32_t i, kept = 0;

	if (!n)
		return 0;
	qsort(run, n, sizeof(*run), page_by_gfn);
	for (i = 0; i < n; i++)
		if (!i || run[i].gfn != run[i - 1].gfn)
			run[kept++] = run[i];
	if (kept > max) {
		qsort(run, kept, sizeof(*run), page_by_time);
		kept = max;
		qsort(run, kept, sizeof(*run), page_by_gfn);
	}
	return kept;
}

/* A page that both know, or one of them; NULL: does not know it. False: it goes. */
static bool join_page(struct working_set_page *out, const struct working_set_page *old,
		      const struct working_set_page *run, const struct working_set_run *by)
{
	*out = old ? *old : *run;
	if (!run && by->unseen && by->unseen(by->arg, old->gfn))
		return true;
	out->score = old ? old->score / 2 : 0;
	if (run)
		out->score = (uint16_t)(out->score + SCORE_TOUCHED);
	if (run && old)
		out->first_us = (uint32_t)(((uint64_t)old->first_us + run->first_us) / 2);
	return out->score > SCORE_GONE;
}

/* Both are sorted by gfn. out has room for both. Returns how many there are. */
static uint32_t join_sets(struct working_set_page *out, const struct working_set_page *old,
			  uint32_t n_old, const struct working_set_page *run, uint32_t n_run,
			  const struct working_set_run *by)
{
	uint32_t i = 0, j = 0, n = 0;

	while (i < n_old || j < n_run) {
		bool from_old = i < n_old && (j == n_run || old[i].gfn <= run[j].gfn);
		bool from_run = j < n_run && (i == n_old || run[j].gfn <= old[i].gfn);

		n += join_page(&out[n], from_old ? &old[i] : NULL, from_run ? &run[j] : NULL, by);
		i += from_old;
		j += from_run;
	}
	return n;
}

/* The touches that count. Returns how many, or -EINVAL. */
static int64_t take_touches(struct working_set_page *run, const struct working_set_touch *touches,
			    size_t n, uint32_t us, struct err *err)
{
	uint32_t kept = 0;
	size_t i;

	for (i = 0; i < n; i++) {
		if (touches[i].gfn >= GFN_LIMIT)
			return err_set(err, -EINVAL, "working set: page 0x%" PRIx64 " cannot be",
				       touches[i].gfn);
		if (touches[i].us > us)
			continue;
		run[kept++] = (struct working_set_page){ .gfn = touches[i].gfn,
							 .first_us = touches[i].us };
	}
	return kept;
}

int working_set_merge_run(struct working_set *set, const struct working_set_run *by,
			  const struct working_set_limits *limits, struct err *err)
{
	uint32_t us = limits && limits->us ? limits->us : DEFAULT_US;
	uint32_t max = limits && limits->pages ? limits->pages : DEFAULT_PAGES;
	struct working_set_page *run, *all;
	int64_t taken = -ENOMEM;
	size_t n = by->n;
	uint32_t n_run;

	if (n > WORKING_SET_PAGES_MAX || us > WORKING_SET_US_MAX || max > WORKING_SET_PAGES_MAX)
		return err_set(err, -EINVAL,
			       "working set: %zu touches, limits of %u us and %u pages", n, us,
			       max);
	run = malloc((n + 1) * sizeof(*run));
	all = malloc((set->n_pages + n + 1) * sizeof(*all));
	if (run && all)
		taken = take_touches(run, by->touches, n, us, err);
	else
		err_set(err, -ENOMEM, "working set: no memory");
	if (taken < 0) {
		free(run);
		free(all);
		return (int)taken;
	}
	n_run = run_pages(run, (uint32_t)taken, max);
	if (set->n_pages)
		qsort(set->pages, set->n_pages, sizeof(*set->pages), page_by_gfn);
	n_run = join_sets(all, set->pages, set->n_pages, run, n_run, by);
	free(run);
	if (n_run > max) {
		qsort(all, n_run, sizeof(*all), page_by_score);
		n_run = max;
	}
	qsort(all, n_run, sizeof(*all), page_by_time);
	free(set->pages);
	set->pages = all;
	set->n_pages = n_run;
	set->runs++;
	return 0;
}

int working_set_merge(struct working_set *set, const struct working_set_touch *touches, size_t n,
		      const struct working_set_limits *limits, struct err *err)
{
	const struct working_set_run run = { .touches = touches, .n = n };

	return working_set_merge_run(set, &run, limits, err);
}

/* ---- as bytes ---- */

int working_set_encode(const struct working_set *set, struct buf *out, struct err *err)
{
	size_t len = HEADER_BYTES + (size_t)PAGE_ENTRY_BYTES * set->n_pages;
	uint8_t *start = buf_reserve(out, len + SUM_BYTES), *at = start;
	uint32_t i;

	if (!start)
		return err_set(err, -ENOMEM, "working set: no memory");
	memcpy(at, SET_MAGIC, 8);
	put32(at + 8, WORKING_SET_VERSION);
	put32(at + 12, set->runs);
	memcpy(at + 16, set->id.bytes, IMAGE_ID_BYTES);
	put32(at + 32, set->n_pages);
	put32(at + 36, 0);
	at += HEADER_BYTES;
	for (i = 0; i < set->n_pages; i++, at += PAGE_ENTRY_BYTES) {
		put64(at, set->pages[i].gfn);
		put32(at + 8, set->pages[i].first_us);
		put16(at + 12, set->pages[i].score);
		put16(at + 14, 0);
	}
	sum_bytes(start, len, at);
	out->len += len + SUM_BYTES;
	return 0;
}

static int set_header(struct working_set *set, const uint8_t *data, size_t len, const char *where,
		      struct err *err)
{
	uint8_t sum[SUM_BYTES];
	int r;

	if (len < HEADER_BYTES + SUM_BYTES || memcmp(data, SET_MAGIC, 8))
		return err_set(err, -EBADMSG, "%s: not a working set", where);
	r = state_version_check(where, get32(data + 8), WORKING_SET_VERSION, err);
	if (r)
		return r;
	sum_bytes(data, len - SUM_BYTES, sum);
	if (memcmp(sum, data + len - SUM_BYTES, SUM_BYTES))
		return err_set(err, -EBADMSG, "%s: damaged: its checksum is wrong", where);
	set->runs = get32(data + 12);
	memcpy(set->id.bytes, data + 16, IMAGE_ID_BYTES);
	set->n_pages = get32(data + 32);
	if (set->n_pages > WORKING_SET_PAGES_MAX || get32(data + 36) ||
	    len != HEADER_BYTES + (size_t)PAGE_ENTRY_BYTES * set->n_pages + SUM_BYTES)
		return err_set(err, -EBADMSG, "%s: %zu bytes for %u pages", where, len,
			       set->n_pages);
	return 0;
}

/* Are they in order, and is none there twice? */
static int set_check_pages(const struct working_set *set, const char *where, struct err *err)
{
	struct working_set_page *copy;
	uint32_t i, n = set->n_pages;
	int r = 0;

	for (i = 0; !r && i < n; i++)
		if (set->pages[i].gfn >= GFN_LIMIT || set->pages[i].first_us > WORKING_SET_US_MAX ||
		    (i && page_by_time(&set->pages[i - 1], &set->pages[i]) >= 0))
			r = err_set(err, -EBADMSG, "%s: page %u is out of order", where, i);
	copy = malloc((n + 1) * sizeof(*copy));
	if (!copy)
		return err_set(err, -ENOMEM, "%s: no memory", where);
	memcpy(copy, set->pages, n * sizeof(*copy));
	if (!r && n)
		qsort(copy, n, sizeof(*copy), page_by_gfn);
	for (i = 1; !r && i < n; i++)
		if (copy[i].gfn == copy[i - 1].gfn)
			r = err_set(err, -EBADMSG, "%s: page 0x%" PRIx64 " is there twice", where,
				    copy[i].gfn);
	free(copy);
	return r;
}

int working_set_decode(struct working_set *set, const void *bytes, size_t len, const char *where,
		       struct err *err)
{
	const uint8_t *at = (const uint8_t *)bytes + HEADER_BYTES;
	uint32_t i;
	int r;

	memset(set, 0, sizeof(*set));
	r = set_header(set, bytes, len, where, err);
	if (r) {
		memset(set, 0, sizeof(*set));
		return r;
	}
	set->pages = calloc(set->n_pages + 1, sizeof(*set->pages));
	if (!set->pages)
		r = err_set(err, -ENOMEM, "%s: no memory", where);
	for (i = 0; !r && i < set->n_pages; i++, at += PAGE_ENTRY_BYTES) {
		set->pages[i] =
			(struct working_set_page){ get64(at), get32(at + 8), get16(at + 12) };
		if (get16(at + 14))
			r = err_set(err, -EBADMSG, "%s: page %u: bytes that are to be zero", where,
				    i);
	}
	if (!r)
		r = set_check_pages(set, where, err);
	if (r)
		working_set_fini(set);
	return r;
}

/* ---- encrypted ---- */

/* Its keys are of the image that it is of. */
static int set_seal_new(struct seal **seal, const struct image_key *key, const struct image_id *id,
			struct err *err)
{
	struct manifest_image image = { .id = *id };

	return seal_new(seal, key, &image, 1, err);
}

/* What was encoded, in place of `bytes`. */
static int set_seal(const struct working_set *set, const struct image_key *key, struct buf *bytes,
		    struct err *err)
{
	struct buf sealed = { 0 };
	uint8_t *at = buf_reserve(&sealed, SEALED_BYTES + bytes->len + SEAL_TAG_BYTES);
	struct seal_whole whole = { .part = SEAL_WORKING_SET };
	struct seal *seal;
	int r;

	if (!at)
		return err_set(err, -ENOMEM, "working set: no memory");
	r = set_seal_new(&seal, key, &set->id, err);
	if (!r) {
		memcpy(at, SEALED_MAGIC, 8);
		put32(at + 8, WORKING_SET_VERSION);
		put32(at + 12, 0);
		memcpy(at + 16, set->id.bytes, IMAGE_ID_BYTES);
		whole.nonce = at + 32;
		r = getrandom(at + 32, CIPHER_NONCE_BYTES, 0) == CIPHER_NONCE_BYTES ?
			    seal_whole(seal, &whole, bytes->data, bytes->len, at + SEALED_BYTES) :
			    -EIO;
		if (r)
			err_set(err, r, "working set: no memory, or no random numbers");
		seal_free(seal);
	}
	sealed.len = SEALED_BYTES + bytes->len + SEAL_TAG_BYTES;
	buf_fini(bytes);
	*bytes = sealed;
	return r;
}

static int set_sealed_header(const uint8_t *data, size_t len, const struct image_id *id,
			     const char *where, struct err *err)
{
	int r;

	if (len < SEALED_BYTES + SEAL_TAG_BYTES || memcmp(data, SEALED_MAGIC, 8) ||
	    get32(data + 12))
		return err_set(err, -EBADMSG, "%s: not an encrypted working set, as it has to be",
			       where);
	r = state_version_check(where, get32(data + 8), WORKING_SET_VERSION, err);
	if (!r && memcmp(data + 16, id->bytes, IMAGE_ID_BYTES))
		r = err_set(err, -ESTALE, "%s: of an image that had this name before", where);
	return r;
}

int working_set_unseal(struct buf *bytes, const struct image_key *key, const struct image_id *id,
		       const char *where, struct err *err)
{
	struct seal_whole whole = { .part = SEAL_WORKING_SET };
	struct seal *seal;
	int r = set_sealed_header(bytes->data, bytes->len, id, where, err);

	if (!r)
		r = set_seal_new(&seal, key, id, err);
	if (r)
		return r;
	whole.nonce = bytes->data + 32;
	bytes->len -= SEALED_BYTES + SEAL_TAG_BYTES;
	r = seal_open_whole(seal, &whole, bytes->data + SEALED_BYTES, bytes->len,
			    bytes->data + SEALED_BYTES);
	seal_free(seal);
	memmove(bytes->data, bytes->data + SEALED_BYTES, bytes->len);
	if (r)
		err_set(err, r, "%s: %s", where,
			r == -ENOMEM ? "no memory" :
				       "damaged or altered: it cannot be opened with the key");
	return r;
}

static bool set_is_sealed(const struct buf *bytes)
{
	return bytes->len >= 8 && !memcmp(bytes->data, SEALED_MAGIC, 8);
}

/* ---- in the store ---- */

int working_set_load(struct working_set *set, struct store *store, struct store_scope *scope,
		     const char *image, const struct image_id *id, const struct image_key *key,
		     struct err *err)
{
	char object[NAME_ROOM];
	struct image_id of = { 0 };
	struct buf bytes = { 0 };
	int64_t n;
	int r;

	memset(set, 0, sizeof(*set));
	image_name_plain(object, image, "working-set");
	n = store_get_all(store, scope, object, SET_BYTES_MAX, &bytes, err);
	if (n == -EFBIG)
		n = err_set(err, -EBADMSG, "%s: not a working set: too long", object);
	r = n < 0 ? (int)n : 0;
	/* Its own, which the seal is bound to, until it is known which it has to be. */
	if (!r && bytes.len >= SEALED_BYTES)
		memcpy(of.bytes, bytes.data + 16, IMAGE_ID_BYTES);
	if (!r && key)
		r = working_set_unseal(&bytes, key, id ? id : &of, object, err);
	else if (!r && set_is_sealed(&bytes))
		r = err_set(err, -ENOKEY, "%s: it is encrypted, and there is no key", object);
	if (!r)
		r = working_set_decode(set, bytes.data, bytes.len, object, err);
	buf_fini(&bytes);
	if (!r && id && memcmp(&set->id, id, sizeof(*id))) {
		working_set_fini(set);
		r = err_set(err, -ESTALE, "%s: of an image that had this name before", object);
	}
	return r;
}

int working_set_save(const struct working_set *set, struct store *store, struct store_scope *scope,
		     const char *image, const struct image_key *key, struct err *err)
{
	char object[NAME_ROOM];
	struct buf bytes = { 0 };
	int64_t n;
	int r = working_set_encode(set, &bytes, err);

	if (!r && key)
		r = set_seal(set, key, &bytes, err);
	if (!r) {
		image_name_plain(object, image, "working-set");
		n = store_put(store, scope, object, bytes.data, bytes.len, 0, err);
		r = n < 0 ? (int)n : 0;
	}
	buf_fini(&bytes);
	return r;
}

int working_set_replace(const struct working_set *set, struct store *store,
			struct store_scope *scope, const char *image, const struct image_key *key,
			struct err *err)
{
	int r = image_manifest_id_check(store, scope, image, &set->id, err);

	return r ? r : working_set_save(set, store, scope, image, key, err);
}
