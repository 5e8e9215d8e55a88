// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "snapshot/place.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "store/store.h"

static int bad(struct err *err, const char *text, const char *why)
{
	return err_set(err, -EINVAL,
		       "%.200s: %s; STORE/NAME is wanted, such as /var/lib/images/web1 or "
		       "s3://bucket/prefix/web1",
		       text, why);
}

/* Where the path begins, and where it ends: what is behind it are parameters. */
static void path_of(const char *text, bool *far, const char **path, size_t *len)
{
	const char *scheme = strstr(text, "://");

	*far = scheme && scheme > text;
	*path = *far ? scheme + 3 : !strncmp(text, "dir:", 4) ? text + 4 : text;
	*len = *far ? strcspn(*path, "?#") : strlen(*path);
}

int snapshot_place_parse(struct snapshot_place *place, const char *text, struct err *err)
{
	const char *path, *slash, *why = NULL;
	size_t len, head, name_len;

	*place = (struct snapshot_place){ 0 };
	path_of(text, &place->far, &path, &len);
	slash = memrchr(path, '/', len);
	if (!slash && place->far)
		return bad(err, text, "it has no name of an image");
	name_len = slash ? len - (size_t)(slash + 1 - path) : len;
	if (!name_len)
		return bad(err, text, "it has no name of an image");
	if (name_len >= sizeof(place->name) || strlen(text) + 2 > sizeof(place->store))
		return bad(err, text, "it is too long");
	memcpy(place->name, slash ? slash + 1 : path, name_len);
	if (!store_name_is_valid(place->name, &why))
		return bad(err, text, why ? why : "its name cannot be an image's");
	/* A folder that is the root keeps its slash; one that is not named is this one. */
	head = slash ? (size_t)(slash - text) : (size_t)(path - text);
	if (slash == path && !place->far)
		head++;
	snprintf(place->store, sizeof(place->store), "%.*s%s%s", (int)head, text,
		 !slash ? "./" : "", path + len);
	return 0;
}
