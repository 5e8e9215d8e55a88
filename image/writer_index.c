// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * The index of an image that is being written. A leaf that is complete goes into
 * a pack as frames do, at once, so that memory is taken by those alone that are
 * not. A leaf that is as the parent's throughout is not read: its entry in the
 * root names the parent's, with the numbers that packs have here.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "image/internal.h"
#include "image/writer_internal.h"

/* ---- tables that grow; with the lock ---- */

static int grow(void **table, uint32_t *room, uint32_t need, size_t each)
{
	uint32_t more = *room ? *room : 64;
	void *bigger;

	if (need <= *room)
		return 0;
	while (more < need)
		more *= 2;
	bigger = realloc(*table, more * each);
	if (!bigger)
		return -ENOMEM;
	*table = bigger;
	*room = more;
	return 0;
}

static int root_add_leaf(struct image_writer *writer, const struct root_leaf *leaf,
			 const uint32_t *refs)
{
	struct root *root = &writer->root;

	if (root->n_refs + leaf->n_refs > ROOT_REFS_MAX || root->n_leaves == ROOT_LEAVES_MAX)
		return -EFBIG;
	if (grow((void **)&root->leaves, &writer->leaves_room, root->n_leaves + 1,
		 sizeof(*root->leaves)) ||
	    grow((void **)&root->refs, &writer->refs_room, root->n_refs + leaf->n_refs,
		 sizeof(*root->refs)))
		return -ENOMEM;
	root->leaves[root->n_leaves] = *leaf;
	root->leaves[root->n_leaves++].first_ref = root->n_refs;
	if (leaf->n_refs)
		memcpy(root->refs + root->n_refs, refs, leaf->n_refs * sizeof(*refs));
	root->n_refs += leaf->n_refs;
	return 0;
}

/* ---- packs of other images; with the lock ---- */

/* The number here of the parent's image number `image`. */
static int map_image(struct image_writer *writer, uint32_t image, uint32_t *out)
{
	struct manifest *manifest = &writer->manifest;
	const struct manifest *parent = image_manifest(writer->parent);

	if (!writer->image_map[image]) {
		if (manifest->n_images == MANIFEST_IMAGES_MAX)
			return -EMLINK;
		manifest->images[manifest->n_images] = parent->images[image];
		writer->image_map[image] = manifest->n_images++;
	}
	*out = writer->image_map[image];
	return 0;
}

/* The number here of the parent's pack. */
static int map_pack(struct image_writer *writer, uint32_t pack, uint32_t *out)
{
	struct root *root = &writer->root;
	struct root_pack *to;
	int r;

	if (!writer->pack_map[pack]) {
		if (grow((void **)&root->packs, &writer->packs_room, root->n_packs + 1,
			 sizeof(*root->packs)))
			return -ENOMEM;
		to = &root->packs[root->n_packs];
		*to = writer->parent->root.packs[pack];
		r = map_image(writer, to->image, &to->image);
		if (r)
			return r;
		writer->pack_map[pack] = ++root->n_packs;
	}
	*out = PACK_FOREIGN | (writer->pack_map[pack] - 1);
	return 0;
}

static int writer_index_error(struct image_writer *writer, int r, struct err *err)
{
	if (r == -EMLINK)
		return err_set(err, r,
			       "image %s: it would name packs of more than %d images: "
			       "compact its parent first",
			       writer->name, MANIFEST_IMAGES_MAX - 1);
	if (r == -EFBIG)
		return err_set(err, r, "image %s: its index becomes too large", writer->name);
	return err_set(err, r, "image %s: no memory for its index", writer->name);
}

/* ---- leaves ---- */

/* The packs that a leaf names. */
struct leaf_refs {
	struct image_writer *writer;
	uint32_t *packs;
	uint32_t n, room;
};

static int leaf_ref(void *arg, bool own, uint32_t pack, uint32_t *ref)
{
	struct leaf_refs *refs = arg;
	uint32_t i;
	int r = own ? 0 : map_pack(refs->writer, pack, &pack);

	if (r)
		return r;
	/* What was named last is mostly named again. */
	for (i = refs->n; i-- > 0;)
		if (refs->packs[i] == pack) {
			*ref = i;
			return 0;
		}
	if (grow((void **)&refs->packs, &refs->room, refs->n + 1, sizeof(*refs->packs)))
		return -ENOMEM;
	refs->packs[refs->n] = pack;
	*ref = refs->n++;
	return 0;
}

int writer_keep_leaf(struct image_writer *writer, uint32_t number, struct err *err)
{
	const struct root *root = &writer->parent->root;
	const struct root_leaf *entry = root_find(root, number);
	struct leaf_refs refs = { .writer = writer };
	struct root_leaf leaf;
	uint32_t i;
	int r = 0;

	if (!entry)
		return 0;
	leaf = *entry;
	pthread_mutex_lock(&writer->lock);
	/* Two of the parent's refs are never the same pack, so each keeps its number. */
	if (grow((void **)&refs.packs, &refs.room, entry->n_refs + 1, sizeof(*refs.packs)))
		r = -ENOMEM;
	for (i = 0; !r && i < entry->n_refs; i++)
		r = map_pack(writer, root->refs[entry->first_ref + i], &refs.packs[i]);
	if (!r)
		r = map_pack(writer, entry->pack, &leaf.pack);
	if (!r)
		r = root_add_leaf(writer, &leaf, refs.packs);
	pthread_mutex_unlock(&writer->lock);
	free(refs.packs);
	return r ? writer_index_error(writer, r, err) : 0;
}

