// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "cli/place.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

char *place_in_full(const char *place)
{
	const char *path = strncmp(place, "dir:", 4) ? place : place + 4;
	char cwd[PATH_MAX], *full;

	if (strstr(place, "://"))
		return strdup(place);
	while (path[0] == '.' && path[1] == '/')
		path += 2;
	if (*path == '/' || !*path || !getcwd(cwd, sizeof(cwd)))
		return strdup(path);
	return asprintf(&full, "%s/%s", strcmp(cwd, "/") ? cwd : "", path) < 0 ? NULL : full;
}
