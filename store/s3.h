/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A store in a bucket at an S3 server (Amazon's, Ceph's radosgw, and others that speak it): signed
 * requests (SigV4), long objects in parts, LIST. docs/stores.md tells what it makes of what servers
 * do.
 */
#ifndef POSTERN_STORE_S3_H
#define POSTERN_STORE_S3_H

#include "store/store.h"
#include "store/url.h"

/*
 * As http_store_new. Parameters: endpoint (else AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, or Amazon's
 * of the region), region (else AWS_REGION, AWS_DEFAULT_REGION, us-east-1), cafile (else
 * AWS_CA_BUNDLE), timeout.
 */
int s3_store_new(struct store **out, const struct store_url *url, const char *credentials,
		 struct err *err);

#endif
