// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "store/rados_pieces.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "store/store.h"

#define VERSION "1 "

size_t rados_pieces_format(char out[RADOS_PIECES_TEXT_MAX], const struct rados_pieces *pieces)
{
	return (size_t)snprintf(out, RADOS_PIECES_TEXT_MAX, VERSION "%" PRIu64 " %s", pieces->bytes,
				pieces->token);
}

static bool token_parse(char *token, const char *text)
{
	size_t i;

	for (i = 0; i < RADOS_TOKEN_DIGITS; i++)
		if ((text[i] < '0' || text[i] > '9') && (text[i] < 'a' || text[i] > 'f'))
			return false;
	memcpy(token, text, RADOS_TOKEN_DIGITS);
	token[RADOS_TOKEN_DIGITS] = 0;
	return true;
}

bool rados_pieces_parse(struct rados_pieces *pieces, const char *text, size_t len)
{
	char copy[RADOS_PIECES_TEXT_MAX];
	const char *at = copy + strlen(VERSION);
	uint64_t bytes = 0;

	if (len >= sizeof(copy) || len < strlen(VERSION) + RADOS_TOKEN_DIGITS + 2 ||
	    memchr(text, 0, len))
		return false;
	memcpy(copy, text, len);
	copy[len] = 0;
	if (strncmp(copy, VERSION, strlen(VERSION)) || *at == '0')
		return false;
	for (; *at >= '0' && *at <= '9' && bytes <= STORE_OBJECT_MAX; at++)
		bytes = bytes * 10 + (uint64_t)(*at - '0');
	if (*at != ' ' || bytes <= RADOS_PIECE_BYTES || bytes > STORE_OBJECT_MAX ||
	    strlen(at + 1) != RADOS_TOKEN_DIGITS || !token_parse(pieces->token, at + 1))
		return false;
	pieces->bytes = bytes;
	return true;
}

bool rados_piece_name_parse(const char *name, size_t *head, char *token)
{
	const char *tilde = strrchr(name, '~'), *at;

	if (!tilde || strlen(tilde) < 1 + RADOS_TOKEN_DIGITS + 2 || !token_parse(token, tilde + 1))
		return false;
	at = tilde + 1 + RADOS_TOKEN_DIGITS;
	if (*at != '.' || at[1] == '0')
		return false;
	for (at++; *at >= '0' && *at <= '9'; at++)
		;
	*head = (size_t)(tilde - name);
	return !*at;
}