static int leaf_write(struct image_writer *writer, const struct leaf *leaf, uint32_t absent,
		      const struct leaf_refs *refs, struct err *err)
{
	struct root_leaf entry = { .number = leaf->number,
				   .n_refs = refs->n,
				   .data_pages = leaf->n_sums,
				   .absent_pages = absent };
	struct packer_place place;
	struct buf bytes = { 0 };
	int r = leaf_encode(leaf, &bytes);

	if (r)
		return writer_index_error(writer, r, err);
	entry.bytes = (uint32_t)bytes.len;
	sum_bytes(bytes.data, bytes.len, entry.sum);
	r = packer_add(writer->packer, SEAL_LEAF, bytes.data, bytes.len, &place, err);
	buf_fini(&bytes);
	if (r)
		return r;
	entry.pack = place.pack;
	entry.offset = place.offset;
	pthread_mutex_lock(&writer->lock);
	r = root_add_leaf(writer, &entry, refs->packs);
	pthread_mutex_unlock(&writer->lock);
	return r ? writer_index_error(writer, r, err) : 0;
}

/* parent: the same leaf there, or NULL. */
static int seal_with(struct image_writer *writer, struct leaf_builder *builder,
		     const struct leaf *parent, const struct root_leaf *entry, struct err *err)
{
	struct leaf_refs refs = { .writer = writer };
	const struct builder_refs ops = { leaf_ref, &refs };
	struct leaf *leaf = NULL;
	uint32_t absent;
	int r;

	pthread_mutex_lock(&writer->lock);
	r = leaf_builder_seal(builder, parent, writer->parent ? &writer->parent->root : NULL, entry,
			      &ops, &leaf, &absent);
	pthread_mutex_unlock(&writer->lock);
	if (r)
		writer_index_error(writer, r, err);
	else if (leaf->n_spans)
		r = leaf_write(writer, leaf, absent, &refs, err);
	free(leaf);
	free(refs.packs);
	return r;
}

int writer_seal(struct image_writer *writer, struct leaf_builder *builder, struct err *err)
{
	const struct root_leaf *entry = NULL;
	struct leaf *parent = NULL;
	unsigned int slot;
	int r = 0;

	if (builder->n_kept && builder->n_kept == builder->n_ram) {
		r = writer_keep_leaf(writer, builder->number, err);
		leaf_builder_free(builder);
		return r;
	}
	if (builder->n_kept)
		entry = root_find(&writer->parent->root, builder->number);
	if (entry)
		r = image_get_leaf(writer->parent, entry, &parent, &slot, err);
	if (parent)
		r = writer_fold(writer, builder, parent, entry, err);
	if (!r)
		r = seal_with(writer, builder, parent, entry, err);
	if (parent)
		image_put_leaf(writer->parent, slot);
	leaf_builder_free(builder);
	return r;
}

/* ---- the root ---- */

static int root_by_number(const void *a, const void *b)
{
	const struct root_leaf *x = a, *y = b;

	return x->number < y->number ? -1 : x->number > y->number;
}

static uint32_t final_pack(uint32_t pack, uint32_t own)
{
	return pack & PACK_FOREIGN ? own + (pack & ~PACK_FOREIGN) : pack;
}

/* Own packs come first, then those of others. */
static int root_join_packs(struct image_writer *writer, struct root *root)
{
	const struct packer_pack *packs;
	uint32_t own = packer_packs(writer->packer, &packs), i;
	struct root_pack *all;

	if (own + root->n_packs > ROOT_PACKS_MAX)
		return -EFBIG;
	all = calloc(own + root->n_packs + 1, sizeof(*all));
	if (!all)
		return -ENOMEM;
	for (i = 0; i < own; i++) {
		all[i] = (struct root_pack){ .number = i, .bytes = packs[i].bytes };
		memcpy(all[i].sum, packs[i].sum, SUM_BYTES);
		writer->manifest.own_bytes += packs[i].bytes;
	}
	if (root->n_packs)
		memcpy(all + own, root->packs, root->n_packs * sizeof(*all));
	free(root->packs);
	root->packs = all;
	root->n_packs += own;
	for (i = 0; i < root->n_leaves; i++)
		root->leaves[i].pack = final_pack(root->leaves[i].pack, own);
	for (i = 0; i < root->n_refs; i++)
		root->refs[i] = final_pack(root->refs[i], own);
	return 0;
}

int writer_encode_root(struct image_writer *writer, struct buf *out, struct err *err)
{
	struct manifest *manifest = &writer->manifest;
	struct root *root = &writer->root;
	uint32_t i;
	int r;

	root->id = manifest->id;
	root->span_pages = IMAGE_SPAN_PAGES;
	if (root->n_leaves)
		qsort(root->leaves, root->n_leaves, sizeof(*root->leaves), root_by_number);
	for (i = 0; i < root->n_leaves; i++) {
		manifest->data_pages += root->leaves[i].data_pages;
		manifest->absent_pages += root->leaves[i].absent_pages;
	}
	manifest->zero_pages =
		manifest_pages(manifest) - manifest->data_pages - manifest->absent_pages;
	r = root_join_packs(writer, root) ?: root_encode(root, out);
	return r ? writer_index_error(writer, r, err) : 0;
}
