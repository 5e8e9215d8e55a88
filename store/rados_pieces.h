/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * An object that is larger than what a cluster takes at once: its first 64 MiB are a RADOS object
 * of its name, the head, which is written last and says in an attribute what else there is; the
 * rest are pieces of 64 MiB, the last one shorter, called NAME~TOKEN.N, N from 1 on. The token is
 * another for each writer, so that none writes over another's. Pure.
 */
#ifndef POSTERN_STORE_RADOS_PIECES_H
#define POSTERN_STORE_RADOS_PIECES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RADOS_PIECE_BYTES (UINT64_C(64) << 20)
#define RADOS_TOKEN_DIGITS 16
#define RADOS_PIECES_XATTR "postern.pieces"
#define RADOS_PIECES_TEXT_MAX 64

struct rados_pieces {
	uint64_t bytes; /* of the whole object; 0: it is the head alone */
	char token[RADOS_TOKEN_DIGITS + 1];
};

/* The attribute's text, "1 BYTES TOKEN"; returns its length. */
size_t rados_pieces_format(char out[RADOS_PIECES_TEXT_MAX], const struct rados_pieces *pieces);
/* false: it is not one of this version. text ends at len, not with a NUL. */
bool rados_pieces_parse(struct rados_pieces *pieces, const char *text, size_t len);
/* How many there are, the head among them. */
static inline uint64_t rados_pieces_count(const struct rados_pieces *pieces)
{
	return (pieces->bytes + RADOS_PIECE_BYTES - 1) / RADOS_PIECE_BYTES;
}
/*
 * Is this the name of a piece? Then *head is the length of its head's name, and
 * token, of RADOS_TOKEN_DIGITS + 1 bytes, its token.
 */
bool rados_piece_name_parse(const char *name, size_t *head, char *token);

#endif
