// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * The index's root (index.h), field by field:
 *
 *   header  0 magic 8, 8 version 4, 12 span pages 4, 16 id 16, 32 packs 4, 36 leaves 4,
 *           40 refs 4, 44 zero 4
 *   pack    0 image 4, 4 number 4, 8 bytes 8, 16 sum 16
 *   leaf    0 number 4, 4 pack 4, 8 offset 4, 12 bytes 4, 16 first ref 4, 20 refs 4,
 *           24 data pages 4, 28 absent pages 4, 32 sum 16
 *   ref     0 pack 4
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/state_version.h"
#include "image/index.h"

#define ROOT_MAGIC "PSTNROOT"
#define ROOT_VERSION 1u
#define HEADER_BYTES 48u
#define PACK_BYTES 32u
#define ROOT_LEAF_BYTES 48u
#define REF_BYTES 4u

void root_fini(struct root *root)
{
	free(root->packs);
	free(root->leaves);
	free(root->refs);
	memset(root, 0, sizeof(*root));
}

static int root_header(struct root *root, const uint8_t *data, size_t len, const char *where,
		       struct err *err)
{
	uint64_t want;
	int r;

	if (len < HEADER_BYTES || memcmp(data, ROOT_MAGIC, 8))
		return err_set(err, -EBADMSG, "%s: no image's index", where);
	r = state_version_check(where, get32(data + 8), ROOT_VERSION, err);
	if (r)
		return r;
	root->span_pages = get32(data + 12);
	memcpy(root->id.bytes, data + 16, IMAGE_ID_BYTES);
	root->n_packs = get32(data + 32);
	root->n_leaves = get32(data + 36);
	root->n_refs = get32(data + 40);
	if (root->span_pages != 16 && root->span_pages != 32 && root->span_pages != 64)
		return err_set(err, -EBADMSG, "%s: spans of %u pages", where, root->span_pages);
	if (root->n_packs > ROOT_PACKS_MAX || root->n_leaves > ROOT_LEAVES_MAX ||
	    root->n_refs > ROOT_REFS_MAX)
		return err_set(err, -EBADMSG, "%s: %u packs, %u leaves, %u refs", where,
			       root->n_packs, root->n_leaves, root->n_refs);
	want = HEADER_BYTES + (uint64_t)PACK_BYTES * root->n_packs +
	       (uint64_t)ROOT_LEAF_BYTES * root->n_leaves + (uint64_t)REF_BYTES * root->n_refs;
	if (want != len || get32(data + 44))
		return err_set(err, -EBADMSG, "%s: %zu bytes instead of %" PRIu64, where, len,
			       want);
	return 0;
}

static int root_packs(struct root *root, const uint8_t *data, unsigned int n_images,
		      const char *where, struct err *err)
{
	uint32_t i;

	for (i = 0; i < root->n_packs; i++, data += PACK_BYTES) {
		struct root_pack *pack = &root->packs[i];

		pack->image = get32(data);
		pack->number = get32(data + 4);
		pack->bytes = get64(data + 8);
		memcpy(pack->sum, data + 16, SUM_BYTES);
		if (pack->image >= n_images || pack->bytes > PACK_BYTES_MAX)
			return err_set(err, -EBADMSG,
				       "%s: pack %u: image %u of %u, %" PRIu64 " bytes", where, i,
				       pack->image, n_images, pack->bytes);
	}
	return 0;
}

static int root_leaf_check(const struct root *root, uint32_t i, const char *where, struct err *err)
{
	const struct root_leaf *leaf = &root->leaves[i];
	bool ok = leaf->number < GFN_LIMIT >> LEAF_SHIFT && leaf->pack < root->n_packs &&
		  leaf->bytes <= leaf_bytes_max(root->span_pages) &&
		  leaf->offset <= root->packs[leaf->pack].bytes &&
		  leaf->bytes + (uint64_t)root->tag_bytes <=
			  root->packs[leaf->pack].bytes - leaf->offset &&
		  leaf->n_refs <= LEAF_REFS_MAX && leaf->first_ref <= root->n_refs &&
		  leaf->n_refs <= root->n_refs - leaf->first_ref &&
		  leaf->data_pages <= LEAF_PAGES &&
		  leaf->absent_pages <= LEAF_PAGES - leaf->data_pages;

	if (ok && (!i || root->leaves[i - 1].number < leaf->number))
		return 0;
	return err_set(err, -EBADMSG,
		       "%s: leaf %u (number %u, pack %u, %u bytes at %u, %u refs) "
		       "cannot be",
		       where, i, leaf->number, leaf->pack, leaf->bytes, leaf->offset, leaf->n_refs);
}

