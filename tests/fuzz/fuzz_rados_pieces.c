// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// What a cluster says of an object's pieces: an attribute, and names.
#include <stdlib.h>
#include <string.h>

#include "store/rados_pieces.h"
#include "store/store.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1), again[RADOS_PIECES_TEXT_MAX], token[RADOS_TOKEN_DIGITS + 1];
	struct rados_pieces pieces;
	size_t head;

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = 0;
	if (rados_pieces_parse(&pieces, text, size) &&
	    (pieces.bytes > STORE_OBJECT_MAX || rados_pieces_count(&pieces) < 2 ||
	     rados_pieces_format(again, &pieces) != size || memcmp(again, text, size)))
		__builtin_trap();
	if (rados_piece_name_parse(text, &head, token) &&
	    (head >= size || text[head] != '~' || strlen(token) != RADOS_TOKEN_DIGITS))
		__builtin_trap();
	free(text);
	return 0;
}
