// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "image/seal.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/locked.h"

#define INFO_PACKS "postern image packs"
#define INFO_MANIFEST "postern image manifest"
#define INFO_OBJECT "postern image object "
#define INFO_OPTIONS "postern image options"
#define INFO_WORKING_SET "postern image working set"
#define INFO_ROOM 64
#define BOUND_PACK_BYTES (IMAGE_ID_BYTES + 16)

/* What one call works with, in memory for keys; kept for the next one. */
struct seal_work {
	struct seal_work *next;
	uint8_t key[CIPHER_KEY_BYTES];
	struct cipher_gcm gcm;
};

/* In memory for keys. */
struct seal_keys {
	uint8_t own[CIPHER_KEY_BYTES]; /* of which this image's are made */
	uint8_t manifest[CIPHER_KEY_BYTES];
	uint8_t packs[][CIPHER_KEY_BYTES]; /* of each image */
};

struct seal {
	struct image_id *ids;
	unsigned int n;
	uint8_t key_id[IMAGE_KEY_ID_BYTES];
	struct seal_keys *keys;
	size_t keys_bytes;
	pthread_mutex_t lock; /* guards works */
	struct seal_work *works;
};

/* ---- its life ---- */

static void seal_derive(struct seal *seal, const struct image_key *key)
{
	uint8_t *own = seal->keys->own;
	unsigned int i;

	for (i = seal->n; i-- > 0;) {
		cipher_extract(seal->ids[i].bytes, IMAGE_ID_BYTES, image_key_bytes(key),
			       IMAGE_KEY_BYTES, own);
		cipher_expand(own, INFO_PACKS, seal->keys->packs[i], CIPHER_KEY_BYTES);
	}
	/* The last one was this image's. */
	cipher_expand(own, INFO_MANIFEST, seal->keys->manifest, CIPHER_KEY_BYTES);
}

int seal_new(struct seal **out, const struct image_key *key, const struct manifest_image *images,
	     unsigned int n, struct err *err)
{
	struct seal *seal = calloc(1, sizeof(*seal));
	unsigned int i;
	int r = 0;

	if (!seal)
		return err_set(err, -ENOMEM, "no memory for keys");
	pthread_mutex_init(&seal->lock, NULL);
	seal->n = n;
	seal->keys_bytes = sizeof(*seal->keys) + (size_t)n * CIPHER_KEY_BYTES;
	seal->keys = locked_new(seal->keys_bytes);
	seal->ids = calloc(n, sizeof(*seal->ids));
	if (!seal->keys || !seal->ids)
		r = err_set(err, -ENOMEM, "no memory for keys");
	if (!r)
		r = cipher_load(err);
	if (r) {
		seal_free(seal);
		return r;
	}
	for (i = 0; i < n; i++)
		seal->ids[i] = images[i].id;
	memcpy(seal->key_id, image_key_id(key), IMAGE_KEY_ID_BYTES);
	seal_derive(seal, key);
	*out = seal;
	return 0;
}

void seal_free(struct seal *seal)
{
	if (!seal)
		return;
	while (seal->works) {
		struct seal_work *next = seal->works->next;

		locked_free(seal->works, sizeof(*seal->works));
		seal->works = next;
	}
	locked_free(seal->keys, seal->keys_bytes);
	free(seal->ids);
	pthread_mutex_destroy(&seal->lock);
	free(seal);
}

const uint8_t *seal_key_id(const struct seal *seal)
{
	return seal->key_id;
}

/* As many as there are threads. */
static struct seal_work *seal_get_work(struct seal *seal)
{
	struct seal_work *work;

	pthread_mutex_lock(&seal->lock);
	work = seal->works;
	if (work)
		seal->works = work->next;
	pthread_mutex_unlock(&seal->lock);
	return work ? work : locked_new(sizeof(*work));
}

static void seal_put_work(struct seal *seal, struct seal_work *work)
{
	pthread_mutex_lock(&seal->lock);
	work->next = seal->works;
	seal->works = work;
	pthread_mutex_unlock(&seal->lock);
}

/* ---- packs ---- */

