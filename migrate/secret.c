// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * The codes are Nettle's. It is loaded with the first secret: most machines have none, and its
 * pages are half a megabyte of what would be resident in each.
 *
 * The key is the code, by the file's content, of a fixed text (as HKDF extracts, RFC 5869,
 * 2.2): so the content itself need not be kept, and the same file may serve another purpose.
 */
#include "migrate/secret.h"

#include <errno.h>
#include <nettle/hmac.h>
#include <nettle/version.h>
#include <string.h>
#include <unistd.h>

#include "base/dynamic.h"
#include "base/private_file.h"

#define KEY_TEXT "postern migration, wire version 2"

/* The library of which the header is; its functions' types change with it. */
#if NETTLE_VERSION_MAJOR != 3
#error "this was written for Nettle 3, whose library is libnettle.so.8"
#endif
static const struct dynamic_library library = {
	.file = "libnettle.so.8", .package = "libnettle8", .use = "a secret",
};

/* By the names that the library has; nettle/hmac.h's are macros for them. The last is set last. */
#define NETTLE_FUNCTIONS(f) \
	f(nettle_hmac_sha256_set_key) f(nettle_hmac_sha256_update) f(nettle_hmac_sha256_digest)
static struct {
	DYNAMIC_TABLE(NETTLE_FUNCTIONS)
} nettle;

static int nettle_load(struct err *err)
{
	static const char *const names[] = { DYNAMIC_NAMES(NETTLE_FUNCTIONS) };

	if (nettle.nettle_hmac_sha256_digest)
		return 0;
	return dynamic_load(&nettle, names, sizeof(names) / sizeof(names[0]), &library, err);
}

static void hmac(const void *key, size_t key_len, const void *data, size_t len,
		 uint8_t mac[SECRET_MAC_BYTES])
{
	struct hmac_sha256_ctx ctx;

	nettle.nettle_hmac_sha256_set_key(&ctx, key_len, key);
	nettle.nettle_hmac_sha256_update(&ctx, len, data);
	nettle.nettle_hmac_sha256_digest(&ctx, SECRET_MAC_BYTES, mac);
	explicit_bzero(&ctx, sizeof(ctx));
}

int secret_derive(struct secret *secret, const void *data, size_t len, struct err *err)
{
	int r = nettle_load(err);

	secret->given = false;
	if (r < 0)
		return r;
	hmac(data, len, KEY_TEXT, strlen(KEY_TEXT), secret->key);
	secret->given = true;
	return 0;
}

void secret_wipe(struct secret *secret)
{
	explicit_bzero(secret, sizeof(*secret));
}

void secret_mac(const struct secret *secret, const void *data, size_t len,
		uint8_t mac[SECRET_MAC_BYTES])
{
	hmac(secret->key, sizeof(secret->key), data, len, mac);
}

bool secret_mac_equal(const uint8_t a[SECRET_MAC_BYTES], const uint8_t b[SECRET_MAC_BYTES])
{
	/* volatile: a compiler that saw the loop's purpose could end it early. */
	volatile uint8_t different = 0;
	unsigned int i;

	for (i = 0; i < SECRET_MAC_BYTES; i++)
		different |= a[i] ^ b[i];
	return !different;
}

/* ---- the file ---- */

/* Up to len bytes; the count, or a negative errno. */
static ssize_t read_all(int fd, uint8_t *to, size_t len)
{
	size_t done = 0;
	ssize_t got;

	while (done < len) {
		got = read(fd, to + done, len - done);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (!got)
			break;
		done += (size_t)got;
	}
	return (ssize_t)done;
}

int secret_load(struct secret *secret, const char *path, struct err *err)
{
	uint8_t content[SECRET_FILE_MAX_BYTES + 1];
	ssize_t len;
	int fd = private_file_open(path, err), r = 0;

	secret->given = false;
	if (fd < 0)
		return fd;
	len = read_all(fd, content, sizeof(content));
	if (len < 0)
		r = err_errno(err, (int)len, "%s", path);
	if (!r && (len < SECRET_FILE_MIN_BYTES || len > SECRET_FILE_MAX_BYTES))
		r = err_set(
			err, -EINVAL,
			"%s: a secret has %d to %d bytes, such as 'head -c 32 /dev/urandom | base64' "
			"writes",
			path, SECRET_FILE_MIN_BYTES, SECRET_FILE_MAX_BYTES);
	if (!r)
		r = secret_derive(secret, content, (size_t)len, err);
	explicit_bzero(content, sizeof(content));
	close(fd);
	return r;
}
