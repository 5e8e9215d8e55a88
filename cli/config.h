/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A file of options: one JSON object whose keys are long options' names
 * (docs/config.md). Who calls says which keys there are and takes their values
 * as text, as from a command line, so that both are checked by the same code.
 */
#ifndef POSTERN_CLI_CONFIG_H
#define POSTERN_CLI_CONFIG_H

#include <jansson.h>

#include "base/err.h"

#define CONFIG_BYTES_MAX ((size_t)1 << 20)

enum config_type {
	CONFIG_TEXT,		/* a string */
	CONFIG_NUMBER,		/* an integer, not negative */
	CONFIG_SIZE,		/* an integer of bytes, or a string such as "512M" */
	CONFIG_FLAG,		/* a boolean; false is as if it were not there */
	CONFIG_LIST,		/* a string, or an array of strings: taken one by one */
};

struct config_key {
	const char *name;	/* NULL ends a table */
	enum config_type type;
	int option;		/* for `take` */
};

/* Holds what the taken values point into. Zero-initialised it is empty. */
struct config {
	json_t *root;
	json_t *texts;		/* of numbers */
};

/* One value; NULL for a flag. 0 or a negative errno and the error. */
typedef int (*config_take)(void *arg, int option, const char *value, struct err *err);

/*
 * Reads the file and hands over its values in the file's order. 0; -EINVAL:
 * what is in it is wrong, and the error begins with "PATH:LINE: " (without the
 * line where it is not known); another negative errno: it cannot be read.
 */
int config_load(struct config *config, const char *path, const struct config_key *keys,
		config_take take, void *arg, struct err *err);
void config_fini(struct config *config);

/*
 * The line of a key of the outermost object, or 0: not found (spelt with
 * escapes, for one). `text` ends with a NUL.
 */
unsigned int config_key_line(const char *text, const char *key);

#endif
