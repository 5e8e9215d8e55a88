// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * See parts.h. A part is what one request has read of a pack. There are some, since what an
 * incremental image consists of lies in several packs by turns; the one that was not used for the
 * longest time makes room.
 *
 * Where a part cannot be read because of damage its pieces are read alone, so that each error is of
 * a piece, and of no other.
 */
#include "image/parts.h"

#include <errno.h>
#include <stdlib.h>

#define PARTS 4u
#define PLACES_MAX 256u

struct part {
	uint32_t pack;
	uint64_t start, end; /* end 0: there is nothing */
	uint64_t used; /* a time */
	uint8_t *bytes; /* AHEAD_BYTES, once it was used */
};

struct place {
	uint64_t offset, end;
};

struct parts {
	struct image *image;
	struct image_scratch *scratch;
	uint64_t time;
	unsigned int alone; /* so many pieces */
	struct part part[PARTS];
	struct place places[PLACES_MAX];
};

struct parts *parts_new(struct image *image)
{
	struct parts *parts = calloc(1, sizeof(*parts));

	if (!parts)
		return NULL;
	parts->image = image;
	parts->scratch = image_get_scratch(image);
	if (parts->scratch)
		return parts;
	free(parts);
	return NULL;
}

void parts_free(struct parts *parts)
{
	unsigned int i;

	if (!parts)
		return;
	for (i = 0; i < PARTS; i++)
		free(parts->part[i].bytes);
	image_put_scratch(parts->image, parts->scratch);
	free(parts);
}

void parts_begin(struct parts *parts)
{
	unsigned int i;

	parts->alone = 0;
	for (i = 0; i < PARTS; i++)
		parts->part[i].end = 0;
}

static struct place part_place(const struct parts *parts, const struct leaf_piece *piece)
{
	return (struct place){ piece->offset,
			       piece->offset + piece->bytes + parts->image->root.tag_bytes };
}

/* ---- which part is read ---- */

static int compare_places(const void *a, const void *b)
{
	const struct place *x = a, *y = b;

	return (x->offset > y->offset) - (x->offset < y->offset);
}

/* Of the spans' pieces those that lie about the wanted one, in the order of their offsets. */
static unsigned int find_places(struct parts *parts, const struct image_want *want, uint32_t pack,
				uint32_t span, uint32_t end)
{
	const struct leaf *leaf = want->leaf;
	uint32_t i, k;
	unsigned int n = 0;

	for (i = span; i < end; i++)
		for (k = 0; k < leaf->spans[i].n_pieces && n < PLACES_MAX; k++) {
			const struct leaf_piece *piece =
				&leaf->pieces[leaf->spans[i].first_piece + k];

			if (image_piece_pack(parts->image, want->entry, piece) == pack &&
			    piece->offset + AHEAD_BYTES >= want->piece->offset &&
			    want->piece->offset + AHEAD_BYTES >= piece->offset)
				parts->places[n++] = part_place(parts, piece);
		}
	qsort(parts->places, n, sizeof(*parts->places), compare_places);
	return n;
}

/* The wanted piece, and its neighbours on both sides, as long as nothing much lies between. */
static struct place part_grow(const struct parts *parts, struct place place, unsigned int n,
			      unsigned int *pieces)
{
	const struct place *places = parts->places;
	unsigned int at = 0, i;

	while (at < n && places[at].offset < place.offset)
		at++;
	*pieces = 1;
	for (i = at + 1; i < n; i++) {
		/* Two may overlap in an image that is not ours. */
		if (places[i].offset < place.end || places[i].offset - place.end > AHEAD_GAP ||
		    places[i].end - place.offset > AHEAD_BYTES)
			break;
		place.end = places[i].end;
		++*pieces;
	}
	while (at-- > 0) {
		if (places[at].end > place.offset || place.offset - places[at].end > AHEAD_GAP ||
		    place.end - places[at].offset > AHEAD_BYTES)
			break;
		place.offset = places[at].offset;
		++*pieces;
	}
	return place;
}

/* ---- reading ---- */

static struct part *find_part(struct parts *parts, uint32_t pack, const struct place *place)
{
	unsigned int i;

	for (i = 0; i < PARTS; i++)
		if (parts->part[i].pack == pack && parts->part[i].start <= place->offset &&
		    place->end <= parts->part[i].end)
			return &parts->part[i];
	return NULL;
}

static struct part *oldest_part(struct parts *parts)
{
	struct part *oldest = &parts->part[0];
	unsigned int i;

	for (i = 1; i < PARTS; i++)
		if (parts->part[i].used < oldest->used)
			oldest = &parts->part[i];
	if (!oldest->bytes)
		oldest->bytes = malloc(AHEAD_BYTES);
	oldest->end = 0;
	return oldest->bytes ? oldest : NULL;
}

/* Reads the part that begins about the piece. -EBADMSG, -ENOENT: each is to be read alone. */
static int read_part(struct parts *parts, const struct image_want *want, uint32_t span,
		     uint32_t end, struct part **out, struct err *err)
{
	struct image *image = parts->image;
	uint32_t pack = image_piece_pack(image, want->entry, want->piece);
	struct part *part = oldest_part(parts);
	struct place place = part_place(parts, want->piece);
	unsigned int pieces;
	int r;

	if (!part)
		return err_set(err, -ENOMEM, "image %s: no memory to read it", image_name(image));
	place = part_grow(parts, place, find_places(parts, want, pack, span, end), &pieces);
	r = image_pack_read(image, pack, place.offset, part->bytes, place.end - place.offset,
			    STORE_SOON, want->first, err);
	if (r == -EBADMSG || r == -ENOENT)
		parts->alone = pieces;
	if (r)
		return r;
	*part = (struct part){ pack, place.offset, place.end, ++parts->time, part->bytes };
	*out = part;
	return 0;
}

static int load_alone(struct parts *parts, const struct image_want *want, void *out,
		      struct err *err)
{
	return image_load_piece(parts->image, parts->scratch, want->entry, want->piece, want->first,
				out, err);
}

int parts_decode(struct parts *parts, const struct image_want *want, uint32_t span, uint32_t end,
		 void *out, struct err *err)
{
	uint32_t pack = image_piece_pack(parts->image, want->entry, want->piece);
	struct place place = part_place(parts, want->piece);
	struct part *part = find_part(parts, pack, &place);
	int r = 0;

	if (!part && !parts->alone)
		r = read_part(parts, want, span, end, &part, err);
	if (parts->alone) {
		parts->alone--;
		return load_alone(parts, want, out, err);
	}
	if (r)
		return r;
	part->used = ++parts->time;
	return image_decode_piece(parts->image, parts->scratch, want,
				  part->bytes + (place.offset - part->start), out, err);
}