/* The nonce is the place; the image, what it is and how long are bound to it. */
static void place_message(struct cipher_message *message, uint8_t nonce[CIPHER_NONCE_BYTES],
			  uint8_t bound[BOUND_PACK_BYTES], const struct image_id *id,
			  const struct seal_place *place)
{
	put32(nonce, place->pack);
	put32(nonce + 4, place->offset);
	put32(nonce + 8, 0);
	memcpy(bound, id->bytes, IMAGE_ID_BYTES);
	put32(bound + IMAGE_ID_BYTES, (uint32_t)place->kind);
	put32(bound + IMAGE_ID_BYTES + 4, place->pack);
	put32(bound + IMAGE_ID_BYTES + 8, place->offset);
	put32(bound + IMAGE_ID_BYTES + 12, place->bytes);
	message->nonce = nonce;
	message->bound = bound;
	message->bound_bytes = BOUND_PACK_BYTES;
}

int seal_pack(struct seal *seal, const struct seal_place *place, const void *data, uint8_t *out)
{
	uint8_t nonce[CIPHER_NONCE_BYTES], bound[BOUND_PACK_BYTES];
	struct cipher_message message = { .key = seal->keys->packs[0] };
	struct seal_work *work = seal_get_work(seal);

	if (!work)
		return -ENOMEM;
	place_message(&message, nonce, bound, &seal->ids[0], place);
	cipher_seal(&work->gcm, &message, data, place->bytes, out);
	seal_put_work(seal, work);
	return 0;
}

int seal_open_pack(struct seal *seal, unsigned int image, const struct seal_place *place,
		   const void *stored, void *out)
{
	uint8_t nonce[CIPHER_NONCE_BYTES], bound[BOUND_PACK_BYTES];
	struct cipher_message message = { .key = seal->keys->packs[image] };
	struct seal_work *work = seal_get_work(seal);
	int r;

	if (!work)
		return -ENOMEM;
	place_message(&message, nonce, bound, &seal->ids[image], place);
	r = cipher_open(&work->gcm, &message, stored, place->bytes, out);
	seal_put_work(seal, work);
	return r;
}

/* ---- what is sealed as a whole ---- */

static void whole_message(const struct seal *seal, struct seal_work *work,
			  struct cipher_message *message, const struct seal_whole *whole)
{
	static const uint8_t zero[CIPHER_NONCE_BYTES];
	char info[INFO_ROOM];

	if (whole->part == SEAL_OBJECT)
		snprintf(info, sizeof(info), "%s%s", INFO_OBJECT, whole->what);
	else
		strcpy(info, whole->part == SEAL_OPTIONS ? INFO_OPTIONS : INFO_WORKING_SET);
	cipher_expand(seal->keys->own, info, work->key, CIPHER_KEY_BYTES);
	message->key = work->key;
	message->nonce = whole->nonce ? whole->nonce : zero;
	message->bound = seal->ids[0].bytes;
	message->bound_bytes = IMAGE_ID_BYTES;
}

int seal_whole(struct seal *seal, const struct seal_whole *whole, const void *data, size_t len,
	       uint8_t *out)
{
	struct seal_work *work = seal_get_work(seal);
	struct cipher_message message;

	if (!work)
		return -ENOMEM;
	whole_message(seal, work, &message, whole);
	cipher_seal(&work->gcm, &message, data, len, out);
	seal_put_work(seal, work);
	return 0;
}

int seal_open_whole(struct seal *seal, const struct seal_whole *whole, const void *stored,
		    size_t len, void *out)
{
	struct seal_work *work = seal_get_work(seal);
	struct cipher_message message;
	int r;

	if (!work)
		return -ENOMEM;
	whole_message(seal, work, &message, whole);
	r = cipher_open(&work->gcm, &message, stored, len, out);
	seal_put_work(seal, work);
	return r;
}

/* ---- the manifest ---- */

void seal_sign(const struct seal *seal, const void *data, size_t len,
	       uint8_t signature[SEAL_SIGNATURE_BYTES])
{
	cipher_hmac(seal->keys->manifest, CIPHER_KEY_BYTES, data, len, signature);
}

bool seal_is_signed(const struct seal *seal, const void *data, size_t len,
		    const uint8_t signature[SEAL_SIGNATURE_BYTES])
{
	uint8_t want[SEAL_SIGNATURE_BYTES];

	seal_sign(seal, data, len, want);
	return !cipher_differ(want, signature, sizeof(want));
}
