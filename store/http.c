// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "store/http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/credentials.h"
#include "store/web_store.h"

static void http_begin(struct store *store, struct store_request *request)
{
	struct web_store *ws = (struct web_store *)store;

	switch (request->verb) {
	case STORE_GET:
		web_get(ws, request);
		break;
	case STORE_PUT:
		web_put(ws, request);
		break;
	case STORE_DELETE:
		web_delete(ws, request);
		break;
	case STORE_LIST:
		store_fail(store, request, -ENOTSUP,
			   "a plain web server has no list of its objects: use an S3 store or a folder");
		break;
	}
}

static const struct store_ops http_ops = { "http", http_begin, web_store_cancel, web_store_free };

static char *http_base(const struct store_url *url)
{
	char *path = web_escape(url->path, true), port[16] = "", *base = NULL;

	if (url->port)
		snprintf(port, sizeof(port), ":%u", url->port);
	if (path && asprintf(&base, "%s://%s%s%s", url->scheme == STORE_HTTPS ? "https" : "http",
			     url->host, port, path) < 0)
		base = NULL;
	free(path);
	return base;
}

static bool http_is_loopback(const char *host)
{
	struct in_addr address;

	if (inet_pton(AF_INET, host, &address) == 1)
		return ntohl(address.s_addr) >> 24 == 127;
	return !strcmp(host, "localhost") || !strcmp(host, "[::1]");
}

static int http_login(struct web_store *ws, const struct store_url *url, const char *credentials,
		      struct err *err)
{
	struct web_login *login = web_store_login_new(ws);
	int r;

	if (!login)
		return err_set(err, -ENOMEM, "no memory for a store");
	ws->login = login;
	r = credentials_http(login, credentials, err);
	if (!r && login->kind != WEB_ANONYMOUS && url->scheme == STORE_HTTP &&
	    !http_is_loopback(url->host))
		r = err_set(err, -EACCES, "http://%s: a password is not sent in clear text: use https",
			    url->host);
	return r;
}

int http_store_new(struct store **out, const struct store_url *url, const char *credentials,
		   struct err *err)
{
	static const char *const known[] = { "cafile", "timeout", NULL };
	struct web_config config;
	struct web_store *ws;
	int r = store_url_only(url, known, err);

	if (!r)
		r = web_store_config(&config, url, err);
	if (r < 0)
		return r;
	ws = calloc(1, sizeof(*ws));
	if (!ws)
		return err_set(err, -ENOMEM, "no memory for a store");
	ws->follows = true;
	ws->base = http_base(url);
	r = ws->base ? http_login(ws, url, credentials, err)
		     : err_set(err, -ENOMEM, "no memory for a store");
	if (!r)
		r = web_store_init(ws, &http_ops, url, &config, err);
	if (r < 0) {
		web_store_free(&ws->store);
		return r;
	}
	*out = &ws->store;
	return 0;
}
