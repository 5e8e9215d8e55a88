// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// Migration URIs.
#include <stdlib.h>
#include <string.h>

#include "migrate/uri.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);
	struct uri uri;
	struct err err;

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = 0;
	if (!uri_parse(&uri, text, &err) && uri.type == URI_UNIX &&
	    strlen(uri.address.path) >= sizeof(uri.address.path))
		__builtin_trap();
	free(text);
	return 0;
}
