/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A directory of a test's own. In /tmp a name that others can foresee may be
 * there already, or lead elsewhere.
 */
#ifndef POSTERN_TESTS_OWN_DIR_H
#define POSTERN_TESTS_OWN_DIR_H

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct own_dir {
	char path[32];
};

static inline struct own_dir own_dir_new(void)
{
	struct own_dir dir;

	strcpy(dir.path, "/tmp/postern-test-XXXXXX");
	if (!mkdtemp(dir.path))
		abort();
	return dir;
}

/* It is empty. */
static inline void own_dir_free(const struct own_dir *dir)
{
	if (rmdir(dir->path))
		abort();
}

#endif
