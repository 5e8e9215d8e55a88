// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * The store. Paths are ENDPOINT/BUCKET/PREFIX/OBJECT ("path style"), which all servers know and
 * which works with certificates whatever the bucket is called.
 */
#include "store/s3.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "store/credentials.h"
#include "store/s3_internal.h"

static void s3_begin(struct store *store, struct store_request *request)
{
	struct s3_store *s3 = (struct s3_store *)store;

	switch (request->verb) {
	case STORE_GET:
		web_get(&s3->web, request);
		break;
	case STORE_PUT:
		if (request->len > S3_UPLOAD_BYTES)
			s3_upload(s3, request);
		else
			web_put(&s3->web, request);
		break;
	case STORE_DELETE:
		web_delete(&s3->web, request);
		break;
	case STORE_LIST:
		s3_list(s3, request);
		break;
	}
}

static void s3_free(struct store *store)
{
	struct s3_store *s3 = (struct s3_store *)store;

	free(s3->bucket_url);
	free(s3->prefix);
	free(s3->credentials);
	pthread_mutex_destroy(&s3->renewing);
	web_store_free(store);
}

static const struct store_ops s3_ops = { "s3", s3_begin, web_store_cancel, s3_free };

static void s3_explain(struct web_store *ws, struct web_exchange *x, int *code, char *text,
		       size_t size)
{
	const char *region = x->answer.region;

	if (x->error.len)
		s3_error_read(x->error.data, x->error.len, code, text, size);
	if (region[0] && strcmp(region, ws->login->region)) {
		*code = -EINVAL;
		snprintf(text, size, " (the bucket is in another region: say ?region=%s)", region);
	} else if (*code == -EACCES && ws->login->kind == WEB_ANONYMOUS) {
		snprintf(text, size, ": no credentials are set: AWS_ACCESS_KEY_ID and "
			 "AWS_SECRET_ACCESS_KEY, or a file of credentials (docs/stores.md)");
	}
}

static bool login_is(const struct web_login *a, const struct web_login *b)
{
	return !strcmp(a->user, b->user) && !strcmp(a->secret, b->secret) &&
	       !strcmp(a->session, b->session);
}

/*
 * Session tokens end; whoever renews them writes the file anew. Once a second is enough. Two lanes
 * that come here at once take turns.
 */
static bool s3_renew(struct web_store *ws)
{
	struct s3_store *s3 = (struct s3_store *)ws;
	struct web_login *login;
	bool other = false;

	pthread_mutex_lock(&s3->renewing);
	login = s3->credentials && clock_now_ns() - s3->renewed_ns > NS_PER_SEC ?
			web_store_login_new(ws) : NULL;
	if (login) {
		s3->renewed_ns = clock_now_ns();
		memcpy(login->region, ws->login->region, sizeof(login->region));
		other = !credentials_aws(login, s3->credentials, NULL) &&
			!login_is(login, ws->login);
		if (other)
			ws->login = login;
	}
	pthread_mutex_unlock(&s3->renewing);
	if (login && !other) {
		explicit_bzero(login, sizeof(*login));
		free(login);
	}
	return other;
}

/* A parameter of the URL, or else the first of these variables that is set, or else NULL. */
static const char *s3_setting(const struct store_url *url, const char *name, const char *variable,
			      const char *other)
{
	const char *value = store_url_get(url, name);

	if (!value || !*value)
		value = getenv(variable);
	if ((!value || !*value) && other)
		value = getenv(other);
	return value && *value ? value : NULL;
}

static int s3_region(struct web_login *login, const struct store_url *url, struct err *err)
{
	const char *region = s3_setting(url, "region", "AWS_REGION", "AWS_DEFAULT_REGION"), *at;

	region = region ? region : "us-east-1";
	for (at = region; *at; at++)
		if (!(*at >= 'a' && *at <= 'z') && !(*at >= '0' && *at <= '9') && *at != '-')
			return err_set(err, -EINVAL, "an S3 region has a-z 0-9 - alone");
	if (strlen(region) >= sizeof(login->region))
		return err_set(err, -EINVAL, "the S3 region is too long");
	strcpy(login->region, region);
	return 0;
}

