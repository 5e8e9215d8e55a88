/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Objects in a pool of a Ceph cluster. See docs/stores.md.
 */
#ifndef POSTERN_STORE_RADOS_H
#define POSTERN_STORE_RADOS_H

#include "store/store.h"
#include "store/url.h"

/*
 * rados://POOL/PREFIX, with the parameters namespace, id, conf, keyring and mon_host. keyring: a
 * file, or NULL; the URL's goes over it. Connects to nothing. -EINVAL: such a URL cannot be;
 * -ENOSYS: librados is not there; -ENOMEM.
 */
int rados_store_new(struct store **out, const struct store_url *url, const char *keyring,
		    struct err *err);

#endif
