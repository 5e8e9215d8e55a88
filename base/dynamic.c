// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "base/dynamic.h"

#include <dlfcn.h>
#include <errno.h>
#include <string.h>

int dynamic_load(void *table, const char *const *names, size_t n,
		 const struct dynamic_library *library, struct err *err)
{
	void *handle = dlopen(library->file, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE), *at;
	size_t i;

	if (!handle)
		return err_set(err, -ENOSYS, "%s needs %s: apt install %s (%s)", library->use,
			       library->file, library->package, dlerror());
	for (i = 0; i < n; i++) {
		at = dlsym(handle, names[i]);
		if (!at)
			return err_set(err, -ENOSYS,
				       "%s needs a newer %s, one with %s: apt install %s",
				       library->use, library->file, names[i], library->package);
		memcpy((char *)table + i * sizeof(at), &at, sizeof(at));
	}
	return 0;
}
