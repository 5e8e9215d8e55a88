/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * libcurl, loaded when a store at a web server is first opened: with what it brings (TLS, name
 * resolution, HTTP/2) it takes more memory than all the rest of a machine that has no such store.
 */
#ifndef POSTERN_STORE_CURL_LIB_H
#define POSTERN_STORE_CURL_LIB_H

/* Its macros would get in the way of a table's members. */
#define CURL_DISABLE_TYPECHECK
#include <curl/curl.h>

#include "base/dynamic.h"

#define CURL_LIB_FUNCTIONS(f)                                                                      \
	f(curl_global_init) f(curl_easy_init) f(curl_easy_cleanup) f(curl_easy_reset)              \
	f(curl_easy_setopt) f(curl_easy_getinfo) f(curl_easy_strerror) f(curl_multi_init)          \
	f(curl_multi_cleanup) f(curl_multi_setopt) f(curl_multi_add_handle)                        \
	f(curl_multi_remove_handle) f(curl_multi_perform) f(curl_multi_poll)                       \
	f(curl_multi_wakeup) f(curl_multi_info_read) f(curl_multi_strerror)                        \
	f(curl_slist_append) f(curl_slist_free_all) f(curl_url) f(curl_url_set) f(curl_url_get)    \
	f(curl_url_cleanup) f(curl_free)

struct curl_lib {
	DYNAMIC_TABLE(CURL_LIB_FUNCTIONS)
};

/*
 * Loads it once a process and makes it ready; *out stays valid. Any thread. -ENOSYS: it is not
 * there, or too old; the error says what to install.
 */
int curl_lib_load(const struct curl_lib **out, struct err *err);

#endif
