// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Instead of the stores at web servers, in a build without libcurl's or expat's headers.
#include <errno.h>

#include "store/http.h"
#include "store/s3.h"

static int web_none(struct err *err)
{
	return err_set(err, -ENOSYS, "this build has no stores at web servers: install "
		       "libcurl4-openssl-dev and libexpat1-dev, and build again");
}

int http_store_new(struct store **out, const struct store_url *url, const char *credentials,
		   struct err *err)
{
	(void)out, (void)url, (void)credentials;
	return web_none(err);
}

int s3_store_new(struct store **out, const struct store_url *url, const char *credentials,
		 struct err *err)
{
	(void)out, (void)url, (void)credentials;
	return web_none(err);
}
