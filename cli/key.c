// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "cli/key.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

static int key_take_fd(struct key_args *args, const char *text, struct err *err)
{
	unsigned long value;
	char *end;

	errno = 0;
	value = strtoul(text, &end, 10);
	if (!isdigit((unsigned char)*text) || errno || *end || value > INT_MAX)
		return err_set(err, -EINVAL,
			       "--key-fd %.64s: the number of a descriptor is allowed", text);
	args->fd = (int)value;
	args->fd_given = true;
	return 0;
}

int key_args_take(struct key_args *args, int option, const char *value, struct err *err)
{
	switch (option) {
	case OPT_KEY_FILE:
		args->given = "--key-file";
		args->file = value;
		return 0;
	case OPT_KEY_FD:
		args->given = "--key-fd";
		return key_take_fd(args, value, err);
	default:
		args->given = "--allow-unencrypted";
		args->allow_unencrypted = true;
		return 0;
	}
}

int key_args_check(const struct key_args *args, struct err *err)
{
	if (args->file && args->fd_given)
		return err_set(err, -EINVAL,
			       "--key-file and --key-fd: only one of them is allowed");
	if (args->allow_unencrypted && !args->file && !args->fd_given)
		return err_set(err, -EINVAL,
			       "--allow-unencrypted: needs --key-file or --key-fd; without a key "
			       "such images are read anyway");
	return 0;
}

int key_args_load(const struct key_args *args, struct image_key **key, struct err *err)
{
	int r = 0;

	*key = NULL;
	if (args->file)
		r = image_key_load(key, args->file, err);
	if (args->fd_given) {
		r = image_key_read(key, args->fd, err);
		if (args->fd > STDERR_FILENO)
			close(args->fd);
	}
	return r ? err_prefix(err, r, "%s", args->file ? "--key-file" : "--key-fd") : 0;
}
