// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// From a URL to a store with its layers, from the top down:
//
//   deadline	of the request, with all that is tried for it
//   cache	where a folder was given
//   second	where another URL was given
//   retry	each of the two by itself
//   deadline	of one attempt
//   store	the folder or server
#include <errno.h>
#include <stddef.h>

#include "store/cache.h"
#include "store/deadline.h"
#include "store/dir.h"
#include "store/http.h"
#include "store/rados.h"
#include "store/retry.h"
#include "store/s3.h"
#include "store/second.h"
#include "store/store.h"
#include "store/url.h"

#define ATTEMPTS 5
#define ATTEMPT_MS 10000
#define DEADLINE_MS 30000
#define FIRST_PAUSE_MS 20
#define MOST_PAUSE_MS 2000
#define SECOND_MS 50
#define CACHE_BYTES (UINT64_C(10) << 30)

static int open_scheme(struct store **out, const struct store_url *url, const char *credentials,
		       struct err *err)
{
	switch (url->scheme) {
	case STORE_DIR:
		return dir_store_new(out, url->path, err);
	case STORE_HTTP:
	case STORE_HTTPS:
		return http_store_new(out, url, credentials, err);
	case STORE_S3:
		return s3_store_new(out, url, credentials, err);
	case STORE_RADOS:
		return rados_store_new(out, url, credentials, err);
	}
	return err_set(err, -EINVAL, "no such store");
}

/* Of what a request has, an attempt leaves enough for two more. */
static unsigned int attempt_ms(const struct store_options *options)
{
	unsigned int all = options->deadline_ms ? options->deadline_ms : DEADLINE_MS;

	if (options->attempt_ms)
		return options->attempt_ms;
	return all / 3 < ATTEMPT_MS ? all / 3 : ATTEMPT_MS;
}

/* One URL, with what makes its failures fewer. */
static int open_one(struct store **out, const char *text, const struct store_options *options,
		    struct timers *timers, struct err *err)
{
	const struct retry_store_config retry = {
		.attempts = options->attempts ? options->attempts : ATTEMPTS,
		.first_ms = FIRST_PAUSE_MS,
		.most_ms = MOST_PAUSE_MS,
	};
	struct store_url url;
	struct store *store;
	int r = store_url_parse(&url, text, err);

	if (!r)
		r = open_scheme(&store, &url, options->credentials, err);
	if (!r)
		r = deadline_store_new(&store, store, timers, attempt_ms(options), err);
	if (!r)
		r = retry_store_new(&store, store, timers, &retry, err);
	if (!r)
		*out = store;
	return r;
}

static int open_second(struct store **store, const struct store_options *options,
		       struct timers *timers, struct err *err)
{
	const struct second_store_config config = {
		.late_ms = options->second_ms ? options->second_ms : SECOND_MS,
	};
	struct second_store *both;
	struct store *other;
	int r = open_one(&other, options->second, options, timers, err);

	if (r < 0) {
		store_free(*store);
		return err_prefix(err, r, "the second store");
	}
	r = second_store_new(&both, *store, other, timers, &config, err);
	if (!r)
		*store = second_store(both);
	return r;
}

static int open_cache(struct store **store, const struct store_options *options, struct err *err)
{
	struct cache_store *cache;
	int r = cache_store_new(&cache, *store, options->cache,
				options->cache_bytes ? options->cache_bytes : CACHE_BYTES, err);

	if (!r)
		*store = cache_store(cache);
	return r;
}

int store_open(struct store **out, const char *url, const struct store_options *options,
	       struct err *err)
{
	static const struct store_options usual;
	struct timers *timers;
	struct store *store;
	int r = timers_new(&timers, err);

	if (r < 0)
		return r;
	options = options ? options : &usual;
	r = open_one(&store, url, options, timers, err);
	if (!r && options->second)
		r = open_second(&store, options, timers, err);
	if (!r && options->cache)
		r = open_cache(&store, options, err);
	if (!r)
		r = deadline_store_new(&store, store, timers,
				       options->deadline_ms ? options->deadline_ms : DEADLINE_MS,
				       err);
	/* The layers have it. */
	timers_put(timers);
	if (!r)
		*out = store;
	return r;
}
