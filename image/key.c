// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "image/key.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/locked.h"
#include "base/log.h"
#include "base/private_file.h"
#include "image/cipher.h"

#define KEY_ID_TEXT "postern image key id"
/* A file's, with some white space behind its digits. */
#define KEY_CONTENT_MAX 128

struct image_key {
	uint8_t bytes[IMAGE_KEY_BYTES];
	uint8_t id[IMAGE_KEY_ID_BYTES];
	uint8_t content[KEY_CONTENT_MAX]; /* of a file, while it is read */
};

/* ---- what a file holds ---- */

static int key_hex_digit(uint8_t c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool key_take_digits(struct image_key *key, const uint8_t *text, size_t len)
{
	unsigned int i;

	while (len && isspace(text[len - 1]))
		len--;
	if (len != 2 * IMAGE_KEY_BYTES)
		return false;
	for (i = 0; i < IMAGE_KEY_BYTES; i++) {
		int high = key_hex_digit(text[2 * i]), low = key_hex_digit(text[2 * i + 1]);

		if (high < 0 || low < 0)
			return false;
		key->bytes[i] = (uint8_t)(high << 4 | low);
	}
	return true;
}

/* Zeros, or the same byte throughout: nobody's random numbers. */
static bool key_is_idle(const struct image_key *key)
{
	return !memcmp(key->bytes, key->bytes + 1, IMAGE_KEY_BYTES - 1);
}

static int key_take(struct image_key *key, const uint8_t *content, size_t len, const char *where,
		    struct err *err)
{
	if (len == IMAGE_KEY_BYTES)
		memcpy(key->bytes, content, IMAGE_KEY_BYTES);
	else if (!key_take_digits(key, content, len))
		return err_set(err, -EINVAL,
			       "%s: a key is %d bytes, or %d hexadecimal digits, such as "
			       "'openssl rand -hex 32' writes",
			       where, IMAGE_KEY_BYTES, 2 * IMAGE_KEY_BYTES);
	if (key_is_idle(key))
		return err_set(err, -EINVAL, "%s: a key of 32 times the same byte is none", where);
	return cipher_derive(NULL, 0, key->bytes, IMAGE_KEY_BYTES, KEY_ID_TEXT, key->id,
			     IMAGE_KEY_ID_BYTES, err);
}

static int key_begin(struct image_key **out, const char *where, struct err *err)
{
	*out = locked_new(sizeof(**out));
	if (!*out)
		return err_set(err, -ENOMEM, "%s: no memory for a key", where);
	if (!locked_hold(*out, sizeof(**out)))
		log_warn("%s: the key may be swapped: RLIMIT_MEMLOCK (ulimit -l) allows no more "
			 "locked memory",
			 where);
	return 0;
}

int image_key_new(struct image_key **out, const void *content, size_t len, const char *where,
		  struct err *err)
{
	struct image_key *key;
	int r = key_begin(&key, where, err);

	if (r)
		return r;
	r = key_take(key, content, len, where, err);
	if (r) {
		image_key_free(key);
		return r;
	}
	*out = key;
	return 0;
}

/* ---- where it comes from ---- */

/* Until the end, to the key's own memory. */
static int key_fill(struct image_key *key, int fd, const char *where, struct err *err)
{
	size_t len = 0;
	ssize_t n;
	int r;

	do {
		n = read(fd, key->content + len, KEY_CONTENT_MAX - len);
		if (n > 0)
			len += (size_t)n;
	} while ((n > 0 && len < KEY_CONTENT_MAX) || (n < 0 && errno == EINTR));
	if (n < 0)
		return err_errno(err, -errno, "%s", where);
	r = key_take(key, key->content, len, where, err);
	explicit_bzero(key->content, sizeof(key->content));
	return r;
}

static int key_from(struct image_key **out, int fd, const char *where, struct err *err)
{
	struct image_key *key;
	int r = key_begin(&key, where, err);

	if (r)
		return r;
	r = key_fill(key, fd, where, err);
	if (r) {
		image_key_free(key);
		return r;
	}
	*out = key;
	return 0;
}

int image_key_load(struct image_key **out, const char *path, struct err *err)
{
	int fd = private_file_open(path, err), r;

	if (fd < 0)
		return fd;
	r = key_from(out, fd, path, err);
	close(fd);
	return r;
}

int image_key_read(struct image_key **out, int fd, struct err *err)
{
	char where[32];

	snprintf(where, sizeof(where), "descriptor %d", fd);
	return key_from(out, fd, where, err);
}

/* ---- its life ---- */

struct image_key *image_key_copy(const struct image_key *key)
{
	struct image_key *copy = locked_new(sizeof(*copy));

	if (copy)
		memcpy(copy, key, sizeof(*copy));
	return copy;
}

void image_key_free(struct image_key *key)
{
	locked_free(key, sizeof(*key));
}

void image_key_hold(struct image_key *key)
{
	locked_hold(key, sizeof(*key));
}

const uint8_t *image_key_id(const struct image_key *key)
{
	return key->id;
}

const uint8_t *image_key_bytes(const struct image_key *key)
{
	return key->bytes;
}