static int root_leaves(struct root *root, const uint8_t *data, const char *where, struct err *err)
{
	uint32_t i;
	int r;

	for (i = 0; i < root->n_leaves; i++, data += ROOT_LEAF_BYTES) {
		struct root_leaf *leaf = &root->leaves[i];

		leaf->number = get32(data);
		leaf->pack = get32(data + 4);
		leaf->offset = get32(data + 8);
		leaf->bytes = get32(data + 12);
		leaf->first_ref = get32(data + 16);
		leaf->n_refs = get32(data + 20);
		leaf->data_pages = get32(data + 24);
		leaf->absent_pages = get32(data + 28);
		memcpy(leaf->sum, data + 32, SUM_BYTES);
		r = root_leaf_check(root, i, where, err);
		if (r)
			return r;
	}
	return 0;
}

static int root_refs(struct root *root, const uint8_t *data, const char *where, struct err *err)
{
	uint32_t i;

	for (i = 0; i < root->n_refs; i++) {
		root->refs[i] = get32(data + (size_t)REF_BYTES * i);
		if (root->refs[i] >= root->n_packs)
			return err_set(err, -EBADMSG, "%s: ref %u: pack %u of %u", where, i,
				       root->refs[i], root->n_packs);
	}
	return 0;
}

int root_decode(struct root *root, const void *data, size_t len, unsigned int n_images,
		const char *where, struct err *err)
{
	const uint8_t *at = (const uint8_t *)data + HEADER_BYTES;
	int r;

	memset(root, 0, sizeof(*root));
	r = root_header(root, data, len, where, err);
	if (r)
		return r;
	root->packs = calloc(root->n_packs + 1, sizeof(*root->packs));
	root->leaves = calloc(root->n_leaves + 1, sizeof(*root->leaves));
	root->refs = calloc(root->n_refs + 1, sizeof(*root->refs));
	if (!root->packs || !root->leaves || !root->refs)
		r = err_set(err, -ENOMEM, "%s: no memory for the index", where);
	if (!r)
		r = root_packs(root, at, n_images, where, err);
	at += (size_t)PACK_BYTES * root->n_packs;
	if (!r)
		r = root_leaves(root, at, where, err);
	at += (size_t)ROOT_LEAF_BYTES * root->n_leaves;
	if (!r)
		r = root_refs(root, at, where, err);
	if (r)
		root_fini(root);
	return r;
}

int root_take_tags(struct root *root, unsigned int tag_bytes, const char *where, struct err *err)
{
	uint32_t i;
	int r = 0;

	root->tag_bytes = tag_bytes;
	for (i = 0; !r && i < root->n_leaves; i++)
		r = root_leaf_check(root, i, where, err);
	return r;
}

static void put_root_leaf(uint8_t *at, const struct root_leaf *leaf)
{
	put32(at, leaf->number);
	put32(at + 4, leaf->pack);
	put32(at + 8, leaf->offset);
	put32(at + 12, leaf->bytes);
	put32(at + 16, leaf->first_ref);
	put32(at + 20, leaf->n_refs);
	put32(at + 24, leaf->data_pages);
	put32(at + 28, leaf->absent_pages);
	memcpy(at + 32, leaf->sum, SUM_BYTES);
}

static uint8_t *put_root_header(uint8_t *at, const struct root *root)
{
	memcpy(at, ROOT_MAGIC, 8);
	put32(at + 8, ROOT_VERSION);
	put32(at + 12, root->span_pages);
	memcpy(at + 16, root->id.bytes, IMAGE_ID_BYTES);
	put32(at + 32, root->n_packs);
	put32(at + 36, root->n_leaves);
	put32(at + 40, root->n_refs);
	put32(at + 44, 0);
	return at + HEADER_BYTES;
}

int root_encode(const struct root *root, struct buf *out)
{
	size_t len = HEADER_BYTES + (size_t)PACK_BYTES * root->n_packs +
		     (size_t)ROOT_LEAF_BYTES * root->n_leaves + (size_t)REF_BYTES * root->n_refs;
	uint8_t *at = buf_reserve(out, len);
	uint32_t i;

	if (!at)
		return -ENOMEM;
	at = put_root_header(at, root);
	for (i = 0; i < root->n_packs; i++, at += PACK_BYTES) {
		put32(at, root->packs[i].image);
		put32(at + 4, root->packs[i].number);
		put64(at + 8, root->packs[i].bytes);
		memcpy(at + 16, root->packs[i].sum, SUM_BYTES);
	}
	for (i = 0; i < root->n_leaves; i++, at += ROOT_LEAF_BYTES)
		put_root_leaf(at, &root->leaves[i]);
	for (i = 0; i < root->n_refs; i++, at += REF_BYTES)
		put32(at, root->refs[i]);
	out->len += len;
	return 0;
}

const struct root_leaf *root_find(const struct root *root, uint64_t leaf)
{
	uint32_t low = 0, high = root->n_leaves;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (root->leaves[middle].number == leaf)
			return &root->leaves[middle];
		if (root->leaves[middle].number < leaf)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}
