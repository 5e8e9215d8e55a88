/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What web.c (whose turn it is) and web_transfer.c (one exchange as a transfer of libcurl's) share.
 */
#ifndef POSTERN_STORE_WEB_INTERNAL_H
#define POSTERN_STORE_WEB_INTERNAL_H

#include "store/curl_lib.h"
#include "store/web.h"

struct web_settings {
	const char *ca_file;
	unsigned int patience_ms;
};

/* Makes a fresh transfer of it, ready to be added. A negative errno with x->err set. */
int web_transfer_begin(const struct curl_lib *lib, CURL *easy, struct web_exchange *x,
		       const struct web_settings *settings);
/* libcurl is done with it, but the handle is not removed yet: fills in what came of it. */
void web_transfer_end(const struct curl_lib *lib, CURL *easy, struct web_exchange *x,
		      CURLcode code);

#endif
