/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * How a store is reached, as it is said on a command line: the options of each command that opens
 * one, in one place. A command lists those that it takes, and their help, in its own tables:
 *
 *	static const struct option options[] = { STORE_LONG_OPTIONS, ... };
 *	if (store_args_knows(option))
 *		r = store_args_take(&args, option, optarg, err);
 */
#ifndef POSTERN_CLI_STORE_OPTIONS_H
#define POSTERN_CLI_STORE_OPTIONS_H

#include <limits.h>
#include <stdbool.h>

#include "base/err.h"
#include "store/store.h"

/* Apart from all other options' numbers. */
enum {
	OPT_STORE_CREDENTIALS = 0x1000,
	OPT_STORE_DEADLINE,
	OPT_STORE_CACHE,
	OPT_SECOND_STORE,
	OPT_SECOND_STORE_AFTER,
	OPT_STORE_END,
};

/* clang-format off */
/* Of commands that write alone, which neither a cache nor a second store helps. */
#define STORE_WRITE_LONG_OPTIONS                                                                   \
	{ "store-credentials", required_argument, NULL, OPT_STORE_CREDENTIALS },                   \
	{ "store-deadline", required_argument, NULL, OPT_STORE_DEADLINE }
#define STORE_LONG_OPTIONS                                                                         \
	STORE_WRITE_LONG_OPTIONS,                                                                  \
	{ "store-cache", required_argument, NULL, OPT_STORE_CACHE },                               \
	{ "second-store", required_argument, NULL, OPT_SECOND_STORE },                             \
	{ "second-store-after", required_argument, NULL, OPT_SECOND_STORE_AFTER }

#define STORE_WRITE_OPTIONS_HELP                                                                   \
	"      --store-credentials FILE  who asks the store; else the environment says "           \
	"(docs/stores.md)\n"                                                                       \
	"      --store-deadline MS   what one request to the store may take, with all "            \
	"repetitions, 100 to 3600000 (30000)\n"
#define STORE_OPTIONS_HELP                                                                         \
	STORE_WRITE_OPTIONS_HELP                                                                   \
	"      --store-cache DIR[,limit=SIZE]\n"                                                   \
	"                            keep what is read in a folder of this host; processes "       \
	"share it (10G)\n"                                                                         \
	"      --second-store STORE  another store with the same images, for when the first is "   \
	"late or fails\n"                                                                          \
	"      --second-store-after MS  it is asked when the first has not answered for so long, " \
	"1 to 60000 (50)\n"
/* clang-format on */

/* Zeroed: none was given. */
struct store_args {
	struct store_options store; /* but for the cache's folder */
	char cache[PATH_MAX];
	const char *given; /* such as "--store-cache"; NULL: none */
};

static inline bool store_args_knows(int option)
{
	return option >= OPT_STORE_CREDENTIALS && option < OPT_STORE_END;
}
/*
 * value is borrowed. 0 or -EINVAL; the error names the option and what is
 * allowed.
 */
int store_args_take(struct store_args *args, int option, const char *value, struct err *err);
/* -EINVAL: one was given that needs another. */
int store_args_check(const struct store_args *args, struct err *err);
/* For store_open; points into args. */
struct store_options store_args_options(const struct store_args *args);

#endif
