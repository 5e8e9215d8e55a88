// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Instead of the stores in Ceph clusters, in a build without librados' headers.
#include <errno.h>

#include "store/rados.h"

int rados_store_new(struct store **out, const struct store_url *url, const char *keyring,
		    struct err *err)
{
	(void)out, (void)url, (void)keyring;
	return err_set(err, -ENOSYS,
		       "this build has no stores in Ceph clusters: install librados-dev, and "
		       "build again");
}
