// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "device/disk/nbd_lib.h"

int nbd_lib_load(struct nbd_lib *lib, struct err *err)
{
	static const char *const names[] = { DYNAMIC_NAMES(NBD_LIB_FUNCTIONS) };
	static const struct dynamic_library library = {
		"libnbd.so.0", "libnbd0", "a disk at an NBD server or in a qcow2 image"
	};

	return dynamic_load(lib, names, sizeof(names) / sizeof(names[0]), &library, err);
}
