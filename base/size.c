// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "base/size.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/path.h"
#include "base/rotate.h"

#define LIMIT "limit="

int size_parse(uint64_t *bytes, const char *text)
{
	static const char suffixes[] = "KMGT";
	const char *suffix;
	unsigned int shift = 0;
	uint64_t value;
	char *end;

	if (!isdigit((unsigned char)*text))
		return -EINVAL;
	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno)
		return -EINVAL;
	if (*end) {
		suffix = strchr(suffixes, toupper((unsigned char)*end));
		if (!suffix || end[1])
			return -EINVAL;
		shift = 10 * (unsigned int)(suffix - suffixes + 1);
	}
	if (value > UINT64_MAX >> shift)
		return -EINVAL;
	*bytes = value << shift;
	return 0;
}

int size_parse_limited(char *path, size_t room, uint64_t *limit, const char *text, struct err *err)
{
	const char *option = path_option(text);
	size_t len = strlen(text);

	*limit = ROTATE_LIMIT_DEFAULT;
	if (option && strncmp(option, LIMIT, strlen(LIMIT)))
		return err_set(err, -EINVAL,
			       "\"%s\": option \"%s\" is unknown; limit=SIZE is allowed", text,
			       option);
	if (option) {
		len = (size_t)(option - 1 - text);
		if (size_parse(limit, option + strlen(LIMIT)) < 0 ||
		    (*limit && *limit < ROTATE_LIMIT_MIN))
			return err_set(err, -EINVAL, "\"%s\": limit= takes a size from 128K on "
				       "(such as 16M), or 0 for no limit", text);
	}
	if (!len)
		return err_set(err, -EINVAL, "\"%s\" lacks its path", text);
	if (len >= room)
		return err_set(err, -ENAMETOOLONG, "the path is longer than %zu bytes", room - 1);
	memcpy(path, text, len);
	path[len] = '\0';
	if (option && path_option(path))
		return err_set(err, -EINVAL, "\"%s\": one option is allowed", text);
	return 0;
}