/* The endpoint's URL goes through the same eyes as a plain web server's. malloc'd. */
static int s3_endpoint(char **out, const struct store_url *url, const char *region, struct err *err)
{
	const char *text = s3_setting(url, "endpoint", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL");
	struct store_url endpoint;
	char port[16] = "";
	int r;

	if (!text) {
		r = asprintf(out, "https://s3.%s.amazonaws.com", region);
		return r < 0 ? err_set(err, -ENOMEM, "no memory for a store") : 0;
	}
	r = store_url_parse(&endpoint, text, err);
	if (r < 0)
		return err_prefix(err, r, "the S3 endpoint");
	if ((endpoint.scheme != STORE_HTTP && endpoint.scheme != STORE_HTTPS) || endpoint.path[0] ||
	    endpoint.parameters)
		return err_set(err, -EINVAL, "an S3 endpoint is http://HOST[:PORT] or "
			       "https://HOST[:PORT]");
	if (endpoint.port)
		snprintf(port, sizeof(port), ":%u", endpoint.port);
	r = asprintf(out, "http%s://%s%s", endpoint.scheme == STORE_HTTPS ? "s" : "", endpoint.host,
		     port);
	return r < 0 ? err_set(err, -ENOMEM, "no memory for a store") : 0;
}

static int s3_addresses(struct s3_store *s3, const struct store_url *url, struct err *err)
{
	char *endpoint = NULL, *path = NULL;
	int r = s3_endpoint(&endpoint, url, s3->web.login->region, err);

	if (r < 0)
		return r;
	path = web_escape(url->path, true);
	if (!path || asprintf(&s3->bucket_url, "%s/%s", endpoint, url->host) < 0)
		s3->bucket_url = NULL;
	if (!s3->bucket_url || asprintf(&s3->web.base, "%s%s%s", s3->bucket_url, *path ? "/" : "",
					path) < 0)
		s3->web.base = NULL;
	if (asprintf(&s3->prefix, "%s%s", url->path, *url->path ? "/" : "") < 0)
		s3->prefix = NULL;
	free(path);
	free(endpoint);
	return s3->web.base && s3->prefix ? 0 : err_set(err, -ENOMEM, "no memory for a store");
}

static int s3_set_up(struct s3_store *s3, const struct store_url *url, const char *credentials,
		     struct err *err)
{
	struct web_config config;
	struct web_login *login = web_store_login_new(&s3->web);
	int r = web_store_config(&config, url, err);

	if (!login)
		return err_set(err, -ENOMEM, "no memory for a store");
	s3->web.login = login;
	if (!r)
		r = s3_region(login, url, err);
	if (!r)
		r = s3_addresses(s3, url, err);
	if (!r)
		r = credentials_aws(login, credentials, err);
	if (r < 0)
		return r;
	config.ca_file = s3_setting(url, "cafile", "AWS_CA_BUNDLE", NULL);
	s3->credentials = credentials ? strdup(credentials) : NULL;
	if (credentials && !s3->credentials)
		return err_set(err, -ENOMEM, "no memory for a store");
	s3->web.explain = s3_explain;
	s3->web.renew = s3_renew;
	return web_store_init(&s3->web, &s3_ops, url, &config, err);
}

int s3_store_new(struct store **out, const struct store_url *url, const char *credentials,
		 struct err *err)
{
	static const char *const known[] = { "endpoint", "region", "cafile", "timeout", NULL };
	struct s3_store *s3;
	int r = store_url_only(url, known, err);

	if (r < 0)
		return r;
	s3 = calloc(1, sizeof(*s3));
	if (!s3)
		return err_set(err, -ENOMEM, "no memory for a store");
	pthread_mutex_init(&s3->renewing, NULL);
	r = s3_set_up(s3, url, credentials, err);
	if (r < 0) {
		s3_free(&s3->web.store);
		return r;
	}
	*out = &s3->web.store;
	return 0;
}
