/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A secret that both sides of a migration share: read from a file, kept as a key, and used to
 * make message authentication codes (HMAC of RFC 2104 with SHA-256). A value: whoever holds one
 * wipes it. Any thread, but secret_load the main thread.
 */
#ifndef POSTERN_MIGRATE_SECRET_H
#define POSTERN_MIGRATE_SECRET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define SECRET_FILE_MIN_BYTES 16
#define SECRET_FILE_MAX_BYTES 4096
#define SECRET_KEY_BYTES 32
#define SECRET_MAC_BYTES 32

struct secret {
	bool given;
	uint8_t key[SECRET_KEY_BYTES];
};

/*
 * Reads the whole file, byte for byte, a newline at its end too. -EINVAL: it is no regular
 * file, is shorter than SECRET_FILE_MIN_BYTES or longer than SECRET_FILE_MAX_BYTES; -EPERM:
 * others than its owner can read or write it; -ENOSYS: the library that makes the codes cannot
 * be loaded; or what open(2) says. *secret is then not given.
 */
int secret_load(struct secret *secret, const char *path, struct err *err);
/* The same of bytes in memory; the length is not judged. */
int secret_derive(struct secret *secret, const void *data, size_t len, struct err *err);
void secret_wipe(struct secret *secret);

/* secret->given. */
void secret_mac(const struct secret *secret, const void *data, size_t len,
		uint8_t mac[SECRET_MAC_BYTES]);
/* In a time that does not depend on where they differ. */
bool secret_mac_equal(const uint8_t a[SECRET_MAC_BYTES], const uint8_t b[SECRET_MAC_BYTES]);

#endif
