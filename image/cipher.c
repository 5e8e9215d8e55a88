// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * See cipher.h. Nettle, of Debian's libraries: it has no state of its own, so that a
 * key's schedule lies where we put it, and takes 0.3 ms and 0.2 MiB to load where
 * others take 2 ms and more; docs/image.md has the figures.
 */
#include "image/cipher.h"

#include <errno.h>
#include <nettle/aes.h>
#include <nettle/gcm.h>
#include <nettle/hmac.h>
#include <nettle/version.h>
#include <pthread.h>
#include <string.h>

#include "base/dynamic.h"

/* The library of which the headers are; its functions' types change with it. */
#if NETTLE_VERSION_MAJOR != 3
#error "this was written for Nettle 3, whose library is libnettle.so.8"
#endif
static const struct dynamic_library cipher_library = {
	.file = "libnettle.so.8",
	.package = "libnettle8",
	.use = "a key for images",
};

#define CIPHER_FUNCTIONS(f)                                                                     \
	f(nettle_hmac_sha256_set_key) f(nettle_hmac_sha256_update) f(nettle_hmac_sha256_digest) \
		f(nettle_gcm_aes256_set_key) f(nettle_gcm_aes256_set_iv)                        \
			f(nettle_gcm_aes256_update) f(nettle_gcm_aes256_encrypt)                \
				f(nettle_gcm_aes256_decrypt) f(nettle_gcm_aes256_digest)
static struct {
	DYNAMIC_TABLE(CIPHER_FUNCTIONS)
} nettle;
static pthread_mutex_t cipher_lock = PTHREAD_MUTEX_INITIALIZER; /* guards nettle's coming */

_Static_assert(sizeof(struct gcm_aes256_ctx) <= sizeof(struct cipher_gcm),
	       "there is room for what Nettle works with");

int cipher_load(struct err *err)
{
	static const char *const names[] = { DYNAMIC_NAMES(CIPHER_FUNCTIONS) };
	int r = 0;

	pthread_mutex_lock(&cipher_lock);
	if (!nettle.nettle_gcm_aes256_digest)
		r = dynamic_load(&nettle, names, sizeof(names) / sizeof(names[0]), &cipher_library,
				 err);
	pthread_mutex_unlock(&cipher_lock);
	return r;
}

/* ---- HMAC, HKDF ---- */

/* Of two parts that follow each other. */
static void cipher_hmac_two(const void *key, size_t key_len, const void *data, size_t len,
			    const void *more, size_t more_len, uint8_t out[CIPHER_KEY_BYTES])
{
	struct hmac_sha256_ctx ctx;

	nettle.nettle_hmac_sha256_set_key(&ctx, key_len, key);
	nettle.nettle_hmac_sha256_update(&ctx, len, data);
	nettle.nettle_hmac_sha256_update(&ctx, more_len, more);
	nettle.nettle_hmac_sha256_digest(&ctx, CIPHER_KEY_BYTES, out);
	explicit_bzero(&ctx, sizeof(ctx));
}

void cipher_hmac(const void *key, size_t key_len, const void *data, size_t len,
		 uint8_t out[CIPHER_KEY_BYTES])
{
	cipher_hmac_two(key, key_len, data, len, "", 0, out);
}

void cipher_extract(const void *salt, size_t salt_len, const void *key, size_t key_len,
		    uint8_t out[CIPHER_KEY_BYTES])
{
	static const uint8_t none[CIPHER_KEY_BYTES];

	cipher_hmac(salt ? salt : none, salt ? salt_len : sizeof(none), key, key_len, out);
}

/* Its first block is all that is ever needed. */
void cipher_expand(const uint8_t key[CIPHER_KEY_BYTES], const char *info, void *out, size_t len)
{
	uint8_t block[CIPHER_KEY_BYTES];

	cipher_hmac_two(key, CIPHER_KEY_BYTES, info, strlen(info), "\1", 1, block);
	memcpy(out, block, len);
	explicit_bzero(block, sizeof(block));
}

int cipher_derive(const void *salt, size_t salt_len, const void *key, size_t key_len,
		  const char *info, void *out, size_t len, struct err *err)
{
	uint8_t extracted[CIPHER_KEY_BYTES];
	int r = cipher_load(err);

	if (r)
		return r;
	cipher_extract(salt, salt_len, key, key_len, extracted);
	cipher_expand(extracted, info, out, len);
	explicit_bzero(extracted, sizeof(extracted));
	return 0;
}

/* ---- AES-256-GCM ---- */

static struct gcm_aes256_ctx *cipher_begin(struct cipher_gcm *work,
					   const struct cipher_message *message)
{
	struct gcm_aes256_ctx *ctx = (struct gcm_aes256_ctx *)(void *)work->bytes;

	nettle.nettle_gcm_aes256_set_key(ctx, message->key);
	nettle.nettle_gcm_aes256_set_iv(ctx, CIPHER_NONCE_BYTES, message->nonce);
	nettle.nettle_gcm_aes256_update(ctx, message->bound_bytes, message->bound);
	return ctx;
}

void cipher_seal(struct cipher_gcm *work, const struct cipher_message *message, const void *data,
		 size_t len, uint8_t *out)
{
	struct gcm_aes256_ctx *ctx = cipher_begin(work, message);

	nettle.nettle_gcm_aes256_encrypt(ctx, len, out, data);
	nettle.nettle_gcm_aes256_digest(ctx, CIPHER_TAG_BYTES, out + len);
}

int cipher_open(struct cipher_gcm *work, const struct cipher_message *message, const void *data,
		size_t len, void *out)
{
	struct gcm_aes256_ctx *ctx = cipher_begin(work, message);
	uint8_t tag[CIPHER_TAG_BYTES], want[CIPHER_TAG_BYTES];

	/* It may be opened in place. */
	memcpy(want, (const uint8_t *)data + len, sizeof(want));
	nettle.nettle_gcm_aes256_decrypt(ctx, len, out, data);
	nettle.nettle_gcm_aes256_digest(ctx, CIPHER_TAG_BYTES, tag);
	if (!cipher_differ(tag, want, sizeof(tag)))
		return 0;
	memset(out, 0, len);
	return -EBADMSG;
}

int cipher_differ(const uint8_t *a, const uint8_t *b, size_t n)
{
	/* volatile: a compiler that saw the loop's purpose could end it early. */
	volatile uint8_t different = 0;
	size_t i;

	for (i = 0; i < n; i++)
		different |= a[i] ^ b[i];
	return different;
}
