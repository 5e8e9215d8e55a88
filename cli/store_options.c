// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "cli/store_options.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/path.h"
#include "base/size.h"
#include "store/url.h"

#define LIMIT "limit="
#define CACHE_LEAST (UINT64_C(16) << 20)

static const char *const names[] = {
	"--store-credentials", "--store-deadline",     "--store-cache",
	"--second-store",      "--second-store-after",
};

static int take_ms(unsigned int *to, const char *name, const char *text, unsigned int min,
		   unsigned int max, struct err *err)
{
	unsigned long value;
	char *end;

	errno = 0;
	value = strtoul(text, &end, 10);
	if (!isdigit((unsigned char)*text) || errno || *end || value < min || value > max)
		return err_set(err, -EINVAL, "%s %.64s: milliseconds from %u to %u are allowed",
			       name, text, min, max);
	*to = (unsigned int)value;
	return 0;
}

/* DIR[,limit=SIZE]; the folder may have commas of its own. */
static int take_cache(struct store_args *args, const char *text, struct err *err)
{
	const char *option = path_option(text);
	size_t len = option ? (size_t)(option - 1 - text) : strlen(text);

	if (option && (strncmp(option, LIMIT, strlen(LIMIT)) ||
		       size_parse(&args->store.cache_bytes, option + strlen(LIMIT)) < 0 ||
		       args->store.cache_bytes < CACHE_LEAST))
		return err_set(err, -EINVAL,
			       "--store-cache: \"%.64s\" is not limit=SIZE, of 16M at least (such "
			       "as limit=20G)",
			       option);
	if (!len || len >= sizeof(args->cache))
		return err_set(err, -EINVAL, "--store-cache: the folder is %s",
			       len ? "too long" : "missing");
	memcpy(args->cache, text, len);
	args->cache[len] = '\0';
	if (option && path_option(args->cache))
		return err_set(err, -EINVAL, "--store-cache: one limit= is allowed");
	return 0;
}

static int take_second(struct store_args *args, const char *text, struct err *err)
{
	struct store_url url;
	int r = store_url_parse(&url, text, err);

	args->store.second = text;
	return r < 0 ? err_prefix(err, r, "--second-store") : 0;
}

int store_args_take(struct store_args *args, int option, const char *value, struct err *err)
{
	const char *name = names[option - OPT_STORE_CREDENTIALS];

	args->given = name;
	switch (option) {
	case OPT_STORE_CREDENTIALS:
		args->store.credentials = value;
		return 0;
	case OPT_STORE_DEADLINE:
		return take_ms(&args->store.deadline_ms, name, value, 100, 3600000, err);
	case OPT_STORE_CACHE:
		return take_cache(args, value, err);
	case OPT_SECOND_STORE:
		return take_second(args, value, err);
	default:
		return take_ms(&args->store.second_ms, name, value, 1, 60000, err);
	}
}

int store_args_check(const struct store_args *args, struct err *err)
{
	if (args->store.second_ms && !args->store.second)
		return err_set(err, -EINVAL, "--second-store-after: needs --second-store");
	return 0;
}

struct store_options store_args_options(const struct store_args *args)
{
	struct store_options store = args->store;

	store.cache = *args->cache ? args->cache : NULL;
	return store;
}
