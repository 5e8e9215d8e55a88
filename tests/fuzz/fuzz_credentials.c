// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// Files of credentials.
#include <stdlib.h>
#include <string.h>

#include "store/credentials.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1), out[32];
	int r;

	if (!text)
		return 0;
	memcpy(text, data, size);
	r = credentials_find(text, size, "default", "user", out, sizeof(out));
	if (r > 0 || strlen(out) >= sizeof(out) || strchr(out, '\n'))
		__builtin_trap();
	free(text);
	return 0;
}
