// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "device/disk/nbd_lib.h"

#include <dlfcn.h>
#include <errno.h>
#include <string.h>

#define LIBRARY "libnbd.so.0"

static const char *const names[] = {
#define NBD_LIB_NAME(name) "nbd_" #name,
	NBD_LIB_FUNCTIONS(NBD_LIB_NAME)
#undef NBD_LIB_NAME
};

int nbd_lib_load(struct nbd_lib *lib, struct err *err)
{
	/* What it has at the ends of threads would outlive it if it went. */
	void *handle = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE), *at;
	unsigned int i;

	_Static_assert(sizeof(*lib) == sizeof(names), "a function each");
	if (!handle)
		return err_set(err, -ENOSYS, "NBD and qcow2 need %s: apt install libnbd0 (%s)", LIBRARY, dlerror());
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		at = dlsym(handle, names[i]);
		if (!at)
			return err_set(err, -ENOSYS, "%s has no %s: libnbd 1.12 or newer is needed (apt install libnbd0)",
				       LIBRARY, names[i]);
		memcpy((char *)lib + i * sizeof(at), &at, sizeof(at));
	}
	return 0;
}
