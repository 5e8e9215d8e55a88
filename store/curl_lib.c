// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "store/curl_lib.h"

#include <errno.h>
#include <pthread.h>

#define NAMES (sizeof(names) / sizeof(names[0]))

static const char *const names[] = { DYNAMIC_NAMES(CURL_LIB_FUNCTIONS) };
static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct curl_lib lib;
static struct err lib_err;

/* The flavour that `curl` itself uses, or else the one with GnuTLS. */
static void curl_lib_load_once(void)
{
	static const char use[] = "a store at a web server";
	static const struct dynamic_library openssl = { "libcurl.so.4", "libcurl4", use };
	static const struct dynamic_library gnutls = { "libcurl-gnutls.so.4", "libcurl4", use };

	if (dynamic_load(&lib, names, NAMES, &openssl, &lib_err) < 0 &&
	    dynamic_load(&lib, names, NAMES, &gnutls, NULL) < 0)
		return;
	lib_err.code = 0;
	if (lib.curl_global_init(CURL_GLOBAL_ALL))
		err_set(&lib_err, -ENOSYS, "%s needs libcurl, and that does not start", use);
}

int curl_lib_load(const struct curl_lib **out, struct err *err)
{
	pthread_once(&once, curl_lib_load_once);
	*out = &lib;
	if (!lib_err.code)
		return 0;
	return err_set(err, lib_err.code, "%s", lib_err.text);
}
