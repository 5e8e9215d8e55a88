/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The key that a user has for images: 32 random bytes, of which each image's own
 * keys are made (seal.h). It lies in memory that is neither dumped nor swapped
 * (base/locked.h), is wiped when it goes, and no text ever has it. What tells one
 * key from another, in manifests and errors, is its id, which says nothing of it.
 */
#ifndef POSTERN_IMAGE_KEY_H
#define POSTERN_IMAGE_KEY_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define IMAGE_KEY_BYTES 32
#define IMAGE_KEY_ID_BYTES 16
#define IMAGE_KEY_ID_TEXT (2 * IMAGE_KEY_ID_BYTES + 1)

struct image_key;

/*
 * content: a file's, IMAGE_KEY_BYTES as they are, or twice as many hexadecimal
 * digits with white space behind them. where: names it in texts. -EINVAL: it is
 * neither; -ENOSYS: the library for it is missing (the text says what to
 * install); -ENOMEM. The caller wipes content.
 */
int image_key_new(struct image_key **out, const void *content, size_t len, const char *where,
		  struct err *err);
/*
 * From a regular file that its owner alone can read: -EPERM, or what open(2)
 * says. Does not wait but for the disk.
 */
int image_key_load(struct image_key **out, const char *path, struct err *err);
/* From a descriptor until its end, which may be a pipe's: waits for it. Does not close it. */
int image_key_read(struct image_key **out, int fd, struct err *err);
/* Another of the same. NULL: no memory. */
struct image_key *image_key_copy(const struct image_key *key);
/* Wipes it. NULL is allowed. */
void image_key_free(struct image_key *key);
/* After a fork: keeps it from being swapped here, too. */
void image_key_hold(struct image_key *key);

const uint8_t *image_key_id(const struct image_key *key);
/* For seal.c: the key itself. */
const uint8_t *image_key_bytes(const struct image_key *key);

#endif
