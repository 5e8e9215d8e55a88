/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Keys out of keys (HKDF of RFC 5869 with SHA-256), codes of messages (HMAC of
 * RFC 2104 with SHA-256), and AES-256-GCM (NIST SP 800-38D): what seal.c needs of
 * Nettle, which is loaded when it is needed. Any thread.
 */
#ifndef POSTERN_IMAGE_CIPHER_H
#define POSTERN_IMAGE_CIPHER_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define CIPHER_KEY_BYTES 32
#define CIPHER_NONCE_BYTES 12
#define CIPHER_TAG_BYTES 16

/* -ENOSYS: Nettle is not there; the text says what to install. Before all else here. */
int cipher_load(struct err *err);

/* HKDF-Extract and -Expand in one: len is at most CIPHER_KEY_BYTES. Loads. 0 or -ENOSYS. */
int cipher_derive(const void *salt, size_t salt_len, const void *key, size_t key_len,
		  const char *info, void *out, size_t len, struct err *err);
/* The two alone, once it is loaded. */
void cipher_extract(const void *salt, size_t salt_len, const void *key, size_t key_len,
		    uint8_t out[CIPHER_KEY_BYTES]);
void cipher_expand(const uint8_t key[CIPHER_KEY_BYTES], const char *info, void *out, size_t len);
void cipher_hmac(const void *key, size_t key_len, const void *data, size_t len,
		 uint8_t out[CIPHER_KEY_BYTES]);

/* What one encryption works with, a key's schedule among it: of whoever wipes it. */
struct cipher_gcm {
	_Alignas(64) uint8_t bytes[5120];
};
struct cipher_message {
	const uint8_t *key; /* CIPHER_KEY_BYTES */
	const uint8_t *nonce; /* CIPHER_NONCE_BYTES, never twice with a key */
	const void *bound; /* the associated data */
	size_t bound_bytes;
};
/* out: len bytes and behind them the tag; may be `data`. */
void cipher_seal(struct cipher_gcm *work, const struct cipher_message *message, const void *data,
		 size_t len, uint8_t *out);
/*
 * data: len bytes and behind them the tag. 0; or -EBADMSG, and out is zeros: it
 * was not sealed with this key, nonce and associated data, or has changed.
 */
int cipher_open(struct cipher_gcm *work, const struct cipher_message *message, const void *data,
		size_t len, void *out);

/* In a time that does not depend on where they differ. 0: they are the same. */
int cipher_differ(const uint8_t *a, const uint8_t *b, size_t n);

#endif
