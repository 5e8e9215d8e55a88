// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "store/rados_lib.h"

#include <pthread.h>

#define NAMES (sizeof(names) / sizeof(names[0]))

static const char *const names[] = { DYNAMIC_NAMES(RADOS_LIB_FUNCTIONS) };
static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct rados_lib lib;
static struct err lib_err;

static void rados_lib_load_once(void)
{
	static const struct dynamic_library library = { "librados.so.2", "librados2",
							"a store in a Ceph cluster" };

	if (!dynamic_load(&lib, names, NAMES, &library, &lib_err))
		lib_err.code = 0;
}

int rados_lib_load(const struct rados_lib **out, struct err *err)
{
	pthread_once(&once, rados_lib_load_once);
	*out = &lib;
	if (!lib_err.code)
		return 0;
	return err_set(err, lib_err.code, "%s", lib_err.text);
}
