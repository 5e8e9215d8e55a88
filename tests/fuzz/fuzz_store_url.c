// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// URLs of stores, and names of objects.
#include <stdlib.h>
#include <string.h>

#include "store/store.h"
#include "store/url.h"

static void check_url(const char *text)
{
	struct store_url url;
	struct err err;
	unsigned int i;

	if (store_url_parse(&url, text, &err)) {
		if (err.code >= 0 || !*err.text)
			__builtin_trap();
		return;
	}
	if (url.port > 65535 || strlen(url.path) >= sizeof(url.path) || strpbrk(url.path, "\r\n") ||
	    url.parameters > STORE_URL_PARAMETERS_MAX)
		__builtin_trap();
	if (url.scheme != STORE_DIR &&
	    (!*url.host || strpbrk(url.host, "@/?#% ") || strstr(url.path, "/../")))
		__builtin_trap();
	for (i = 0; i < url.parameters; i++)
		if (store_url_get(&url, url.parameter[i].name) != url.parameter[i].value)
			__builtin_trap();
}

/* Whatever a name begins with is a prefix, and no name leads out of a folder. */
static void check_name(char *text)
{
	size_t n = strlen(text);

	if (!store_name_is_valid(text, NULL))
		return;
	if (!n || n > STORE_NAME_MAX || *text == '/' || strstr(text, "//") ||
	    !strncmp(text, "../", 3) || strstr(text, "/../") || strchr(text, '~'))
		__builtin_trap();
	for (; n; text[--n] = 0)
		if (!store_prefix_is_valid(text, NULL))
			__builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = 0;
	check_url(text);
	check_name(text);
	free(text);
	return 0;
}
