/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * An image's own keys, made of the user's (key.h) and its id, and what is sealed
 * with them: encrypted and bound to where it belongs, so that it cannot be read,
 * changed, or put elsewhere by whoever has no key. docs/image.md, Encryption, has
 * each byte. What is opened with keys of the image, in packs of other images with
 * theirs: one key of the user's opens a chain.
 *
 * No nonce is used twice with a key: an image's keys are its id's, a place in its
 * packs is written once, an object has a key of its own, and a working set, which
 * is replaced, has a random nonce each time.
 *
 * Threads: any, but for new and free.
 */
#ifndef POSTERN_IMAGE_SEAL_H
#define POSTERN_IMAGE_SEAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "image/cipher.h"
#include "image/key.h"
#include "image/manifest.h"

/* As manifests call it. */
#define SEAL_ENCRYPTION "aes-256-gcm"
/* Behind all that is sealed. */
#define SEAL_TAG_BYTES CIPHER_TAG_BYTES

struct seal;

/*
 * For images[0], and to open packs of all n. key is not needed any more on
 * return. -ENOMEM; -ENOSYS: a library is missing.
 */
int seal_new(struct seal **out, const struct image_key *key, const struct manifest_image *images,
	     unsigned int n, struct err *err);
/* Wipes the keys. NULL is allowed. */
void seal_free(struct seal *seal);
/* Of the user's key. */
const uint8_t *seal_key_id(const struct seal *seal);

enum seal_kind { SEAL_FRAME = 1, SEAL_LEAF = 2 };

/* In a pack. bytes: without the tag. */
struct seal_place {
	uint32_t pack, offset, bytes; /* pack: its number among its image's */
	enum seal_kind kind;
};

/* out: place->bytes and SEAL_TAG_BYTES. A place once. 0 or -ENOMEM. */
int seal_pack(struct seal *seal, const struct seal_place *place, const void *data, uint8_t *out);
/*
 * image: number of the seal's images. stored: place->bytes and the tag; out may
 * be the same. -EBADMSG: it is not what was sealed there; -ENOMEM.
 */
int seal_open_pack(struct seal *seal, unsigned int image, const struct seal_place *place,
		   const void *stored, void *out);

/*
 * What else is sealed, each with a key of its own. Once, but for a working set.
 * what: of SEAL_OBJECT, the object's name; else NULL.
 */
enum seal_part { SEAL_OBJECT, SEAL_OPTIONS, SEAL_WORKING_SET };
struct seal_whole {
	enum seal_part part;
	const char *what;
	const uint8_t *nonce; /* of CIPHER_NONCE_BYTES, random: SEAL_WORKING_SET; else NULL */
};
/* As those of packs; out has room for the tag. */
int seal_whole(struct seal *seal, const struct seal_whole *whole, const void *data, size_t len,
	       uint8_t *out);
/* len: of what was sealed, without the tag. */
int seal_open_whole(struct seal *seal, const struct seal_whole *whole, const void *stored,
		    size_t len, void *out);

/* The manifest's signature. */
#define SEAL_SIGNATURE_BYTES 32
void seal_sign(const struct seal *seal, const void *data, size_t len,
	       uint8_t signature[SEAL_SIGNATURE_BYTES]);
bool seal_is_signed(const struct seal *seal, const void *data, size_t len,
		    const uint8_t signature[SEAL_SIGNATURE_BYTES]);

#endif
