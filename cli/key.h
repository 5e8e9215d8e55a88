/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The key of encrypted images, as it is said on a command line: the options of each command that
 * reads or writes images, in one place, as store_options.h has those of stores. The key itself is
 * never on a command line, which is everybody's to read.
 */
#ifndef POSTERN_CLI_KEY_H
#define POSTERN_CLI_KEY_H

#include <stdbool.h>

#include "base/err.h"
#include "image/key.h"

/* Apart from all other options' numbers. */
enum {
	OPT_KEY_FILE = 0x1100,
	OPT_KEY_FD,
	OPT_ALLOW_UNENCRYPTED,
	OPT_KEY_END,
};

/* clang-format off */
#define KEY_LONG_OPTIONS                                                                           \
	{ "key-file", required_argument, NULL, OPT_KEY_FILE },                                     \
	{ "key-fd", required_argument, NULL, OPT_KEY_FD },                                         \
	{ "allow-unencrypted", no_argument, NULL, OPT_ALLOW_UNENCRYPTED }
#define KEY_OPTIONS_HELP                                                                           \
	"      --key-file FILE       images are encrypted with the key in this file: 32 bytes, or "  \
	"64 hexadecimal digits\n"                                                                    \
	"      --key-fd N            the same, read from descriptor N until its end\n"               \
	"      --allow-unencrypted   with a key: read an image that is not encrypted, too\n"
/* clang-format on */

/* Zeroed: none was given. */
struct key_args {
	const char *file;
	int fd;
	bool fd_given, allow_unencrypted;
	const char *given; /* such as "--key-file"; NULL: none */
};

static inline bool key_args_knows(int option)
{
	return option >= OPT_KEY_FILE && option < OPT_KEY_END;
}
/* value is borrowed. 0 or -EINVAL; the error names the option and what is allowed. */
int key_args_take(struct key_args *args, int option, const char *value, struct err *err);
/* -EINVAL: two that exclude each other, or one that needs another. */
int key_args_check(const struct key_args *args, struct err *err);
/*
 * Reads the key, for image_key_free: NULL when none is given. Waits for a
 * descriptor's end, and closes it. image_key_load's and image_key_read's errors.
 */
int key_args_load(const struct key_args *args, struct image_key **key, struct err *err);

#endif
